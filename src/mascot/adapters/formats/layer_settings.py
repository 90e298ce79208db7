"""Ranks and alphas of an adapter's layers, read from our metadata and written into it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from torch import Tensor

from mascot.adapters.adapter_checks import part_of, settings_by_part
from mascot.adapters.formats.layer_kinds import LayerChange, read_layer, split_key
from mascot.adapters.lora_keys import (
    MAGNITUDE,
    METADATA_KEY,
    TEXT_PREFIX,
    PartSettings,
    find_pattern,
    name_in_file,
    write_metadata,
)

Layers = dict[tuple[str, str], LayerChange]
"""(Part, layer) -> its change, in the order of the file."""


def read_own(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[Layers, dict[str, Tensor]]:
    """Read the layers of tensors in our form, and return what is no layer beside them.

    Raises:
        UserError: the metadata cannot be read, or a layer is not whole.
    """
    settings = settings_by_part(metadata)
    grouped: dict[tuple[str, str], dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        split = split_key(key)
        if split is None:
            others[key] = tensor
        else:
            part = part_of(split[0])
            layer = name_in_file(part, split[0].removeprefix(f"{part}."))
            grouped.setdefault((part, layer), {})[split[1]] = tensor
    layers = {
        (part, layer): with_alpha(read_layer(f"{part}.{layer}", own), layer, settings.get(part))
        for (part, layer), own in grouped.items()
    }
    return layers, others


def with_alpha(change: LayerChange, layer: str, settings: PartSettings | None) -> LayerChange:
    """Give a layer the alpha of its part's settings; rsLoRA's becomes a plain one."""
    if settings is None:
        return change
    if not change.is_product:
        alpha = settings.alpha_of(layer, change.rank)
        if settings.use_rslora:
            alpha *= math.sqrt(change.rank)
        return LayerChange(tensors=change.tensors, rank=change.rank, alpha=alpha)
    rank = (settings.rank_of(layer) if change.is_whole else None) or change.rank
    alpha = find_pattern(settings.alpha_pattern or {}, layer, settings.alpha)
    return LayerChange(tensors=change.tensors, rank=rank, alpha=float(rank) if alpha is None else alpha)


def write_own(layers: Layers) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Write layers in our form: tensors, and metadata with their ranks and alphas."""
    tensors = {
        f"{part}.{layer}{ending}": tensor
        for (part, layer), change in layers.items()
        for ending, tensor in change.tensors.items()
    }
    stages: dict[str, dict[str, dict[str, LayerChange]]] = {}
    for (part, layer), change in layers.items():
        stage, _, name = part.rpartition(".")
        parts = stages.setdefault(f"{stage}." if stage else "", {})
        parts.setdefault(name, {})[layer.removeprefix(TEXT_PREFIX)] = change
    metadata = {
        f"{stage}{key}": value
        for stage, parts in stages.items()
        for key, value in write_metadata({part: settings_of(changes) for part, changes in parts.items()}).items()
    }
    return tensors, metadata


def settings_of(changes: Mapping[str, LayerChange]) -> dict[str, object]:
    """Write one part's settings, as peft's configuration has them.

    The commonest rank and alpha hold for all layers but those in the patterns. A pattern also
    matches the end of a longer name, so names without a dot are bound to the start.
    """
    rank = Counter(change.rank for change in changes.values()).most_common(1)[0][0]
    alpha = Counter(change.alpha for change in changes.values()).most_common(1)[0][0]
    settings: dict[str, object] = {
        "r": rank,
        "target_modules": sorted(changes),
        "rank_pattern": {pattern_of(name): own.rank for name, own in changes.items() if own.rank != rank},
        "alpha_pattern": {pattern_of(name): own.alpha for name, own in changes.items() if own.alpha != alpha},
    }
    if any(change.is_product for change in changes.values()):
        settings["alpha"] = alpha
    if not all(change.is_product for change in changes.values()):
        settings["lora_alpha"] = alpha
        settings["use_rslora"] = False
        settings["use_dora"] = any(MAGNITUDE in change.tensors for change in changes.values())
    return settings


def pattern_of(layer: str) -> str:
    """Write the pattern that matches one layer."""
    return layer if "." in layer else f"^{layer}"


def without_settings(metadata: Mapping[str, str]) -> dict[str, str]:
    """Leave out what says ranks and alphas in our form, which another form says elsewhere."""
    return {key: value for key, value in metadata.items() if not key.endswith(METADATA_KEY)}
