"""The denoising loss of one micro-batch.

Shape suffixes: B batch, C channel, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from mascot.diffusion.noise import add_offset_noise, gaussian, sample_latents
from mascot.protocols import Batch, Condition, Conditioning, Stage

BaseOnly = Callable[[], AbstractContextManager[None]]
"""Switches off everything that is trained while its context lasts (`AttachedMethod.base_only`)."""


def training_loss(
    stage: Stage,
    batch: Batch,
    condition: Condition,
    base_only: BaseOnly,
    *,
    min_snr: float | None = None,
    offset_noise: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Noise the batch, predict, compare, weight (DDPM, Ho et al. 2020, arXiv 2006.11239, eq. 14).

    A flow objective makes this the conditional flow matching loss (Lipman et al. 2022, arXiv
    2210.02747). Class images are weighted by their own timesteps too.

    Args:
        stage: The stage that is trained.
        batch: The examples, with their weights and generators.
        condition: Turns prompts and framings into conditioning.
        base_only: Gives the base model, for examples without a target of their own.
        min_snr: The limit gamma of min-SNR weighting (Hang et al. 2023, arXiv 2303.09556, eq. 8).
        offset_noise: The strength of offset noise (Guttenberg 2023).

    Returns:
        The weighted loss, a scalar, and the unweighted mean squared error of each example, shape B,
        without gradient.
    """
    x0 = sample_latents(batch.latents, batch.generators)
    t = stage.objective.sample_timesteps(batch.generators).to(x0.device)
    eps = add_offset_noise(gaussian(x0.shape[1:], batch.generators).to(x0), offset_noise, batch.generators)
    x_t, target = stage.objective.noise(x0, eps, t), stage.objective.target(x0, eps, t)
    image = stage.image_conditioning(x0, batch.generators)
    target = with_base_predictions(target, stage, batch, x_t, t, condition=condition, image=image, base_only=base_only)
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
    *,
    condition: Condition,
    image: Conditioning,
    base_only: BaseOnly,
) -> Tensor:
    """Replace the targets of the examples in `batch.base_target_B` by the base model's predictions.

    This is prior preservation (Ruiz et al. 2022, arXiv 2208.12242, eq. 2) without class images:
    output preservation. It must run before the trained model predicts, because `base_only` may
    exchange whole weights.
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
    """Compute each example's mean squared error, weighted by cell where a mask is given. Shape B.

    The mean runs over all cells and channels. A mask of mean 1 keeps the scale of DDPM's eq. 14.
    """
    error = (prediction_BCHW - target_BCHW).square()
    if mask_B1HW is not None:
        error = error * mask_B1HW.to(error)
    return error.flatten(1).mean(1)
