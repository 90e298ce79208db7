"""Other ranks for the layers of an adapter, in batches of equal shapes."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from mascot.adapters.lora_keys import TEXT_PREFIX, write_metadata
from mascot.adapters.weight_changes.decomposition import RankRule, Reduction, reduce_ranks
from mascot.adapters.weight_changes.extraction import Energy
from mascot.adapters.weight_changes.low_rank import MAGNITUDE, DenseChange, FactoredChange, StoredLayer, WeightChange

MOST_BYTES: Final = 48 * 2**20
"""Most bytes of changes that wait until there are more of their shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """The rules of an adapter's layers: linear ones, and convolutions with a kernel above 1 x 1."""

    linear: RankRule
    convolution: RankRule

    def of(self, change: WeightChange) -> RankRule:
        """Return the rule of one layer."""
        return self.convolution if any(side > 1 for side in change.kernel) else self.linear


def reduce_layers(changes: Iterable[tuple[str, WeightChange]], ranks: Ranks) -> Iterator[tuple[str, Reduction]]:
    """Reduce the ranks of layers, those of equal shapes together; their order may change.

    `changes` is read as it goes, and at most MOST_BYTES of it (or one change) are kept.
    """
    waiting: dict[Hashable, list[tuple[str, WeightChange]]] = {}
    sizes: dict[Hashable, int] = {}
    for name, change in changes:
        rule, key = ranks.of(change), shape_key(change)
        waiting.setdefault((rule, key), []).append((name, change))
        sizes[rule, key] = sizes.get((rule, key), 0) + bytes_of(change)
        while sum(sizes.values()) > MOST_BYTES:
            largest = max(sizes, key=sizes.__getitem__)
            del sizes[largest]
            yield from reduced_group(waiting.pop(largest), ranks)
    for group in waiting.values():
        yield from reduced_group(group, ranks)


def reduced_group(group: list[tuple[str, WeightChange]], ranks: Ranks) -> Iterator[tuple[str, Reduction]]:
    """Reduce the ranks of layers of one shape."""
    changes = [change for _, change in group]
    yield from zip((name for name, _ in group), reduce_ranks(changes, ranks.of(changes[0])), strict=True)


def shape_key(change: WeightChange) -> Hashable:
    """Return what changes must have in common to be reduced together."""
    rank = change.down_RN.shape[0] if isinstance(change, FactoredChange) else None
    return change.size, rank


def bytes_of(change: WeightChange) -> int:
    """Count the bytes of a change."""
    if isinstance(change, DenseChange):
        return change.change_MN.nbytes
    return change.up_MR.nbytes + change.down_RN.nbytes


def ranks_in(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Read the rank of each layer of a LoRA off its tensors."""
    ending = ".lora_A.weight"
    return {key.removesuffix(ending): tensor.shape[0] for key, tensor in tensors.items() if key.endswith(ending)}


def settings_metadata(ranks: Mapping[str, int], *, magnitudes: bool = False) -> dict[str, str]:
    """Write the metadata of a LoRA whose layers have these ranks, and alphas equal to them.

    A pattern also matches the end of a longer name, so names without a dot are bound to the start.
    """
    stages: dict[str, dict[str, dict[str, object]]] = {}
    for stage, part in dict.fromkeys(split_layer(layer)[:2] for layer in ranks):
        own = {split_layer(layer)[2]: rank for layer, rank in ranks.items() if split_layer(layer)[:2] == (stage, part)}
        most = max(own.values())
        patterns = {name if "." in name else f"^{name}": rank for name, rank in own.items() if rank != most}
        stages.setdefault(stage, {})[part] = {
            "r": most,
            "lora_alpha": float(most),
            "rank_pattern": patterns,
            "alpha_pattern": {name: float(rank) for name, rank in patterns.items()},
            "target_modules": sorted(own),
            "use_rslora": False,
            "use_dora": magnitudes,
        }
    return {f"{stage}{key}": value for stage, parts in stages.items() for key, value in write_metadata(parts).items()}


def split_layer(layer: str) -> tuple[str, str, str]:
    """Split a layer's name into the prefix of its stage, its part, and its name as peft has it."""
    stage, rest = "", layer
    if layer.startswith("stage"):
        first, _, rest = layer.partition(".")
        stage = f"{first}."
    part, _, name = rest.partition(".")
    return stage, part, name.removeprefix(TEXT_PREFIX)


def magnitude_of(layer: StoredLayer, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a DoRA's magnitudes under their name; empty for other layers."""
    return {layer.keys[MAGNITUDE]: tensors[layer.keys[MAGNITUDE]]} if layer.has_magnitudes else {}


def energy_rows(energies: Mapping[str, Energy], ranks: Mapping[str, int]) -> tuple[tuple[str, str], ...]:
    """List the rank and the energy kept of each part: of layers under their names."""
    rows: list[tuple[str, str]] = []
    for part in dict.fromkeys("".join(split_layer(layer)[:2]) for layer in energies):
        own = [layer for layer in energies if "".join(split_layer(layer)[:2]) == part]
        whole = sum((energies[layer] for layer in own), Energy())
        lowest, highest = min(ranks[layer] for layer in own), max(ranks[layer] for layer in own)
        span = str(lowest) if lowest == highest else f"{lowest} to {highest}"
        rows.append((part, f"{len(own)} layers, rank {span}, {whole.share:.2%} of the energy kept"))
    return tuple(rows)
