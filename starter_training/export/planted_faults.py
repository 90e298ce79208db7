"""Faults that the canary must find, as an update of a library or of mascot could bring them.

Each is planted in the running process, and gone when its context ends.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

import diffusers
import torch

from mascot.api.installation import canary
from mascot.diffusion import solvers
from mascot.training import loop, lr_schedule, optimizers

Fault = Callable[[], AbstractContextManager[Any]]


def other_seed() -> AbstractContextManager[Any]:
    """Draw other noise, timesteps and first weights."""
    return patch.object(canary, "SEED", 1)


def other_learning_rate(factor: float) -> Fault:
    """Multiply all learning rates."""

    def scale(schedule: str, step: int, steps: int, warmup_steps: int) -> float:
        return factor * lr_schedule.learning_rate_scale(schedule, step, steps, warmup_steps)

    return lambda: patch.object(loop, "learning_rate_scale", scale)


@contextmanager
def skipped_step() -> Generator[None]:
    """Leave out the fifth step of the optimizer."""
    taken, step = 0, torch.optim.AdamW.step

    def skip(self: torch.optim.AdamW, *arguments: Any, **options: Any) -> Any:
        nonlocal taken
        taken += 1
        return None if taken == 5 else step(self, *arguments, **options)

    with patch.object(torch.optim.AdamW, "step", skip):
        yield


def other_betas() -> AbstractContextManager[Any]:
    """Let the optimizer average gradients over half as many steps."""
    return patch.object(optimizers, "BETAS", (0.8, 0.99))


def unclipped_gradients() -> AbstractContextManager[Any]:
    """Leave long gradients as they are."""
    from accelerate import Accelerator

    def norm_alone(self: Accelerator, parameters: Any, max_norm: float) -> Any:
        del self, max_norm
        return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])

    return patch.object(Accelerator, "clip_grad_norm_", norm_alone)


@contextmanager
def other_noise_schedule() -> Generator[None]:
    """Let the schedule of noise in training have a little more signal at each timestep."""
    from mascot.models.unet_stage import UNetStage

    own = UNetStage.objective
    assert own.fget is not None
    read = own.fget

    def changed(stage: Any) -> Any:
        objective = read(stage)
        return type(objective)(objective.alphas_cumprod_T**0.95, objective.prediction)

    with patch.object(UNetStage, "objective", property(changed)):
        yield


def other_sampler() -> AbstractContextManager[Any]:
    """Let the solver of the image take other timesteps."""
    kind, _ = solvers.SOLVERS["ddim"]
    return patch.dict(solvers.SOLVERS, {"ddim": (kind, {"timestep_spacing": "leading"})})


def other_solver() -> AbstractContextManager[Any]:
    """Let the solver add noise between its steps."""
    step = diffusers.DDIMScheduler.step

    def noisy(self: Any, *arguments: Any, **options: Any) -> Any:
        generator = torch.Generator().manual_seed(0)
        return step(self, *arguments, **{**options, "eta": 0.5, "generator": generator})

    return patch.object(diffusers.DDIMScheduler, "step", noisy)


FAULTS: Mapping[str, Fault] = {
    "another seed of the noise": other_seed,
    "learning rates 5 % higher": other_learning_rate(1.05),
    "learning rates 5 % lower": other_learning_rate(0.95),
    "a skipped optimizer step": skipped_step,
    "another beta of the optimizer": other_betas,
    "gradients that are not clipped": unclipped_gradients,
    "another noise schedule": other_noise_schedule,
    "another spacing of the sampler's timesteps": other_sampler,
    "a sampler that adds noise": other_solver,
}
"""Fault -> how it is planted."""
