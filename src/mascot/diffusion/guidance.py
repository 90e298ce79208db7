"""Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598, eq. 6).

Shape suffixes: B batch, C channel, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mascot.protocols import Conditioning, Stage


def cfg_conditioning(stage: Stage, positive: Conditioning, negative: Conditioning, guidance: float) -> Conditioning:
    """Join the conditioning that one guided prediction needs.

    That is the positive one alone at a scale of 1, the negative above the positive one at other scales (batch 2 x B), and the
    positive one with the scale itself, as `guidance`, where the denoiser embeds the scale.
    """
    if stage.embeds_guidance:
        return {**positive, "guidance": torch.full((len(next(iter(positive.values()))),), guidance)}
    return stack([negative, positive]) if guidance != 1 else positive


def guided_prediction(
    stage: Stage, x_BCHW: Tensor, timestep: Tensor, conditioning: Conditioning, guidance: float
) -> Tensor:
    """Predict with and without the prompt, and extrapolate: negative + guidance x (positive - negative). On the CPU.

    One forward pass does both; a guidance of 1, or a denoiser that embeds its scale, needs the positive prediction alone.
    """
    if guidance == 1 or stage.embeds_guidance:
        return stage.predict(x_BCHW, timestep.expand(len(x_BCHW)), conditioning).cpu()
    prediction = stage.predict(torch.cat([x_BCHW, x_BCHW]), timestep.expand(2 * len(x_BCHW)), conditioning).cpu()
    negative, positive = prediction.chunk(2)
    return negative + guidance * (positive - negative)


def stack(rows: Sequence[Conditioning]) -> Conditioning:
    """Concatenate conditionings of the same names along the batch."""
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
