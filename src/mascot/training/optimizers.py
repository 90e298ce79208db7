"""Optimizers by name, and the complete state of each, to be saved and restored."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mascot.errors import UserError, import_optional, suggest
from mascot.protocols import ParameterGroup

OptimizerName = Literal["adamw", "adamw8bit", "prodigy", "schedule-free"]
TorchGroups = list[dict[str, Any]]
"""torch's parameter groups: `params`, present learning rate (`lr`) and its peak (`initial_lr`)."""

BETAS = (0.9, 0.99)
"""AdamW's betas. Runs are short, so squared gradients average over 100 steps, not 1000."""
MIN_MULTIPLIER = 0.01
"""Smallest learning rate that Prodigy accepts; a smaller one was meant as a step size."""
BLOCK_8BIT = 256
"""Numbers that share one scale in an 8-bit moment."""
MIN_SIZE_8BIT = 4096
"""Parameters with fewer numbers keep their moments in float32."""


@dataclass(frozen=True, slots=True)
class OptimizerKind:
    """One kind of optimizer."""

    make: Callable[[TorchGroups, float], torch.optim.Optimizer]
    """Makes it for parameter groups and a weight decay."""
    state_bytes: Callable[[int], int]
    """Bytes of its state for a parameter with so many numbers."""
    constant: bool = False
    """Whether it is meant for a constant schedule."""
    multiplies: bool = False
    """Whether learning rates multiply a step size that it finds itself."""
    averages: bool = False
    """Whether it keeps a weight average of its own."""


def make_adamw(groups: TorchGroups, weight_decay: float) -> torch.optim.Optimizer:
    """Make AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101)."""
    return torch.optim.AdamW(groups, betas=BETAS, weight_decay=weight_decay, fused=True)


def make_adamw_8bit(groups: TorchGroups, weight_decay: float) -> torch.optim.Optimizer:
    """Make AdamW with 8-bit moments, one scale for 256 numbers (Dettmers et al. 2022).

    arXiv 2110.02861.
    """
    return import_optional("bitsandbytes").optim.AdamW8bit(
        groups, betas=BETAS, weight_decay=weight_decay, min_8bit_size=MIN_SIZE_8BIT
    )


def make_prodigy(groups: TorchGroups, weight_decay: float) -> torch.optim.Optimizer:
    """Make Prodigy (Mishchenko and Defazio 2024, arXiv 2306.06101).

    It finds one step size, which the learning rates multiply.

    Raises:
        UserError: the learning rates differ, or are too small for multipliers.
    """
    package, rates = import_optional("prodigyopt"), [group["lr"] for group in groups if group["lr"]]
    if len(set(rates)) > 1 or min(rates) < MIN_MULTIPLIER:
        raise UserError(
            "prodigy finds the step size itself: each learning rate multiplies it, is usually 1 and must be the same "
            f"for all, not {', '.join(f'{rate:g}' for rate in rates)}; give --set method.learning_rate=1, and the "
            "method's other learning rates that are not 0 too."
        )
    with redirect_stdout(StringIO()):  # it prints that its weight decay is decoupled
        return package.Prodigy(
            groups, lr=rates[0], betas=BETAS, weight_decay=weight_decay, use_bias_correction=True, safeguard_warmup=True
        )


def make_schedule_free(groups: TorchGroups, weight_decay: float) -> torch.optim.Optimizer:
    """Make schedule-free AdamW (Defazio et al. 2024, arXiv 2405.15682).

    It takes gradients between the last weights and their average. It is meant for a constant
    schedule; warm-up by `learning_rate_scale` replaces its own.
    """
    optimizer = import_optional("schedulefree").AdamWScheduleFree(groups, betas=BETAS, weight_decay=weight_decay)
    optimizer.train()
    return optimizer


def state_bytes_8bit(count: int) -> int:
    """Count the bytes of two 8-bit moments and their scales, or float32 for small parameters."""
    return 2 * (count + 4 * math.ceil(count / BLOCK_8BIT)) if count >= MIN_SIZE_8BIT else 8 * count


OPTIMIZERS: Mapping[OptimizerName, OptimizerKind] = {
    "adamw": OptimizerKind(make_adamw, lambda count: 8 * count),
    "adamw8bit": OptimizerKind(make_adamw_8bit, state_bytes_8bit),
    "prodigy": OptimizerKind(make_prodigy, lambda count: 16 * count, constant=True, multiplies=True),
    "schedule-free": OptimizerKind(make_schedule_free, lambda count: 8 * count, constant=True, averages=True),
}


def build_optimizer(
    name: OptimizerName, groups: Sequence[ParameterGroup], *, weight_decay: float
) -> torch.optim.Optimizer:
    """Make an optimizer over parameter groups, each with its learning rate.

    `initial_lr` keeps the peak rate. A parameter without a gradient is not changed. A learning rate
    of 0 does not stop every optimizer: freeze parameters by `requires_grad`.

    Raises:
        UserError: the name is unknown, the optimizer's package is not installed, or it does not
            accept these learning rates.
    """
    if name not in OPTIMIZERS:
        raise UserError(f"unknown optimizer {name!r}{suggest(name, OPTIMIZERS)}")
    torch_groups = [
        {"params": list(group.parameters), "lr": group.learning_rate, "initial_lr": group.learning_rate}
        for group in groups
    ]
    return OPTIMIZERS[name].make(torch_groups, weight_decay)


def parameters_in(optimizer: torch.optim.Optimizer) -> Iterator[nn.Parameter]:
    """Yield an optimizer's parameters in a fixed order."""
    for group in optimizer.param_groups:
        yield from group["params"]


def state_of(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Copy all that the next step depends on, besides parameters and learning rates.

    Returns:
        Tensors under `<index of the parameter>.<name>`, on the CPU, each in its own memory; and
        facts that JSON keeps exactly. The facts are `parameters` (index -> name -> value) and
        `groups` (for each group, what differs from the optimizer's settings).
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
        "groups": [changed_settings(optimizer, group) for group in optimizer.param_groups],
    }


def changed_settings(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> dict[str, Any]:
    """Select the settings of a parameter group that training has changed.

    Examples are Prodigy's step size and a schedule-free optimizer's weights.
    """
    kept = {name: value for name, value in group.items() if name not in {"params", "lr", "initial_lr"}}
    return {
        name: value
        for name, value in kept.items()
        if name not in optimizer.defaults or optimizer.defaults[name] != value
    }


def restore_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Restore what `state_of` returned into a new optimizer over the same parameters.

    Its next steps have the same bits as those of the saved optimizer.

    Raises:
        ValueError: the state belongs to other parameters.
    """
    parameters = list(parameters_in(optimizer))
    indices = {key.partition(".")[0] for key in tensors} | set(facts["parameters"])
    if len(facts["groups"]) != len(optimizer.param_groups) or not indices <= {str(i) for i in range(len(parameters))}:
        raise ValueError("the optimizer's state belongs to other parameters")
    for i, parameter in enumerate(parameters):
        own = {key.partition(".")[2]: value for key, value in tensors.items() if key.partition(".")[0] == str(i)}
        moments = {name: value.to(parameter.device, copy=True) for name, value in own.items()}
        if state := moments | facts["parameters"].get(str(i), {}):
            optimizer.state[parameter] = state
    for group, changed in zip(optimizer.param_groups, facts["groups"], strict=True):
        group.update(changed)
