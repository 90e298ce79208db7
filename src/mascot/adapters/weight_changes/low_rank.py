"""The change of a layer's weight, of every kind of adapter: exact factors, or a whole matrix.

LoRA and LoCon are products of two factors. So are LoHa (Hyeon-Woo et al. 2022, section 3.2) and
LoKr (Yeh et al. 2023), with more columns: a product of two low-rank matrices, element by element or
as Kronecker's, is of low rank again. A DoRA's change depends on the base's weight.

Shape suffixes: M outputs of a layer, N inputs (of a convolution, its unrolled kernel), R rank.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

import torch
from torch import Tensor

from mascot.adapters.adapter_checks import part_of, settings_by_part
from mascot.adapters.lora_keys import PartSettings, find_pattern
from mascot.errors import UserError, list_some

Kind = Literal["factors", "hadamard", "kronecker"]
TENSOR: Final = re.compile(r"^(?P<layer>.+)\.(?P<name>lora_[AB]\.weight|lora_magnitude_vector|(?:hada|lokr)_\w+)$")
"""Name of a low-rank tensor: its layer, with part and stage, and what it is."""
KINDS: Final[Mapping[str, Kind]] = {"lora": "factors", "hada": "hadamard", "lokr": "kronecker"}
"""Beginning of a tensor's name in its layer -> the kind of change."""
MAGNITUDE: Final = "lora_magnitude_vector"


@dataclass(frozen=True, slots=True, kw_only=True)
class FactoredChange:
    """A change as a product of two factors: M x R times R x N."""

    up_MR: Tensor
    down_RN: Tensor
    kernel: tuple[int, ...] = ()
    """Height and width of a convolution's kernel; empty for a linear layer."""

    @property
    def size(self) -> tuple[int, int]:
        """M and N."""
        return self.up_MR.shape[0], self.down_RN.shape[1]

    def dense(self) -> Tensor:
        """Multiply the factors. Shape M x N."""
        return self.up_MR @ self.down_RN

    def scaled(self, scale: float) -> FactoredChange:
        """Multiply the change by a number."""
        return self if scale == 1 else replace(self, up_MR=self.up_MR * scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseChange:
    """A change as a whole matrix."""

    change_MN: Tensor
    kernel: tuple[int, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """M and N."""
        return self.change_MN.shape[0], self.change_MN.shape[1]

    def dense(self) -> Tensor:
        """Return the matrix. Shape M x N."""
        return self.change_MN

    def scaled(self, scale: float) -> DenseChange:
        """Multiply the change by a number."""
        return self if scale == 1 else replace(self, change_MN=self.change_MN * scale)


WeightChange = FactoredChange | DenseChange


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLayer:
    """One layer of an adapter file: where its tensors are, and what they are multiplied by."""

    name: str
    """Its part and its name there, `unet.mid_block...`; the stage in front if not the first."""
    kind: Kind
    keys: Mapping[str, str]
    """What a tensor is in the layer, such as `hada_w1_a` -> its name in the file."""
    settings: PartSettings | None
    """What the metadata says of its part."""

    @property
    def part(self) -> str:
        """The part of the base that the layer belongs to, with its stage."""
        return part_of(self.name)

    @property
    def has_magnitudes(self) -> bool:
        """Whether it is a DoRA."""
        return MAGNITUDE in self.keys

    @property
    def states_kernel(self) -> bool:
        """Whether its tensors tell the kernel of a convolution; those of a LoHa or LoKr may not."""
        return self.kind == "factors"


def read_layers(names: Mapping[str, object], metadata: Mapping[str, str]) -> dict[str, StoredLayer]:
    """Sort the low-rank tensors of a file by layer, in the file's order; others are left out.

    Raises:
        UserError: the metadata cannot be read.
    """
    settings = settings_by_part(metadata)
    keys: dict[str, dict[str, str]] = {}
    for name in names:
        if found := TENSOR.match(name):
            keys.setdefault(found["layer"], {})[found["name"]] = name
    return {
        layer: StoredLayer(name=layer, kind=KINDS[next(iter(own))[:4]], keys=own, settings=settings.get(part_of(layer)))
        for layer, own in keys.items()
    }


def scale_of(layer: StoredLayer, rank: int) -> float:
    """Return what a layer's product is multiplied by: alpha / rank, or alpha / sqrt(rank) (rsLoRA).

    Without metadata alpha is the rank, as in diffusers.
    """
    settings, name = layer.settings, layer.name.removeprefix(f"{layer.part}.")
    if settings is None:
        return 1.0
    given = settings.lora_alpha if layer.kind == "factors" else settings.alpha
    default = float(settings.r or rank) if given is None else given
    alpha = find_pattern(settings.alpha_pattern or {}, name, default)
    return alpha / rank**0.5 if settings.use_rslora else alpha / rank


def change_of(layer: StoredLayer, tensors: Mapping[str, Tensor], kernel: tuple[int, ...] | None = None) -> WeightChange:
    """Compute the change of a layer's weight, float32; of a DoRA, that of its direction.

    Args:
        layer: The layer.
        tensors: The file's tensors.
        kernel: The kernel of the base's layer, where the tensors do not tell it.

    Raises:
        UserError: the tensors do not fit each other.
    """
    own = {name: tensors[key].float() for name, key in layer.keys.items()}
    try:
        if layer.kind == "factors":
            return factors_change(layer, own)
        change, own_kernel = hadamard_change(layer, own) if layer.kind == "hadamard" else kronecker_change(layer, own)
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError(
            f"the tensors of {layer.name} do not fit each other; get the file again from where it comes from."
        ) from error
    return replace(change, kernel=own_kernel or kernel or ())


def factors_change(layer: StoredLayer, own: Mapping[str, Tensor]) -> FactoredChange:
    """Return the change of a LoRA or a LoCon, whose down projection may be a convolution."""
    down, up = own["lora_A.weight"], own["lora_B.weight"]
    return FactoredChange(
        up_MR=up.flatten(1) * scale_of(layer, down.shape[0]), down_RN=down.flatten(1), kernel=tuple(down.shape[2:])
    )


def hadamard_change(layer: StoredLayer, own: Mapping[str, Tensor]) -> tuple[WeightChange, tuple[int, ...]]:
    """Return the change of a LoHa, and its kernel where its tensors tell it."""
    first, second = ((own[f"hada_w{n}_a"], own[f"hada_w{n}_b"]) for n in "12")
    scale = scale_of(layer, first[1].shape[0])
    if "hada_t1" in own:
        whole = tucker(own["hada_t1"], *first) * tucker(own["hada_t2"], *second)
        return DenseChange(change_MN=whole.flatten(1) * scale), tuple(whole.shape[2:])
    rank = first[1].shape[0] * second[1].shape[0]
    if rank >= min(first[0].shape[0], first[1].shape[1]):
        return DenseChange(change_MN=(first[0] @ first[1]) * (second[0] @ second[1]) * scale), ()
    up_MR = torch.einsum("mi,mj->mij", first[0], second[0]).flatten(1)
    down_RN = torch.einsum("in,jn->ijn", first[1], second[1]).flatten(0, 1)
    return FactoredChange(up_MR=up_MR * scale, down_RN=down_RN), ()


def kronecker_change(layer: StoredLayer, own: Mapping[str, Tensor]) -> tuple[WeightChange, tuple[int, ...]]:
    """Return the change of a LoKr, and its kernel where its tensors tell it."""
    rank = next((own[name].shape[0] for name in ("lokr_w2_b", "lokr_w1_b") if name in own), None)
    settings = layer.settings
    if rank is None:
        rank = (settings and settings.rank_of(layer.name.removeprefix(f"{layer.part}."))) or 1
    scale = scale_of(layer, rank)
    if "lokr_w2" not in own and "lokr_t2" not in own:
        return kronecker_factors(own, scale), ()
    first = own["lokr_w1"] if "lokr_w1" in own else own["lokr_w1_a"] @ own["lokr_w1_b"]
    second = own["lokr_w2"] if "lokr_w2" in own else tucker(own["lokr_t2"], own["lokr_w2_a"], own["lokr_w2_b"])
    whole = torch.kron(first.view(*first.shape, *(1 for _ in second.shape[2:])), second.contiguous())
    return DenseChange(change_MN=whole.flatten(1) * scale), tuple(second.shape[2:])


def kronecker_factors(own: Mapping[str, Tensor], scale: float) -> FactoredChange:
    """Return the change of a LoKr whose second factor is of low rank.

    (A B) x (C D) is (A x C) (B x D), Kronecker's products. Where the first factor W is whole, it is
    W I or I W, whichever has fewer columns.
    """
    if "lokr_w1" in own:
        whole = own["lokr_w1"]
        rows, columns = whole.shape
        first = (whole, torch.eye(columns)) if columns <= rows else (torch.eye(rows), whole)
    else:
        first = (own["lokr_w1_a"], own["lokr_w1_b"])
    up_MR = torch.kron(first[0], own["lokr_w2_a"].contiguous())
    down_RN = torch.kron(first[1], own["lokr_w2_b"].contiguous())
    return FactoredChange(up_MR=up_MR * scale, down_RN=down_RN)


def tucker(core: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Multiply a convolution's core with the factors of outputs and inputs (Tucker's form)."""
    return torch.einsum("ijkl,ip,jr->prkl", core, first, second)


def total(changes: list[WeightChange]) -> WeightChange:
    """Add the changes of one layer's weight exactly; factors are put side by side.

    The rank of the sum is the sum of the ranks, as long as that is less than the matrix has.

    Raises:
        UserError: the changes have different shapes.
    """
    sizes, kernels = {change.size for change in changes}, {change.kernel for change in changes}
    if len(sizes) > 1 or len(kernels) > 1:
        shapes = list_some(sorted("x".join(map(str, (*size, *kernel))) for size in sizes for kernel in kernels))
        raise UserError(f"the adapters change a layer of different shapes ({shapes}); merge adapters of one base.")
    first, *more = changes
    if not more:
        return first
    factored = [change for change in changes if isinstance(change, FactoredChange)]
    if len(factored) == len(changes):
        return FactoredChange(
            up_MR=torch.cat([change.up_MR for change in factored], 1),
            down_RN=torch.cat([change.down_RN for change in factored]),
            kernel=first.kernel,
        )
    whole = first.dense().clone()
    for change in more:
        whole += change.dense()
    return DenseChange(change_MN=whole, kernel=first.kernel)


def as_factors(change: WeightChange) -> FactoredChange:
    """Write a change as factors without any loss: a whole matrix times the identity."""
    if isinstance(change, FactoredChange):
        return change
    whole, identity = change.change_MN, torch.eye(min(change.size))
    rows, columns = change.size
    up_MR, down_RN = (identity, whole) if rows <= columns else (whole, identity)
    return FactoredChange(up_MR=up_MR, down_RN=down_RN, kernel=change.kernel)


def balanced(change: FactoredChange) -> FactoredChange:
    """Move powers of two between the factors, so that both have values of one size at each rank.

    That changes no bit of their product. float16 rounds coarsely below 6e-5 and ends at 65504.
    """
    largest_up_R, largest_down_R = change.up_MR.abs().amax(0), change.down_RN.abs().amax(1)
    ratio_R = torch.where((largest_up_R > 0) & (largest_down_R > 0), largest_down_R / largest_up_R, 1.0)
    power_R = torch.exp2(ratio_R.log2().div(2).round())
    return replace(change, up_MR=change.up_MR * power_R, down_RN=change.down_RN / power_R[:, None])


def to_tensors(layer: str, change: FactoredChange, dtype: torch.dtype) -> dict[str, Tensor]:
    """Write factors as the tensors of a LoRA whose alpha is its rank.

    Raises:
        UserError: a value is too large for the type.
    """
    ones = tuple(1 for _ in change.kernel)
    change = balanced(change) if dtype == torch.float16 else change
    down, up = change.down_RN.to(dtype), change.up_MR.to(dtype)
    if not (torch.isfinite(down).all() and torch.isfinite(up).all()):
        raise UserError(
            f"the change of {layer} is too large for {str(dtype).removeprefix('torch.')}; give smaller scales, "
            "or adapters that mascot convert --dtype fp32 has written."
        )
    if change.kernel:
        down = down.reshape(len(down), -1, *change.kernel)
    return {f"{layer}.lora_A.weight": down.contiguous(), f"{layer}.lora_B.weight": up.reshape(*up.shape, *ones)}


def changed_weight(
    layer: StoredLayer, tensors: Mapping[str, Tensor], weight: Tensor, scale: float, before: Tensor | None = None
) -> Tensor:
    """Return what a layer adds to the base's weight, float32, in the weight's shape.

    A DoRA gives each output of the weight, changed in its direction, a length of its own (Liu et
    al. 2024, equation 5); the scale belongs to the direction. What LoRAs have added `before` is
    multiplied with it, as in peft and diffusers.

    Raises:
        UserError: the layer's tensors do not fit the weight.
    """
    change = change_of(layer, tensors, tuple(weight.shape[2:])).scaled(scale)
    base_MN = weight.float().flatten(1)
    if change.size != tuple(base_MN.shape):
        raise UserError(
            f"{layer.name} changes a weight of {change.size[0]} x {change.size[1]}, "
            f"and the base's is {base_MN.shape[0]} x {base_MN.shape[1]}; give the base that the adapter was trained on."
        )
    added_MN = change.dense()
    if layer.has_magnitudes:
        turned_MN = base_MN + added_MN
        length_M1 = turned_MN.norm(dim=1, keepdim=True)
        magnitude_M1 = tensors[layer.keys[MAGNITUDE]].float().reshape(-1, 1)
        factor_M1 = magnitude_M1 / length_M1
        added_MN = turned_MN * factor_M1 - base_MN
        if before is not None:
            added_MN = added_MN + (factor_M1 - 1) * before.flatten(1)
    return added_MN.view(weight.shape)
