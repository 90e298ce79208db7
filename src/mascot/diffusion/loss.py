"""TODO diffusion.loss."""

from __future__ import annotations

import torch
from torch import Tensor

from mascot.diffusion.noise import gaussian, offset, sample
from mascot.protocols import AttachedMethod, Batch, Condition, Stage
from mascot.training.settings import TrainingSettings


def training_loss(
    stage: Stage, attached: AttachedMethod, batch: Batch, condition: Condition, settings: TrainingSettings
) -> tuple[Tensor, Tensor]:
    """Noise the batch, ask the denoiser, compare its answer with the right one.

    Returns the weighted loss and each example's plain squared error. The prior's examples are weighted by their own levels too.
    """
    x0 = sample(batch.latents, batch.generators)
    level = stage.objective.sample_timesteps(batch.generators).to(x0.device)
    eps = offset(gaussian(x0.shape[1:], batch.generators).to(x0), settings.offset_noise, batch.generators)
    noisy, target = stage.objective.noise(x0, eps, level), stage.objective.target(x0, eps, level)
    seen = stage.image_conditioning(x0, batch.generators)
    if batch.keeps_base_B is not None:  # before what learns is asked: a whole base may be exchanged for this
        rows = batch.keeps_base_B.nonzero().flatten().to(x0.device)
        with attached.base_only(), torch.no_grad():
            chosen = rows.tolist()
            told = condition([batch.prompts[i] for i in chosen], [batch.framings[i] for i in chosen])
            told = {**told, **{name: value[chosen] for name, value in seen.items()}}
            target = target.index_copy(0, rows, stage.predict(noisy[rows], level[rows], told).to(target))
    prediction = stage.predict(noisy, level, {**condition(batch.prompts, batch.framings), **seen})
    error = (prediction - target).square()
    if batch.mask_B1HW is not None:
        error = error * batch.mask_B1HW.to(error)
    error_B = error.flatten(1).mean(1)
    weight_B = batch.weight_B.to(x0.device) * stage.objective.weight(level, settings.min_snr)
    return (weight_B * error_B).sum(), error_B.detach()
