"""What a denoiser predicts, measured where its file does not say it.

Shape suffixes: B batch, C channel, H height, W width, N tokens, D width of an embedding.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import torch
from torch import Generator, Tensor

TIMESTEP: Final = 500
"""The timestep at which it is measured: there noise and velocity differ the most."""
SIDE: Final = 32
"""Side of the latents that are denoised, in cells."""
LEVEL: Final = 0.5
"""Absolute value of the plain image's latents, which is usual where they have a deviation of 1."""
MARGIN: Final = 0.5
"""Largest squared error from the velocity, as a share of that from the noise, to believe in it.

It is also the largest share of the velocity's own power: what predicts nothing is no velocity.
"""


@torch.no_grad()
def measured_prediction(unet: Any, states_1ND: Tensor, alphas_cumprod_T: Tensor) -> Literal["epsilon", "v"]:
    """Tell noise from velocity (Salimans and Ho 2022, arXiv 2202.00512) by one prediction.

    A plain image is noised, so that any trained denoiser finds noise and image apart. Its
    prediction is compared with both targets. Random weights fit neither, and count as noise.

    Args:
        unet: The UNet.
        states_1ND: The text encoder's states of an empty prompt.
        alphas_cumprod_T: The noise schedule.
    """
    generator = Generator().manual_seed(0)
    eps = torch.randn(1, unet.config["out_channels"], SIDE, SIDE, generator=generator)
    signs = torch.tensor([1.0, -1.0]).repeat(eps.shape[1])[: eps.shape[1]]
    x0 = LEVEL * signs.view(1, -1, 1, 1).expand_as(eps)
    alpha = alphas_cumprod_T[TIMESTEP]
    signal, noise = alpha.sqrt(), (1 - alpha).sqrt()
    prediction = unet(signal * x0 + noise * eps, torch.tensor([TIMESTEP]), states_1ND, return_dict=False)[0]
    velocity = signal * eps - noise * x0
    of_noise, of_velocity = (prediction - eps).square().mean(), (prediction - velocity).square().mean()
    return "v" if of_velocity < MARGIN * torch.minimum(of_noise, velocity.square().mean()) else "epsilon"
