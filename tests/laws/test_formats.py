"""Every layer of the bases people use keeps its name and its tensors through every format."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from laws.real_architectures import ARCHITECTURES, adaptable_shapes
from mascot.adapters.formats.layer_settings import read_own
from mascot.adapters.formats.registry import FORMATS, architecture_of, read_format, write_format
from mascot.adapters.lora_keys import METADATA_KEY

Shape = tuple[int, ...]


def lora(shape: Shape, rank: int) -> dict[str, Tensor]:
    """Make a LoRA of a layer, linear or convolution."""
    return {
        "lora_A.weight": torch.rand(rank, *shape[1:]),
        "lora_B.weight": torch.rand(shape[0], rank, *[1] * (len(shape) - 2)),
    }


def dora(shape: Shape, rank: int) -> dict[str, Tensor]:
    """Make a DoRA with magnitudes as peft shapes them."""
    linear = len(shape) == 2
    return lora(shape, rank) | {"lora_magnitude_vector": torch.rand(shape[0] if linear else (1, shape[0], 1, 1))}


def loha(shape: Shape, rank: int) -> dict[str, Tensor]:
    """Make a LoHa; a convolution has Tucker cores."""
    if len(shape) == 2:
        sizes = {"a": (shape[0], rank), "b": (rank, shape[1])}
        return {f"hada_w{n}_{side}": torch.rand(size) for n in (1, 2) for side, size in sizes.items()}
    sizes = {"a": (rank, shape[0]), "b": (rank, shape[1])}
    cores = {f"hada_t{n}": torch.rand(rank, rank, *shape[2:]) for n in (1, 2)}
    return cores | {f"hada_w{n}_{side}": torch.rand(size) for n in (1, 2) for side, size in sizes.items()}


def lokr(shape: Shape, rank: int) -> dict[str, Tensor]:
    """Make a LoKr whose second factor is whole in every second layer."""
    first, second = torch.rand(4, 2), (shape[0] // 4, shape[1] // 2 or 1)
    if rank % 2:
        return {"lokr_w1": first, "lokr_w2": torch.rand(*second, *shape[2:])}
    wide = second[1] * (shape[2] * shape[3] if len(shape) > 2 else 1)
    return {"lokr_w1": first, "lokr_w2_a": torch.rand(second[0], rank), "lokr_w2_b": torch.rand(rank, wide)}


KINDS: Mapping[str, Callable[[Shape, int], dict[str, Tensor]]] = {
    "lora": lora,
    "dora": dora,
    "loha": loha,
    "lokr": lokr,
}


def adapter_of(architecture: str, kind: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Make an adapter of every layer, of ranks 1 to 3, with alphas apart from the ranks."""
    tensors: dict[str, Tensor] = {}
    settings: dict[str, dict[str, Any]] = {}
    name = "alpha" if kind in {"loha", "lokr"} else "lora_alpha"
    for number, ((part, layer), shape) in enumerate(adaptable_shapes(architecture).items()):
        rank = 1 + number % 3
        unscaled = kind == "lokr" and rank % 2
        tensors |= {f"{part}.{layer}.{end}": tensor for end, tensor in KINDS[kind](shape, rank).items()}
        own = settings.setdefault(part, {"r": 2, name: 2.0, "rank_pattern": {}, "alpha_pattern": {}})
        pattern = layer if "." in layer else f"^{layer}"
        own["rank_pattern"][pattern] = rank
        own["alpha_pattern"][pattern] = rank if unscaled else rank * (1 + number % 5) / 2
    flat = {f"{part}.{key}": value for part, own in settings.items() for key, value in own.items()}
    return tensors, {METADATA_KEY: json.dumps(flat), "note": "kept"}


PAIRS = [(architecture, kind) for architecture in ARCHITECTURES for kind in KINDS]
QUICK = {("sd1", "lora"), ("sd1", "dora")}


@pytest.mark.parametrize(
    ("architecture", "kind"), [pytest.param(*p, marks=() if p in QUICK else pytest.mark.slow) for p in PAIRS]
)
def test_every_layer_comes_back_bit_for_bit(architecture: str, kind: str) -> None:
    tensors, metadata = adapter_of(architecture, kind)
    before, _ = read_own(tensors, metadata)
    known = architecture_of(tensors) or architecture
    assert known == architecture
    for name in FORMATS:
        written, header = write_format(name, tensors, metadata, known)
        back = read_format(written, header)
        assert back.format == name
        assert back.metadata["note"] == "kept"
        assert back.tensors.keys() == tensors.keys(), name
        assert all(torch.equal(back.tensors[key], tensor) for key, tensor in tensors.items()), name
        after, others = read_own(back.tensors, back.metadata)
        assert not others
        scales = {key: (layer.rank, layer.alpha) for key, layer in before.items()}
        assert {key: (layer.rank, layer.alpha) for key, layer in after.items()} == scales, name
