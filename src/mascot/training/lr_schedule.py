"""TODO training.lr_schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

ScheduleName = Literal["constant", "linear", "cosine"]


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda _: 1.0,
    "linear": lambda along: 1.0 - along,
    "cosine": lambda along: 0.5 * (1 + math.cos(math.pi * along)),
}
"""Fraction of the peak rate at a fraction of the run that follows warm-up."""


def rate_scale(schedule: str, step: int, steps: int, warmup_steps: int) -> float:
    """Give the share of the peak rate at a step counted from 0: linear warm-up, then the schedule.

    A pure function of the step, so a resumed run needs no scheduler state. Where the warm-up is as long as the run, the peak is
    never reached.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    return SCHEDULES[schedule]((step - warmup_steps) / max(1, steps - warmup_steps))
