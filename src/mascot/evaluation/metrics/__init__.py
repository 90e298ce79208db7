"""Metrics as pure functions on embeddings or images, one question a file, and their encoders.

`subject_fidelity` has DINO and CLIP-I, `prompt_fidelity` CLIP-T, `class_drift` PRES and `diversity`
DIV, all from DreamBooth (Ruiz et al. 2023). `memorization` has the copy scores, `foreground`
subject fidelity without backgrounds, `color_leakage` how colors follow the background, and
`frechet` the Frechet distance. `image_encoders` and `image_preprocessing` load and run encoders;
`default_encoders` chooses them for a base.

A file says what it measures, its range, which values are better, and its paper. What is measured of
which images is decided in `evaluation.evaluator` and `evaluation.diagnosis`. All of `evaluation`
and every room above it may import this one.
"""
