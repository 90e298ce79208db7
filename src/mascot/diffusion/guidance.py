"""Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598).

Shape suffixes: B batch, C channel, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mascot.protocols import Conditioning, Stage


def cfg_conditioning(
    stage: Stage, positive: Conditioning, negative: Conditioning, guidance_scale: float, embedded_scale: float
) -> Conditioning:
    """Join the conditioning that one guided prediction needs (Ho and Salimans 2022, eq. 6).

    At a scale of 1 this is the positive conditioning alone. At other scales the negative rows stand
    before the positive ones, a batch of 2 x B. A denoiser that embeds a scale also gets
    `embedded_scale`, as `guidance` (guidance distillation, Meng et al. 2022, arXiv 2210.03142).
    """
    rows = stack_conditioning([negative, positive]) if guidance_scale != 1 else positive
    if stage.embeds_guidance:
        return {**rows, "guidance": torch.full((len(next(iter(rows.values()))),), embedded_scale)}
    return rows


def guided_prediction(
    stage: Stage, x_BCHW: Tensor, timestep: Tensor, conditioning: Conditioning, guidance_scale: float
) -> Tensor:
    """Predict with classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598, eq. 6).

    The result is negative + scale x (positive - negative), on the CPU. The scale is 1 + w in the
    paper's notation, so 1 means no guidance. One forward pass predicts both. At a scale of 1 only
    the positive prediction is made.

    Args:
        stage: The stage whose denoiser predicts.
        x_BCHW: The noisy latents.
        timestep: One timestep for the whole batch.
        conditioning: What `cfg_conditioning` returned for the same scale.
        guidance_scale: The guidance scale.
    """
    if guidance_scale == 1:
        return stage.predict(x_BCHW, timestep.expand(len(x_BCHW)), conditioning).cpu()
    prediction = stage.predict(torch.cat([x_BCHW, x_BCHW]), timestep.expand(2 * len(x_BCHW)), conditioning).cpu()
    negative, positive = prediction.chunk(2)
    return negative + guidance_scale * (positive - negative)


def stack_conditioning(rows: Sequence[Conditioning]) -> Conditioning:
    """Concatenate conditionings with the same names along the batch dimension."""
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
