"""Facts of each low-rank layer of a file: its place, kind, rank, alpha, energy and faults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from mascot.adapters.adapter_checks import LARGEST_PRODUCT, is_finite, settings_by_part
from mascot.adapters.formats.layer_kinds import ALPHA, LayerChange, read_layer, split_key
from mascot.adapters.formats.layer_settings import with_alpha
from mascot.adapters.formats.numbered_layers import is_numbered, read_numbered
from mascot.adapters.formats.registry import locate
from mascot.adapters.lora_keys import DOWN, MAGNITUDE, UP
from mascot.api.adapters.inspection.energies import energy_of
from mascot.errors import UserError
from mascot.storage.tensor_files import TensorEntry

HALF: Final = "lack half of their weights"
NOT_FINITE: Final = "have NaN or infinite weights"
ZERO_ALPHA: Final = "have an alpha of 0, which other tools take for the rank or for no change at all"
BEYOND: Final = f"have weights beyond {LARGEST_PRODUCT:g}, which no command applies"
WHOLE_NUMBERS: Final = "hold whole numbers"
UNREAD: Final = "have a form that is not read here"
NUMBERED: Final = "cloneofsimo"
"""Name of the format that numbers its layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A layer of a file, by name alone."""

    part: str
    """The part of the base; empty where no layer of any base is called so."""
    layer: str
    """Our name of the layer, or the file's where there is no part."""
    format: str
    keys: Mapping[str, str]
    """Our name ending -> the tensor's name in the file."""

    @property
    def name(self) -> str:
        """The part and the layer."""
        return f"{self.part}.{self.layer}" if self.part else self.layer


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFacts:
    """What is known of one layer."""

    where: Located
    kind: str = ""
    """`lora`, `dora`, `loha` or `lokr`; empty where the layer cannot be read."""
    convolution: bool = False
    rank: int = 0
    alpha: float = 0.0
    energy: float | None = None
    """Squared Frobenius norm of the weight change; None where the base would be needed."""
    fault: str = ""
    """One of the constants above, which says what is wrong with it; empty where nothing is."""


def locate_layers(entries: Mapping[str, TensorEntry]) -> tuple[list[Located], list[str]]:
    """Group a file's tensors by layer; also returns the names of tensors that are of no layer."""
    if is_numbered(tuple(entries)):
        return locate_numbered(entries)
    grouped: dict[str, dict[str, str]] = {}
    others: list[str] = []
    for key in entries:
        split = split_key(key)
        if split is None:
            others.append(key)
        else:
            grouped.setdefault(split[0], {})[split[1]] = key
    layers: list[Located] = []
    for name, keys in grouped.items():
        found = locate(name)
        if found is None:
            layers.append(Located(part="", layer=name, format="", keys=keys))
        else:
            layers.append(Located(part=found.part, layer=found.layer, format=found.format, keys=keys))
    return layers, others


def locate_numbered(entries: Mapping[str, TensorEntry]) -> tuple[list[Located], list[str]]:
    """Group the tensors of a file that numbers its layers, which are named by shapes alone.

    Raises:
        UserError: the numbers are of no base that is known.
    """
    shapes = {key: torch.empty(entry.shape, device="meta") for key, entry in entries.items()}
    keys = {id(tensor): key for key, tensor in shapes.items()}
    layers: dict[str, dict[str, str]] = {}
    for name, tensor in read_numbered(shapes).items():
        layer = name.removesuffix(DOWN).removesuffix(UP)
        layers.setdefault(layer, {})[DOWN if name.endswith(DOWN) else UP] = keys.pop(id(tensor))
    located = [
        Located(part=name.partition(".")[0], layer=name.partition(".")[2], format=NUMBERED, keys=own)
        for name, own in layers.items()
    ]
    return located, list(keys.values())


def read_facts(
    layers: list[Located], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> Iterator[LayerFacts]:
    """Read one layer after another, and tell its facts.

    Raises:
        UserError: the metadata or the file cannot be read.
    """
    settings = settings_by_part(metadata)
    for where in layers:
        own = {ending: tensors[key] for ending, key in where.keys.items()}
        if fault := find_fault(own):
            yield LayerFacts(where=where, fault=fault)
            continue
        stated = float(own[ALPHA].reshape(-1)[0]) if ALPHA in own and own[ALPHA].numel() else None
        try:
            change = with_alpha(read_layer(where.name, own), where.layer, settings.get(where.part))
            energy = energy_of(change)
        except (UserError, KeyError, RuntimeError):  # shapes that do not belong together
            yield LayerFacts(where=where, fault=UNREAD)
            continue
        yield LayerFacts(
            where=where,
            kind=kind_of(change),
            convolution=any(tensor.ndim == 4 for tensor in change.tensors.values()),
            rank=change.rank,
            alpha=change.alpha,
            energy=energy,
            fault=BEYOND if (energy or 0) > LARGEST_PRODUCT**2 else ZERO_ALPHA if 0 in (stated, change.alpha) else "",
        )


def find_fault(own: Mapping[str, Tensor]) -> str:
    """Tell what makes a layer unreadable, by its tensors; empty where nothing does."""
    if not all(is_finite(tensor) for tensor in own.values()):
        return NOT_FINITE
    if not all(tensor.is_floating_point() for ending, tensor in own.items() if ending != ALPHA):
        return WHOLE_NUMBERS
    return HALF if (DOWN in own) != (UP in own) or set(own) == {ALPHA} else ""


def kind_of(change: LayerChange) -> str:
    """Name the kind of a layer's change."""
    if MAGNITUDE in change.tensors:
        return "dora"
    first = next(iter(change.tensors))
    return next((kind for kind, mark in (("loha", ".hada_"), ("lokr", ".lokr_")) if first.startswith(mark)), "lora")
