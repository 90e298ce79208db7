"""The denoising loop: from seeded noise to x0, through any diffusers scheduler, with guidance.

Shape suffixes: B batch, C channel, H height, W width.
"""

from __future__ import annotations

from torch import Tensor

from mascot.diffusion.guidance import cfg_conditioning, guided_prediction
from mascot.diffusion.image_start import ImageStart
from mascot.protocols import Conditioning, Solver, Stage


def denoise(
    stage: Stage,
    noise_BCHW: Tensor,
    solver: Solver,
    *,
    positive: Conditioning,
    negative: Conditioning,
    guidance_scale: float,
    true_guidance: float = 1.0,
    start: ImageStart | None = None,
) -> Tensor:
    """Solve the probability flow ODE from noise to x0 (Song et al. 2021, arXiv 2011.13456, eq. 13).

    Args:
        stage: The stage whose denoiser predicts.
        noise_BCHW: Standard normal noise.
        solver: The discretization, set up for this size and number of steps (see `Stage.solver`).
        positive: Conditioning of the prompts, one row for each of the B images.
        negative: Conditioning of the negative prompts, one row for each of the B images.
        guidance_scale: The guidance scale; 1 means no guidance (see `guided_prediction`).
        true_guidance: The scale of classifier-free guidance where `guidance_scale` is embedded.
        start: An image to start from, in place of noise alone.

    Returns:
        The denoised latents x0, on the CPU.
    """
    first = 0
    if start is None:
        x = noise_BCHW * float(solver.init_noise_sigma)
    else:
        x, first = start.begin(noise_BCHW, solver)
    scale = true_guidance if stage.embeds_guidance else guidance_scale
    conditioning = cfg_conditioning(stage, positive, negative, scale, guidance_scale)
    for number, timestep in enumerate(solver.timesteps[first:], first):
        prediction = guided_prediction(stage, solver.scale_model_input(x, timestep), timestep, conditioning, scale)
        x = solver.step(prediction, timestep, x, return_dict=False)[0]
        if start is not None:
            x = start.blend(x, noise_BCHW, solver, number + 1)
    return x
