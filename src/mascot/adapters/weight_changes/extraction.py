"""Extraction of a LoRA from base and trained weights, with the share of the change it keeps.

Shape suffixes: M rows (outputs of a layer), N columns (inputs of a layer; of a convolution, its
unrolled kernel), K singular values.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mascot.adapters.lora_keys import DOWN, UP

ATTENTION_IN_DENOISERS = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "add_q_proj",
    "add_k_proj",
    "add_v_proj",
    "to_add_out",
)
ATTENTION_IN_TEXT_ENCODERS = ("q_proj", "k_proj", "v_proj", "out_proj")
ATTENTION = (*ATTENTION_IN_DENOISERS, *ATTENTION_IN_TEXT_ENCODERS)
"""Name endings of attention projections."""
FEED_FORWARD = ("net.0.proj", "net.2", "proj_mlp", "fc1", "fc2")
"""Name endings of feed-forward layers."""
EMBEDDINGS = ("token_embedding", "position_embedding", "shared", "embed_tokens", "relative_attention_bias")
"""Name endings of embedding tables."""
WEIGHT_GROUPS = (
    "attention",
    "feed-forward",
    "other linear layers",
    "convolutions",
    "norms",
    "embeddings",
    "biases",
    "other weights",
)
"""Groups of weights, in the order of the report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Energy (squared Frobenius norm) of a weight change, and how much a low-rank one keeps."""

    changed: float = 0.0
    kept: float = 0.0

    def __add__(self, other: Energy) -> Energy:
        return Energy(changed=self.changed + other.changed, kept=self.kept + other.kept)

    @property
    def share(self) -> float:
        """The kept share of the energy, in 0..1; 1 where nothing changed."""
        return self.kept / self.changed if self.changed > 0 else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """The LoRA of one part of a base model."""

    tensors: Mapping[str, Tensor]
    """Layer name + `.lora_A.weight` or `.lora_B.weight` -> projection, float32; alpha is rank."""
    energies: Mapping[str, Energy]
    """One of WEIGHT_GROUPS -> its energy; groups that the part lacks are missing."""

    @property
    def energy(self) -> Energy:
        """The energy of the whole part.

        Weights that no LoRA can represent (norms, biases, embeddings) count as changed, not kept.
        """
        return sum(self.energies.values(), Energy())

    def rows(self, part: str) -> tuple[tuple[str, str], ...]:
        """List name and value of each row of the report.

        A row gives a group's share of the part's change, and the kept share of the group's energy.
        """
        return group_rows(part, self.energies)


def group_rows(part: str, energies: Mapping[str, Energy]) -> tuple[tuple[str, str], ...]:
    """List name and value of each row of the report on a part, from the energy of each group."""
    total = sum(energies.values(), Energy())
    rows = [(f"{part}, all weights", f"{total.share:.1%} of the change kept" if total.changed else "unchanged")]
    for group in (group for group in WEIGHT_GROUPS if group in energies):
        energy = energies[group]
        kept = f"{energy.share:.1%} kept" if energy.kept else "left out"
        value = f"{kept}; {energy.changed / total.changed:.1%} of the change" if energy.changed else "unchanged"
        rows.append((f"{part}, {group}", value))
    return tuple(rows)


def representable(module: nn.Module) -> list[str]:
    """List the layers whose weights a LoRA can change: linear, and convolutions of one group."""
    return [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
    ]


@torch.no_grad()
def extract(
    module: nn.Module, base: Mapping[str, Tensor], trained: Mapping[str, Tensor], *, rank: int, layers: Collection[str]
) -> Extraction:
    """Extract the closest LoRA of a rank, layer by layer, and measure the energy it keeps.

    Only one layer's difference is in memory at a time. Equal weights give equal tensors.

    Args:
        module: The part of the base model; it gives the kinds of layers.
        base: Every parameter of `module` before training, under its name, in any floating dtype.
        trained: The same parameters after training.
        rank: Rank of the LoRA.
        layers: Names of the linear layers and convolutions that the LoRA changes.
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
    assert len(tensors) == 2 * len(chosen), "every layer in `layers` has a weight"
    return Extraction(tensors=tensors, energies=energies)


def factor(change: Tensor, rank: int) -> tuple[Tensor, Tensor, Energy]:
    """Factor a weight change into down and up projection (Eckart and Young 1936), by its SVD.

    Their product is the closest matrix of that rank. Each projection carries the square root of
    the singular values. Where a layer has fewer than `rank` of them, both are padded with zeros.
    So one rank and one alpha hold for the whole file.

    Args:
        change: Weight difference: M x N of a linear layer, M x in x height x width of a
            convolution.
        rank: Rank of the factors.

    Returns:
        The down projection (rank x N, or rank x in x height x width), the up projection (M x rank,
        or M x rank x 1 x 1), and their energy.
    """
    left_MK, singular_K, right_KN = torch.linalg.svd(change.flatten(1), full_matrices=False)
    root_K = singular_K[:rank].sqrt()
    down = change.new_zeros(rank, right_KN.shape[1])
    up = change.new_zeros(left_MK.shape[0], rank)
    down[: len(root_K)] = root_K[:, None] * right_KN[:rank]
    up[:, : len(root_K)] = left_MK[:, :rank] * root_K
    square_K = singular_K.double().square()
    energy = Energy(changed=square_K.sum().item(), kept=square_K[:rank].sum().item())
    return down.view(rank, *change.shape[1:]), up.view(*up.shape, *(1 for _ in change.shape[2:])), energy


def group_of(module: nn.Module, name: str) -> str:
    """Find the one of WEIGHT_GROUPS that a parameter of a module belongs to."""
    owner, _, leaf = name.rpartition(".")
    layer = module.get_submodule(owner)
    if leaf == "bias":
        return "biases"
    if isinstance(layer, nn.Conv2d):
        return "convolutions"
    if isinstance(layer, nn.Linear):
        if owner.endswith(ATTENTION):
            return "attention"
        return "feed-forward" if owner.endswith(FEED_FORWARD) else "other linear layers"
    if isinstance(layer, nn.Embedding):
        return "embeddings"
    return "norms" if "norm" in type(layer).__name__.lower() else "other weights"


def group_by_name(name: str, shape: tuple[int, ...]) -> str:
    """Find the one of WEIGHT_GROUPS that a weight belongs to, by its name and shape alone."""
    owner, _, leaf = name.rpartition(".")
    if leaf == "bias":
        return "biases"
    if owner.endswith(EMBEDDINGS):
        return "embeddings"
    if leaf == "weight" and len(shape) == 4:
        return "convolutions"
    if leaf == "weight" and len(shape) == 2:
        if owner.endswith(ATTENTION):
            return "attention"
        return "feed-forward" if owner.endswith(FEED_FORWARD) else "other linear layers"
    return "norms" if "norm" in owner.lower() else "other weights"
