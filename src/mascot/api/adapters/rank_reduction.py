"""What verbs that change ranks share: their options, their result, and the work itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mascot.adapters.weight_changes.decomposition import RankRule, Reduction
from mascot.adapters.weight_changes.low_rank import WeightChange, to_tensors
from mascot.adapters.weight_changes.merging import ScaledAdapter
from mascot.adapters.weight_changes.resizing import Ranks, energy_rows, reduce_layers
from mascot.api.adapters.input_files import show_bytes
from mascot.errors import UserError
from mascot.progress import LayersDone, OnEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class FileWork:
    """What a verb on files wrote."""

    path: Path
    rows: tuple[tuple[str, str], ...]
    """Names and values of what was kept, for a table."""


def check_rule(rule: RankRule) -> None:
    """Refuse ranks and shares that cannot be.

    Raises:
        UserError: one is out of range, or a ratio and an energy are both given.
    """
    if rule.rank is not None and rule.rank < 1:
        raise UserError(f"--rank {rule.rank} is below 1; give 1 or more.")
    if rule.energy is not None and not 0 < rule.energy <= 1:
        raise UserError(f"--energy {rule.energy:g} is not a share above 0 and up to 1; give one such as 0.95.")
    if rule.ratio is not None and not 1 <= rule.ratio < float("inf"):
        raise UserError(f"--ratio {rule.ratio:g} is below 1 or no number; give one such as 10.")
    if rule.ratio is not None and rule.energy is not None:
        raise UserError("--energy and --ratio both choose the ranks; give one of them, with --rank for the most.")


def size_row(adapters: Iterable[ScaledAdapter], count: float, bound: str) -> str:
    """Say how many bytes a file of LoRAs gets, as a `bound` that holds where all inputs are such.

    LoHas and LoKrs need fewer numbers for the same ranks.
    """
    if any(layer.kind != "factors" for one in adapters for layer in one.layers.values()):
        return "that of LoRAs, which is larger than that of LoHas and LoKrs"
    return f"{bound} {show_bytes(count)}"


def reduced_tensors(
    changes: Iterable[tuple[str, WeightChange]], ranks: Ranks, dtype: torch.dtype, on_event: OnEvent
) -> tuple[dict[str, Tensor], tuple[tuple[str, str], ...]]:
    """Reduce the ranks of changes; returns tensors in the order of names, and what was kept."""
    done: dict[str, Reduction] = {}
    tensors: dict[str, Tensor] = {}
    for layer, reduction in reduce_layers(changes, ranks):
        tensors |= to_tensors(layer, reduction.change, dtype)
        done[layer] = reduction
        on_event(LayersDone(layers=len(done)))
    energies = {layer: reduction.energy for layer, reduction in sorted(done.items())}
    found = {layer: reduction.rank for layer, reduction in done.items()}
    return dict(sorted(tensors.items())), energy_rows(energies, found)
