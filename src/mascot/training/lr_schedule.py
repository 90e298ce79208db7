"""Learning-rate schedules: linear warm-up, then constant, linear or cosine decay."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

ScheduleName = Literal["constant", "linear", "cosine"]

SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "constant": lambda _: 1.0,
    "linear": lambda along: 1.0 - along,
    "cosine": lambda along: 0.5 * (1 + math.cos(math.pi * along)),
}
"""Schedule -> function from a fraction of the steps after warm-up to a share of the peak rate."""


def learning_rate_scale(schedule: str, step: int, steps: int, warmup_steps: int) -> float:
    """Compute the share of the peak learning rate at a step.

    It is a pure function of the step, so a resumed run needs no scheduler state. Where the warm-up
    is as long as the run, the peak is never reached.

    Args:
        schedule: A key of SCHEDULES.
        step: The step, from 0.
        steps: All steps, those of the warm-up included.
        warmup_steps: Steps of linear warm-up.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    return SCHEDULES[schedule]((step - warmup_steps) / max(1, steps - warmup_steps))
