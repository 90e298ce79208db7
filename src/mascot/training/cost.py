"""What training costs on this machine, found before the first step: seconds of a step, bytes of memory."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from mascot.errors import UserError
from mascot.protocols import Batch
from mascot.training.loop import Loop
from mascot.training.memory_estimate import REMEDIES, MemoryEstimate, activations_of, estimate


def time_one_step(loop: Loop, batches: Sequence[Batch]) -> float:
    """Compute a step's gradients without taking the step; returns its seconds.

    Raises:
        UserError: the accelerator's memory does not hold it.
    """
    started = time.perf_counter()
    loop.set_learning_rates(loop.first)
    try:
        loop.backward(batches)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"a training step does not fit the accelerator's memory; make it smaller, {REMEDIES}."
        ) from error
    finally:
        loop.optimizer.zero_grad()
    return time.perf_counter() - started


def memory_needs(loop: Loop, batch: Batch) -> MemoryEstimate:
    """Estimate the peak memory of a loop for micro-batches like this one, under fake tensors: nothing is computed."""
    stage, attached = loop.stage, loop.attached
    x0 = batch.latents.mean_BCHW
    timestep = stage.objective.sample_timesteps(batch.generators).to(x0.device)

    def predict() -> Tensor:
        conditioning = {
            **loop.condition(batch.prompts, batch.framings),
            **stage.image_conditioning(x0, batch.generators),
        }
        return stage.predict(x0, timestep, conditioning)

    loop.set_learning_rates(loop.first)
    with loop.accelerator.autocast():
        learning = [parameter for parameter in loop.parameters() if parameter.requires_grad]
        activations = activations_of(stage.parts[stage.denoiser], predict, learning)
    parts = {name: stage.parts[name] for name in (stage.denoiser, *(group.part for group in attached.groups))}
    with attached.base_only():  # a method that exchanges weights keeps both
        return estimate(parts, attached.groups, activations, loop.settings.optimizer, average=loop.average is not None)
