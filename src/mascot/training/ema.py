"""Averages of weights during training (`training.ema_decay`), and generation with them."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mascot.errors import UserError


class WeightAverage:
    """Exponential moving average (EMA) of parameters, in float32 (Polyak and Juditsky 1992).

    Update n, from 1, keeps min(decay, (1 + n) / (10 + n)) of the average. So the early, untrained
    weights are soon forgotten, as in TensorFlow's ExponentialMovingAverage.

    Raises:
        UserError: the decay is not between 0 and 1.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        if not 0 < decay < 1:
            raise UserError(
                f"the EMA decay is {decay:g}; give a number between 0 and 1, such as --set training.ema_decay=0.99."
            )
        self.parameters, self.decay, self.updates = tuple(parameters), decay, 0
        self.values = [parameter.detach().to(torch.float32, copy=True) for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Include the present parameters in the average."""
        self.updates += 1
        kept = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for value, parameter in zip(self.values, self.parameters, strict=True):
            value.lerp_(parameter.float(), 1 - kept)

    @torch.no_grad()
    def copy_to_parameters(self) -> None:
        """Overwrite the parameters with the average."""
        for value, parameter in zip(self.values, self.parameters, strict=True):
            parameter.copy_(value)

    def state(self) -> dict[str, Tensor]:
        """Return all that the next update depends on: `updates`, and each average by its index."""
        return {"updates": torch.tensor(self.updates)} | {f"{i}": value for i, value in enumerate(self.values)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned.

        Raises:
            KeyError, RuntimeError: it belongs to other parameters.
        """
        self.updates = int(tensors["updates"])
        for i, value in enumerate(self.values):
            value.copy_(tensors[f"{i}"])


@contextmanager
def averaged(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], average: WeightAverage | None
) -> Generator[None]:
    """Exchange the parameters for averaged ones while the context lasts; then restore their bits.

    These are the weight average's, or those of a schedule-free optimizer that keeps its own
    average. Where there is neither, the parameters stay as they are.
    """
    modes = [group.get("train_mode") for group in optimizer.param_groups]
    if average is None and not any(modes):
        yield
        return
    # A schedule-free optimizer computes one from the other, which rounds; a copy does not.
    # The copy is on the CPU, which has more memory.
    trained = [parameter.detach().to("cpu", copy=True) for parameter in parameters]
    try:
        if average is None:
            # Only a schedule-free optimizer has `eval`.
            optimizer.eval()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        else:
            average.copy_to_parameters()
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, trained, strict=True):
                parameter.copy_(value)
        for group, mode in zip(optimizer.param_groups, modes, strict=True):
            if mode is not None:
                group["train_mode"] = mode
