"""Cost of training on this machine, measured before the first step: seconds, bytes of memory."""

from __future__ import annotations

import time
from collections.abc import Sequence

from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)

from mascot.errors import UserError, is_out_of_memory
from mascot.protocols import Batch
from mascot.training.loop import Loop
from mascot.training.memory_estimate import REMEDIES, MemoryEstimate, activation_bytes, estimate_memory


def time_one_step(loop: Loop, batches: Sequence[Batch]) -> float:
    """Compute the gradients of one step without taking it, and return the seconds it took.

    Raises:
        UserError: the step does not fit the memory.
    """
    started = time.perf_counter()
    loop.set_learning_rates(loop.first)
    try:
        loop.backward(batches)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"a training step does not fit the memory; make it smaller, {REMEDIES}.") from error
    finally:
        loop.optimizer.zero_grad()
    return time.perf_counter() - started


def memory_needs(loop: Loop, batch: Batch) -> MemoryEstimate | None:
    """Estimate a loop's peak memory for micro-batches like this one.

    It runs under fake tensors: nothing is computed. None where some layer cannot run under them,
    such as quantized layers of a library without fake kernels: an estimate must not stop training.
    """
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
        trained = [parameter for parameter in loop.parameters() if parameter.requires_grad]
        try:
            activations = activation_bytes(stage.parts[stage.denoiser], predict, trained)
        except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException):
            return None
    parts = {name: stage.parts[name] for name in (stage.denoiser, *(group.part for group in attached.groups))}
    with attached.base_only():  # a method that exchanges weights keeps both
        return estimate_memory(
            parts, attached.groups, activations, loop.settings.optimizer, average=loop.average is not None
        )
