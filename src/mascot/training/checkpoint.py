"""TODO training.checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mascot.protocols import AttachedMethod

STATE = "state.safetensors"


def parameters_of(attached: AttachedMethod) -> list[torch.nn.Parameter]:
    """What a learner lets learn, in a fixed order."""
    return [parameter for group in attached.groups for parameter in group.parameters]


def save_parameters(attached: AttachedMethod, folder: Path, name: str) -> None:
    """Write what a learner has learned, to go on beside it."""
    save_file({f"{i}": p.detach().cpu().contiguous() for i, p in enumerate(parameters_of(attached))}, folder / f"{name}.safetensors")


def load_parameters(attached: AttachedMethod, folder: Path, name: str) -> None:
    """The inverse of `save_parameters`."""
    tensors = load_file(folder / f"{name}.safetensors")
    for i, parameter in enumerate(parameters_of(attached)):
        parameter.data.copy_(tensors[f"{i}"])


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
