"""Base and trained weights -> a low-rank change that comes closest to their difference, and how much of it that keeps.

Shape suffixes: M rows (what a layer writes), N columns (what it reads, of a convolution unrolled), K singular values.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mascot.adapters.lora_keys import DOWN, UP

ATTENTION = (
    "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out",  # denoisers
    "q_proj", "k_proj", "v_proj", "out_proj",  # text encoders
)  # fmt: skip


FEED_FORWARD = ("net.0.proj", "net.2", "proj_mlp", "fc1", "fc2")


GROUPS = (
    "attention",
    "feed-forward",
    "other linear layers",
    "convolutions",
    "norms",
    "embeddings",
    "biases",
    "other weights",
)
"""What a weight can be, in the order in which the report lists it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """A change's squared Frobenius norm, and how much of it a low-rank change keeps."""

    changed: float = 0.0
    kept: float = 0.0

    def __add__(self, other: Energy) -> Energy:
        return Energy(changed=self.changed + other.changed, kept=self.kept + other.kept)

    @property
    def share(self) -> float:
        """What is kept, in 0..1; 1 where nothing changed."""
        return self.kept / self.changed if self.changed > 0 else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """One part's low-rank change."""

    tensors: Mapping[str, Tensor]
    """Both halves of each layer, under its name and `.lora_A.weight` or `.lora_B.weight`, float32; alpha equals the rank."""
    energies: Mapping[str, Energy]
    """Group of weights (one of GROUPS) -> its energy; groups of which a part has none are not there."""

    @property
    def energy(self) -> Energy:
        """The whole part's energy; what no low-rank change can hold (norms, biases, embeddings) is in it, with nothing kept."""
        return sum(self.energies.values(), Energy())

    def rows(self, part: str) -> tuple[tuple[str, str], ...]:
        """What to report: of each group its share of the part's change, and the share of its energy that is kept."""
        whole = self.energy
        rows = [(f"{part}, all weights", f"{whole.share:.1%} of the change kept" if whole.changed else "unchanged")]
        for group in (group for group in GROUPS if group in self.energies):
            energy = self.energies[group]
            kept = f"{energy.share:.1%} kept" if energy.kept else "left out"
            rows.append(
                (
                    f"{part}, {group}",
                    f"{kept}; {energy.changed / whole.changed:.1%} of the change" if energy.changed else "unchanged",
                )
            )
        return tuple(rows)


def representable(module: nn.Module) -> list[str]:
    """Names of the layers whose weights a low-rank change can reach: linear ones, and convolutions in one group."""
    return [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
    ]


@torch.no_grad()
def extract(
    module: nn.Module, base: Mapping[str, Tensor], trained: Mapping[str, Tensor], *, rank: int, layers: Collection[str]
) -> Extraction:
    """The best change of `layers` at a rank, layer by layer, and the energy it keeps of everything that changed.

    `base` and `trained` hold every parameter of `module` under its name, in any floating dtype; `layers` are linear layers and
    convolutions of it. One layer's difference is in memory at a time, and the same weights give the same tensors.
    """
    chosen = {f"{layer}.weight" for layer in layers}
    tensors: dict[str, Tensor] = {}
    energies: dict[str, Energy] = {}
    for name, weight in trained.items():
        change = weight.float() - base[name].float()
        owner = name.rpartition(".")[0]
        if name in chosen:
            tensors[owner + DOWN], tensors[owner + UP], energy = factor(change, rank)
        else:
            energy = Energy(changed=change.double().square().sum().item())
        group = group_of(module, name)
        energies[group] = energies.get(group, Energy()) + energy
    assert len(tensors) == 2 * len(chosen), "every layer asked for has a weight"
    return Extraction(tensors=tensors, energies=energies)


def factor(change: Tensor, rank: int) -> tuple[Tensor, Tensor, Energy]:
    """Two halves whose product is the closest of that rank to a change (Eckart & Young 1936), and the energy they keep.

    A linear layer's M x N becomes rank x N and M x rank; a convolution's M x in x height x width becomes rank x in x height x width
    and M x rank x 1 x 1. Each half carries the root of the singular values. Where a layer has fewer than `rank` of them, zeros fill
    both halves up, so that one rank and one alpha hold for the whole file.
    """
    left_MK, strength_K, right_KN = torch.linalg.svd(change.flatten(1), full_matrices=False)
    root_K = strength_K[:rank].sqrt()
    down = change.new_zeros(rank, right_KN.shape[1])
    up = change.new_zeros(left_MK.shape[0], rank)
    down[: len(root_K)] = root_K[:, None] * right_KN[:rank]
    up[:, : len(root_K)] = left_MK[:, :rank] * root_K
    square_K = strength_K.double().square()
    energy = Energy(changed=square_K.sum().item(), kept=square_K[:rank].sum().item())
    return down.view(rank, *change.shape[1:]), up.view(*up.shape, *(1 for _ in change.shape[2:])), energy


def group_of(module: nn.Module, name: str) -> str:
    """Which of GROUPS a parameter belongs to, by its layer's kind and the end of its name."""
    owner, _, leaf = name.rpartition(".")
    layer = module.get_submodule(owner)
    if leaf == "bias":
        return "biases"
    if isinstance(layer, nn.Conv2d):
        return "convolutions"
    if isinstance(layer, nn.Linear):
        return (
            "attention"
            if owner.endswith(ATTENTION)
            else "feed-forward"
            if owner.endswith(FEED_FORWARD)
            else "other linear layers"
        )
    if isinstance(layer, nn.Embedding):
        return "embeddings"
    return "norms" if "norm" in type(layer).__name__.lower() else "other weights"
