"""The room of the papers: the algebra of diffusion and flow models, on tensors.

Training objectives, seeded noise, the denoising loss, classifier-free guidance, the denoising loop,
its start from an image and the solvers live here. Every public function names its algorithm, with
paper and equation.

What does not live here: base models and their schedules (`models`), the training loop (`training`),
prompts, seeds and image files of a generation (`generation`).

This room imports `protocols` and `errors` alone. `models`, `adapters`, `data` and every room above
them may import it.
"""
