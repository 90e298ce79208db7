"""Optimizers and learning-rate schedules, each a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch

from mascot.protocols import Group

ScheduleName = Literal["constant", "linear", "cosine"]
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda _: 1.0,
    "linear": lambda along: 1.0 - along,
    "cosine": lambda along: 0.5 * (1 + math.cos(math.pi * along)),
}
"""Fraction of the peak rate at a fraction of the run that follows warm-up."""


def rate_scale(schedule: str, step: int, steps: int, warmup: int) -> float:
    """Give the share of the peak rate at a step counted from 0: linear warm-up, then the schedule.

    A pure function of the step, so a resumed run needs no scheduler state.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return SCHEDULES[schedule]((step - warmup) / max(1, steps - warmup))


def adamw(groups: Sequence[Group], *, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW over the groups, each at its own rate; `initial_lr` remembers the peak."""
    settings = [{"params": list(group.parameters), "lr": group.rate, "initial_lr": group.rate} for group in groups]
    return torch.optim.AdamW(settings, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)
