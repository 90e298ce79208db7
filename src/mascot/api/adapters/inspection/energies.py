"""The energy of a weight change: its squared Frobenius norm, from its factors.

Shape suffixes: R rank, O outputs, I inputs of a layer (of a convolution, with its kernel).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mascot.adapters.formats.layer_kinds import LayerChange
from mascot.adapters.lora_keys import DOWN, MAGNITUDE, UP

ROWS = 256
"""Rows of a LoHa's change that are computed at a time."""


@torch.no_grad()
def energy_of(change: LayerChange) -> float | None:
    """Measure the energy of one layer's change; None for a DoRA, which depends on the base.

    All sums are in float64.
    """
    own = change.tensors
    if MAGNITUDE in own:
        return None
    scale = (change.alpha / change.rank) ** 2
    if DOWN in own:
        return scale * product_energy(own[UP], own[DOWN])
    if any(ending.startswith(".hada_") for ending in own):
        first, second = (hadamard_factor(change, number) for number in (1, 2))
        return scale * hadamard_energy(*first, *second)
    return scale * math.prod(kronecker_energy(change, name) for name in ("w1", "w2"))


def product_energy(up: Tensor, down: Tensor) -> float:
    """Measure the energy of `up @ down`, by two products of the size of the rank."""
    up_OR, down_RI = up.double().flatten(1), down.double().flatten(1)
    return float(((up_OR.T @ up_OR) * (down_RI @ down_RI.T)).sum().clamp_min(0))


def hadamard_factor(change: LayerChange, number: int) -> tuple[Tensor, Tensor]:
    """Return one of a LoHa's two matrices as a product: O x R and R x I.

    A convolution's has a core: `t[r, s, h, w]` times both sides.
    """
    own = change.tensors
    left, right = own[f".hada_w{number}_a"].double(), own[f".hada_w{number}_b"].double()
    core = own.get(f".hada_t{number}")
    if core is None:
        return left, right.flatten(1)
    folded = torch.einsum("rshw,si->rihw", core.double(), right)
    return left.T, folded.flatten(1)


def hadamard_energy(left_OR: Tensor, right_RI: Tensor, other_OR: Tensor, other_RI: Tensor) -> float:
    """Measure the energy of the element-wise product of two products, some rows at a time."""
    total = 0.0
    for first in range(0, len(left_OR), ROWS):
        rows = slice(first, first + ROWS)
        total += float(((left_OR[rows] @ right_RI) * (other_OR[rows] @ other_RI)).square().sum())
    return total


def kronecker_energy(change: LayerChange, name: str) -> float:
    """Measure the energy of one of a LoKr's two factors, whole or a product of two."""
    own = change.tensors
    if f".lokr_{name}" in own:
        return float(own[f".lokr_{name}"].double().square().sum())
    left, right = own[f".lokr_{name}_a"], own[f".lokr_{name}_b"]
    core = own.get(".lokr_t2") if name == "w2" else None
    if core is None:
        return product_energy(left, right)
    whole = torch.einsum("rshw,ro,si->oihw", core.double(), left.double(), right.double())
    return float(whole.square().sum())
