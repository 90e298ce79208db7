"""Optimizers and learning-rate schedules, each a table; an optimizer's whole state, and the average that it keeps."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mascot.errors import UserError, suggest
from mascot.protocols import Group

ScheduleName = Literal["constant", "linear", "cosine"]
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda _: 1.0,
    "linear": lambda along: 1.0 - along,
    "cosine": lambda along: 0.5 * (1 + math.cos(math.pi * along)),
}
"""Fraction of the peak rate at a fraction of the run that follows warm-up."""
OptimizerName = Literal["adamw", "adamw8bit", "prodigy", "schedule-free"]
BETAS = (0.9, 0.99)
"""Runs are short: a memory of 100 steps for the squares of gradients, not the usual 1000."""
LEAST_MULTIPLIER = 0.01
"""What is smaller was meant as a step size."""
BLOCK = 256
"""Numbers that share one scale in an 8-bit moment."""
LEAST_IN_8_BITS = 4096
"""Parameters of fewer numbers keep their moments in float32."""


def rate_scale(schedule: str, step: int, steps: int, warmup: int) -> float:
    """Give the share of the peak rate at a step counted from 0: linear warm-up, then the schedule.

    A pure function of the step, so a resumed run needs no scheduler state. Where the warm-up is as long as the run, the peak is
    never reached.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return SCHEDULES[schedule]((step - warmup) / max(1, steps - warmup))


Places = list[dict[str, Any]]
"""What torch calls parameter groups: `params`, their rate now (`lr`) and at its peak (`initial_lr`)."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One optimizer: how it is made of places and a weight decay, and the bytes of its state for so many numbers of a parameter."""

    make: Callable[[Places, float], torch.optim.Optimizer]
    moments: Callable[[int], int]


def extra(package: str) -> Any:
    """Import a package of the extra `optimizers`.

    Raises:
        UserError: it is not installed.
    """
    logging.getLogger(package).setLevel(logging.ERROR)  # bitsandbytes warns of speed-ups for other processors
    try:
        return import_module(package)
    except ImportError as error:
        raise UserError(f"{package} is not installed; run pip install 'mascot[optimizers]'.") from error


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
            f"{', '.join(f'{rate:g}' for rate in rates)}; give --set method.rate=1, and the method's other "
            "rates that are not 0 too."
        )
    with redirect_stdout(StringIO()):  # it prints that its weight decay is decoupled
        return package.Prodigy(places, lr=rates[0], betas=BETAS, weight_decay=decay, use_bias_correction=True, safeguard_warmup=True)


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


OPTIMIZERS: Mapping[OptimizerName, Kind] = {
    "adamw": Kind(make_adamw, lambda count: 8 * count),
    "adamw8bit": Kind(make_adamw_in_8_bits, two_bytes_and_scales),
    "prodigy": Kind(make_prodigy, lambda count: 16 * count),
    "schedule-free": Kind(make_schedule_free, lambda count: 8 * count),
}


def build(name: OptimizerName, groups: Sequence[Group], *, weight_decay: float) -> torch.optim.Optimizer:
    """Give an optimizer over the groups, each at its own rate; `initial_lr` remembers the peak.

    A parameter without a gradient rests. A rate of 0 does not stop every optimizer: what shall rest needs `requires_grad` off.

    Raises:
        UserError: the name is unknown, the optimizer's package is not installed, or it cannot take these rates.
    """
    if name not in OPTIMIZERS:
        raise UserError(f"unknown optimizer {name!r}{suggest(name, OPTIMIZERS)}")
    places = [{"params": list(group.parameters), "lr": group.rate, "initial_lr": group.rate} for group in groups]
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
    return tensors, {"parameters": numbers, "groups": [moved_settings(optimizer, place) for place in optimizer.param_groups]}


def moved_settings(optimizer: torch.optim.Optimizer, place: Mapping[str, Any]) -> dict[str, Any]:
    """What training changed in a parameter group: Prodigy's step size, a schedule-free optimizer's weights."""
    kept = {name: value for name, value in place.items() if name not in {"params", "lr", "initial_lr"}}
    return {name: value for name, value in kept.items() if name not in optimizer.defaults or optimizer.defaults[name] != value}


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
        state = {name: value.to(parameter.device, copy=True) for name, value in mine.items()} | facts["parameters"].get(str(i), {})
        if state:
            optimizer.state[parameter] = state
    for place, moved in zip(optimizer.param_groups, facts["groups"], strict=True):
        place.update(moved)


class Average:
    """An exponential moving average of parameters, in float32 (Polyak and Juditsky 1992).

    At update n, from 1, the average keeps min(decay, (1 + n) / (10 + n)) of itself, so that the first weights, which know nothing yet,
    are soon forgotten (as TensorFlow's ExponentialMovingAverage).

    Raises:
        UserError: the decay is not between 0 and 1.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        if not 0 < decay < 1:
            raise UserError(f"the average's decay is {decay:g}; give a number between 0 and 1, such as --set training.ema=0.99.")
        self.parameters, self.decay, self.updates = tuple(parameters), decay, 0
        self.values = [parameter.detach().to(torch.float32, copy=True) for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters in, as they are now."""
        self.updates += 1
        kept = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for value, parameter in zip(self.values, self.parameters, strict=True):
            value.lerp_(parameter.float(), 1 - kept)

    @torch.no_grad()
    def show(self) -> None:
        """Make the parameters the average."""
        for value, parameter in zip(self.values, self.parameters, strict=True):
            parameter.copy_(value)

    def state(self) -> dict[str, Tensor]:
        """All that the next update depends on: `updates`, and each average under its number."""
        return {"updates": torch.tensor(self.updates)} | {f"{i}": value for i, value in enumerate(self.values)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave.

        Raises:
            KeyError, RuntimeError: it belongs to other parameters.
        """
        self.updates = int(tensors["updates"])
        for i, value in enumerate(self.values):
            value.copy_(tensors[f"{i}"])


@contextmanager
def averaged(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], average: Average | None) -> Generator[None]:
    """Let the parameters hold what should draw and be kept, for as long as the block lasts; then what trains again, to the bit.

    That is the average's weights where there is one, else a schedule-free optimizer's own average, else what trains.
    """
    modes = [place.get("train_mode") for place in optimizer.param_groups]
    if average is None and not any(modes):
        yield
        return
    # A schedule-free optimizer computes one from the other, which rounds; a copy does not. It waits where there is most room.
    training = [parameter.detach().to("cpu", copy=True) for parameter in parameters]
    try:
        if average is None:
            optimizer.eval()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType] - only such an optimizer has it
        else:
            average.show()
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, training, strict=True):
                parameter.copy_(value)
        for place, mode in zip(optimizer.param_groups, modes, strict=True):
            if mode is not None:
                place["train_mode"] = mode
