"""Optimizers and learning-rate schedules, each a table; an optimizer's whole state, and the average that it keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mascot.errors import UserError, extra, suggest
from mascot.protocols import ParameterGroup

OptimizerName = Literal["adamw", "adamw8bit", "prodigy", "schedule-free"]


BETAS = (0.9, 0.99)
"""Runs are short: a memory of 100 steps for the squares of gradients, not the usual 1000."""


LEAST_MULTIPLIER = 0.01
"""What is smaller was meant as a step size."""


BLOCK = 256
"""Numbers that share one scale in an 8-bit moment."""


LEAST_IN_8_BITS = 4096
"""Parameters of fewer numbers keep their moments in float32."""


Places = list[dict[str, Any]]
"""What torch calls parameter groups: `params`, their rate now (`lr`) and at its peak (`initial_lr`)."""


@dataclass(frozen=True, slots=True)
class OptimizerKind:
    """One optimizer: how it is made of places and a weight decay, and the bytes of its state for so many numbers of a parameter."""

    make: Callable[[Places, float], torch.optim.Optimizer]
    moments: Callable[[int], int]


def make_adamw(places: Places, decay: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101)."""
    return torch.optim.AdamW(places, betas=BETAS, weight_decay=decay, fused=True)


def make_adamw_in_8_bits(places: Places, decay: float) -> torch.optim.Optimizer:
    """AdamW whose moments are kept in 8 bits, a scale for each 256 numbers (Dettmers et al. 2022, arXiv 2110.02861)."""
    return extra("bitsandbytes").optim.AdamW8bit(places, betas=BETAS, weight_decay=decay, min_8bit_size=LEAST_IN_8_BITS)


def make_prodigy(places: Places, decay: float) -> torch.optim.Optimizer:
    """Prodigy (Mishchenko and Defazio 2024, arXiv 2306.06101): it finds one step size, which the rates multiply.

    Raises:
        UserError: the rates differ, or are step sizes.
    """
    package, rates = extra("prodigyopt"), [place["lr"] for place in places]
    if len(set(rates)) > 1 or min(rates) < LEAST_MULTIPLIER:
        raise UserError(
            f"prodigy finds the step size itself: each rate multiplies it, is usually 1 and must be the same for all, not "
            f"{', '.join(f'{learning_rate:g}' for learning_rate in rates)}; give --set method.learning_rate=1, and the method's other "
            "rates that are not 0 too."
        )
    with redirect_stdout(StringIO()):  # it prints that its weight decay is decoupled
        return package.Prodigy(
            places, lr=rates[0], betas=BETAS, weight_decay=decay, use_bias_correction=True, safeguard_warmup=True
        )


def make_schedule_free(places: Places, decay: float) -> torch.optim.Optimizer:
    """Schedule-free AdamW (Defazio et al. 2024, arXiv 2405.15682): gradients are taken between the last weights and their average.

    It is meant for a constant schedule; a warm-up by `rate_scale` is its own warm-up.
    """
    optimizer = extra("schedulefree").AdamWScheduleFree(places, betas=BETAS, weight_decay=decay)
    optimizer.train()
    return optimizer


def two_bytes_and_scales(count: int) -> int:
    """Bytes of two 8-bit moments of a parameter."""
    return 2 * (count + 4 * math.ceil(count / BLOCK)) if count >= LEAST_IN_8_BITS else 8 * count


OPTIMIZERS: Mapping[OptimizerName, OptimizerKind] = {
    "adamw": OptimizerKind(make_adamw, lambda count: 8 * count),
    "adamw8bit": OptimizerKind(make_adamw_in_8_bits, two_bytes_and_scales),
    "prodigy": OptimizerKind(make_prodigy, lambda count: 16 * count),
    "schedule-free": OptimizerKind(make_schedule_free, lambda count: 8 * count),
}


def build(name: OptimizerName, groups: Sequence[ParameterGroup], *, weight_decay: float) -> torch.optim.Optimizer:
    """Give an optimizer over the groups, each at its own rate; `initial_lr` remembers the peak.

    A parameter without a gradient rests. A rate of 0 does not stop every optimizer: what shall rest needs `requires_grad` off.

    Raises:
        UserError: the name is unknown, the optimizer's package is not installed, or it cannot take these rates.
    """
    if name not in OPTIMIZERS:
        raise UserError(f"unknown optimizer {name!r}{suggest(name, OPTIMIZERS)}")
    places = [
        {"params": list(group.parameters), "lr": group.learning_rate, "initial_lr": group.learning_rate}
        for group in groups
    ]
    return OPTIMIZERS[name].make(places, weight_decay)


def parameters_in(optimizer: torch.optim.Optimizer) -> Iterator[nn.Parameter]:
    """Walk through what an optimizer changes, in a fixed order."""
    for place in optimizer.param_groups:
        yield from place["params"]


def state_of(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Copy all that the next step depends on besides parameters and rates: tensors, and facts that JSON keeps exactly.

    Tensors are on the CPU, each in memory of its own, as `number of the parameter.name`. The facts are `parameters` (number -> name ->
    value) and `groups` (a mapping for each, of what differs from the optimizer's settings).
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for i, parameter in enumerate(parameters_in(optimizer)):
        for name, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{i}.{name}"] = value.detach().to("cpu", copy=True).contiguous()
            else:
                numbers.setdefault(str(i), {})[name] = value
    return tensors, {
        "parameters": numbers,
        "groups": [moved_settings(optimizer, place) for place in optimizer.param_groups],
    }


def moved_settings(optimizer: torch.optim.Optimizer, place: Mapping[str, Any]) -> dict[str, Any]:
    """What training changed in a parameter group: Prodigy's step size, a schedule-free optimizer's weights."""
    kept = {name: value for name, value in place.items() if name not in {"params", "lr", "initial_lr"}}
    return {
        name: value
        for name, value in kept.items()
        if name not in optimizer.defaults or optimizer.defaults[name] != value
    }


def restore_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Put what `state_of` gave into a fresh optimizer over the same parameters: its next steps are the other's, bit for bit.

    Raises:
        ValueError: the state belongs to other parameters.
    """
    parameters = list(parameters_in(optimizer))
    numbers = {key.partition(".")[0] for key in tensors} | set(facts["parameters"])
    if len(facts["groups"]) != len(optimizer.param_groups) or not numbers <= {str(i) for i in range(len(parameters))}:
        raise ValueError("the optimizer's state belongs to other parameters")
    for i, parameter in enumerate(parameters):
        mine = {key.partition(".")[2]: value for key, value in tensors.items() if key.partition(".")[0] == str(i)}
        state = {name: value.to(parameter.device, copy=True) for name, value in mine.items()} | facts["parameters"].get(
            str(i), {}
        )
        if state:
            optimizer.state[parameter] = state
    for place, moved in zip(optimizer.param_groups, facts["groups"], strict=True):
        place.update(moved)
