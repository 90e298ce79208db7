"""The memory that a real pass takes, to compare estimates with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile


def peak_of(call: Callable[[], Tensor], trained: list[nn.Parameter]) -> int:
    """Measure the peak bytes of a real pass by the profiler's record of the allocator.

    Scratch memory and gradients are included.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        torch.autograd.grad(call().float().sum(), trained, allow_unused=True)
    results: Any = record.profiler
    events = sorted(
        (e for e in results.kineto_results.events() if e.name() == "[memory]"), key=lambda event: event.start_ns()
    )
    live = peak = 0
    for event in events:
        live += event.nbytes()
        peak = max(peak, live)
    return peak
