"""The denoising loop: from seeded noise to x0, through any diffusers scheduler, with classifier-free guidance.

Shape suffixes: B batch, C channel, H height, W width.
"""

from __future__ import annotations

from torch import Tensor

from mascot.diffusion.guidance import cfg_conditioning, guided_prediction
from mascot.protocols import Conditioning, Solver, Stage


def denoise(
    stage: Stage, noise_BCHW: Tensor, solver: Solver, *, positive: Conditioning, negative: Conditioning, guidance: float
) -> Tensor:
    """Solve the probability flow ODE from standard normal noise to x0 (Song et al. 2021, arXiv 2011.13456, eq. 13).

    `solver` holds the discretization (see `Stage.solver`); `positive` and `negative` have a row for each of the B images.
    """
    x = noise_BCHW * float(solver.init_noise_sigma)
    conditioning = cfg_conditioning(stage, positive, negative, guidance)
    for timestep in solver.timesteps:
        prediction = guided_prediction(stage, solver.scale_model_input(x, timestep), timestep, conditioning, guidance)
        x = solver.step(prediction, timestep, x, return_dict=False)[0]
    return x
