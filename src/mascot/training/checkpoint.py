"""Checkpoints: one safetensors file with everything the next training step depends on."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from mascot.errors import UserError, raise_unrelated
from mascot.protocols import AttachedMethod
from mascot.storage.strict_parsing import parse_json_object
from mascot.storage.tensor_files import read_tensors
from mascot.storage.untrusted_files import UnreadableFile
from mascot.training.loop import Loop, parameters_of
from mascot.training.optimizers import restore_state, state_of

STATE: Final = "state.safetensors"
"""File name in a checkpoint's folder."""


def save_checkpoint(loop: Loop, folder: Path) -> None:
    """Write a loop's trained parameters, optimizer state, weight average and step."""
    tensors = {f"parameter.{i}": p.detach() for i, p in enumerate(loop.parameters())}
    moments, facts = state_of(loop.optimizer.optimizer)
    tensors |= {f"optimizer.{name}": value for name, value in moments.items()}
    if loop.average is not None:
        tensors |= {f"average.{name}": value for name, value in loop.average.state().items()}
    tensors["done"] = torch.tensor(loop.done)
    folder.mkdir(parents=True, exist_ok=True)
    content = {key: value.cpu().contiguous() for key, value in tensors.items()}
    save_file(content, folder / STATE, metadata={"optimizer": json.dumps(facts, sort_keys=True)})


def load_checkpoint(loop: Loop, folder: Path) -> None:
    """Restore what `save_checkpoint` wrote into a new loop with the same settings.

    Raises:
        UserError: the checkpoint is damaged or belongs to other settings.
    """
    with reading(unreadable(folder)):
        tensors, metadata = read_tensors(folder / STATE)
        facts = parse_json_object(metadata["optimizer"], finite=False)
        for i, parameter in enumerate(loop.parameters()):
            parameter.data.copy_(tensors[f"parameter.{i}"])
        restore_state(loop.optimizer.optimizer, with_prefix("optimizer.", tensors), facts)
        if loop.average is not None:
            loop.average.restore(with_prefix("average.", tensors))
        loop.done = int(tensors["done"])


@contextmanager
def reading(damaged: UserError) -> Generator[None]:
    """Raise `damaged` where a file is missing, cut off, or holds something else.

    Raises:
        UserError: `damaged`, or that a file may not be read.
    """
    try:
        yield
    except UnreadableFile as error:
        if isinstance(error.__cause__, PermissionError):
            raise UserError(f"{error.path} may not be read; give yourself the permission to read it.") from error
        raise damaged from error
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise_unrelated(error)
        raise damaged from error


def unreadable(folder: Path) -> UserError:
    """Make the error for a damaged checkpoint, which says where training goes on without it."""
    before = [path.name for path in sorted(folder.parent.glob("step*")) if path.name < folder.name]
    then = f"goes on from {before[-1]}" if before else "starts again from its first step"
    return UserError(f"the checkpoint {folder} is damaged; delete that folder, and --resume {then}.")


def save_parameters(attached: AttachedMethod, folder: Path, name: str) -> None:
    """Write an attached method's trained parameters to `<folder>/<name>.safetensors`."""
    tensors = {f"{i}": p.detach().cpu().contiguous() for i, p in enumerate(parameters_of(attached))}
    save_file(tensors, folder / f"{name}.safetensors")


def load_parameters(attached: AttachedMethod, folder: Path, name: str, damaged: UserError) -> None:
    """Restore what `save_parameters` wrote.

    Raises:
        UserError: `damaged`, where the file is missing, damaged, or belongs to other settings.
    """
    with reading(damaged):
        tensors, _ = read_tensors(folder / f"{name}.safetensors", remedy="train again into a new --out")
        for i, parameter in enumerate(parameters_of(attached)):
            parameter.data.copy_(tensors[f"{i}"])


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Select the tensors whose names begin with a prefix, and remove it from the names."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
