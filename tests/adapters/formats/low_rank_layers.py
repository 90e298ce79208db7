"""Random low-rank layers of every kind, and the dense changes of weights that they stand for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from peft.tuners.lokr.layer import factorization
from torch import Tensor

from mascot.adapters.formats.fused_layers import scale_of
from mascot.adapters.formats.layer_kinds import LayerChange

KINDS = ("lora", "dora", "loha", "lokr")


def layer_of(tensors: Mapping[str, Tensor], rank: int, alpha: float) -> LayerChange:
    """Make a layer of given tensors."""
    return LayerChange(tensors=tensors, rank=rank, alpha=alpha)


def random_layer(
    kind: str, shape: tuple[int, ...], rank: int, alpha: float, generator: torch.Generator, *, full: bool = False
) -> LayerChange:
    """Make a layer of random numbers, as peft would name and shape its tensors."""
    outputs, inputs = shape[:2]

    def draw(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator)

    if kind in {"lora", "dora"}:
        tensors = {
            ".lora_A.weight": draw(rank, *shape[1:]),
            ".lora_B.weight": draw(outputs, rank, *[1] * len(shape[2:])),
        }
        magnitudes = {".lora_magnitude_vector": draw(outputs).abs() + 0.5}
        return layer_of(tensors | (magnitudes if kind == "dora" else {}), rank, alpha)
    if kind == "loha":
        names = {f".hada_w{n}_{half}" for n in (1, 2) for half in "ab"}
        sizes = {"a": (outputs, rank), "b": (rank, inputs)}
        return layer_of({name: draw(*sizes[name[-1]]) for name in sorted(names)}, rank, alpha)
    (rows, more_rows), (columns, more_columns) = factorization(outputs), factorization(inputs)
    second = (
        {".lokr_w2": draw(more_rows, more_columns)}
        if full
        else {".lokr_w2_a": draw(more_rows, rank), ".lokr_w2_b": draw(rank, more_columns)}
    )
    return layer_of({".lokr_w1": draw(rows, columns), **second}, rank, alpha)


def change(layer: LayerChange) -> Tensor:
    """Compute the dense change of a linear layer's weight, in float64."""
    tensors: Mapping[str, Tensor] = {name: tensor.double() for name, tensor in layer.tensors.items()}

    def product(first: str, second: str) -> Tensor:
        return tensors[first] @ tensors[second]

    if ".lora_A.weight" in tensors:
        dense = tensors[".lora_B.weight"].flatten(1) @ tensors[".lora_A.weight"].flatten(1)
    elif ".hada_w1_a" in tensors:
        dense = product(".hada_w1_a", ".hada_w1_b") * product(".hada_w2_a", ".hada_w2_b")
    else:
        first, second = (
            tensors[name] if name in tensors else product(f"{name}_a", f"{name}_b") for name in (".lokr_w1", ".lokr_w2")
        )
        dense = torch.kron(first, second)
    return dense * float(scale_of(layer))


def applied(weight: Tensor, layer: LayerChange) -> Tensor:
    """Apply a change to a weight as its method defines it; a DoRA sets the norm of each row."""
    changed = weight.double() + change(layer)
    magnitudes = layer.tensors.get(".lora_magnitude_vector")
    return changed if magnitudes is None else changed * (magnitudes.double() / changed.norm(dim=1))[:, None]
