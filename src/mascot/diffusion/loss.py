"""The denoising loss of one micro-batch.

Shape suffixes: B batch, C channel, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from mascot.diffusion.noise import gaussian, offset, sample
from mascot.protocols import Batch, Condition, Conditioning, Stage

BaseOnly = Callable[[], AbstractContextManager[None]]
"""Switches everything that is trained off while its context lasts (see `AttachedMethod.base_only`)."""


def training_loss(
    stage: Stage,
    batch: Batch,
    condition: Condition,
    base_only: BaseOnly,
    *,
    min_snr: float | None = None,
    offset_noise: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Noise the batch, predict, compare, weight (Ho et al. 2020, arXiv 2006.11239, eq. 14; min-SNR: Hang et al. 2023, eq. 8).

    Returns the weighted loss, a scalar, and each example's unweighted mean squared error, shape B and without gradient.
    Class images are weighted by their own timesteps too.
    """
    x0 = sample(batch.latents, batch.generators)
    t = stage.objective.sample_timesteps(batch.generators).to(x0.device)
    eps = offset(gaussian(x0.shape[1:], batch.generators).to(x0), offset_noise, batch.generators)
    x_t, target = stage.objective.noise(x0, eps, t), stage.objective.target(x0, eps, t)
    image = stage.image_conditioning(x0, batch.generators)
    target = with_base_predictions(target, stage, batch, x_t, t, condition, image, base_only)
    prediction = stage.predict(x_t, t, {**condition(batch.prompts, batch.framings), **image})
    error_B = masked_mse(prediction, target, batch.mask_B1HW)
    weight_B = batch.weight_B.to(x0.device) * stage.objective.weight(t, min_snr)
    return (weight_B * error_B).sum(), error_B.detach()


def with_base_predictions(
    target_BCHW: Tensor,
    stage: Stage,
    batch: Batch,
    x_t_BCHW: Tensor,
    timestep_B: Tensor,
    condition: Condition,
    image: Conditioning,
    base_only: BaseOnly,
) -> Tensor:
    """Replace the target of the examples in `batch.base_target_B` by the base model's own prediction.

    This is prior preservation without class images (output preservation). It runs before the trained model predicts, because
    `base_only` may exchange whole weights.
    """
    if batch.base_target_B is None:
        return target_BCHW
    rows = batch.base_target_B.nonzero().flatten().to(x_t_BCHW.device)
    with base_only(), torch.no_grad():
        chosen = rows.tolist()
        conditioning = condition([batch.prompts[i] for i in chosen], [batch.framings[i] for i in chosen])
        conditioning = {**conditioning, **{name: value[chosen] for name, value in image.items()}}
        prediction = stage.predict(x_t_BCHW[rows], timestep_B[rows], conditioning)
    return target_BCHW.index_copy(0, rows, prediction.to(target_BCHW))


def masked_mse(prediction_BCHW: Tensor, target_BCHW: Tensor, mask_B1HW: Tensor | None) -> Tensor:
    """Mean squared error of each example, its cells weighted by the mask where there is one. Shape B."""
    error = (prediction_BCHW - target_BCHW).square()
    if mask_B1HW is not None:
        error = error * mask_B1HW.to(error)
    return error.flatten(1).mean(1)
