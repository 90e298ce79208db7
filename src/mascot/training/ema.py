"""TODO training.ema_decay."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mascot.errors import UserError


class WeightAverage:
    """An exponential moving average of parameters, in float32 (Polyak and Juditsky 1992).

    At update n, from 1, the average keeps min(decay, (1 + n) / (10 + n)) of itself, so that the first weights, which know nothing yet,
    are soon forgotten (as TensorFlow's ExponentialMovingAverage).

    Raises:
        UserError: the decay is not between 0 and 1.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        if not 0 < decay < 1:
            raise UserError(
                f"the average's decay is {decay:g}; give a number between 0 and 1, such as --set training.ema_decay=0.99."
            )
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
def averaged(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], average: WeightAverage | None
) -> Generator[None]:
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
