"""What an adapter file can hold for one layer: LoRA, DoRA, LoHa or LoKr, under any tool's names.

LoCon is LoRA of convolutions. Alpha is kohya's: a change is multiplied by alpha / rank.

Shape suffixes: R rank, O outputs, I inputs of a layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from mascot.adapters.adapter_checks import AGAIN
from mascot.adapters.lora_keys import DOWN, LARGEST_ALPHA, MAGNITUDE, MOST_RANK, UP
from mascot.errors import UserError

MID: Final = ".lora_mid.weight"
"""Name ending of LyCORIS' third factor of a convolution: rank x rank x height x width."""
ALPHA: Final = ".alpha"
DORA_SCALE: Final = ".dora_scale"
"""Name ending of a DoRA's magnitudes in kohya's form."""

LORA_ENDINGS: Final[Mapping[str, str]] = {
    "lora_A.weight": DOWN,
    "lora_B.weight": UP,
    "lora_A.default.weight": DOWN,
    "lora_B.default.weight": UP,
    "lora_A": DOWN,
    "lora_B": UP,
    "lora_down.weight": DOWN,
    "lora_up.weight": UP,
    "lora_mid.weight": MID,
    "lora.down.weight": DOWN,
    "lora.up.weight": UP,
    "lora_linear_layer.down.weight": DOWN,
    "lora_linear_layer.up.weight": UP,
    "lora_magnitude_vector": MAGNITUDE,
    "lora_magnitude_vector.weight": MAGNITUDE,
    "lora_magnitude_vector.default.weight": MAGNITUDE,
    "dora_scale": DORA_SCALE,
    "alpha": ALPHA,
}
"""Name ending of a tensor in any tool's files -> the ending that stands for it here."""
PRODUCT_ENDINGS: Final = (
    *(f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")),
    *(f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")),
)
"""Name endings of LoHa and LoKr, the same in all tools."""
ENDING: Final = re.compile(
    r"^(?P<layer>.+?)(?:\.(?P<ending>"
    + "|".join(re.escape(end) for end in sorted((*LORA_ENDINGS, *PRODUCT_ENDINGS), key=len, reverse=True))
    + r")|(?P<old>(?:_lora|(?<=_lora[12]))\.(?:down|up)\.weight))$"
)
"""A tensor's name: its layer, and an ending; `old` is that of attention processors.

XLabs counts those of a block, where diffusers does not: `qkv_lora1.down.weight`.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerChange:
    """How an adapter changes one layer."""

    tensors: Mapping[str, Tensor]
    """Our name ending, such as `.lora_A.weight` or `.hada_w1_a` -> tensor."""
    rank: int
    alpha: float
    """The change is multiplied by alpha / rank."""

    @property
    def is_product(self) -> bool:
        """Tells a LoHa or a LoKr from a LoRA."""
        return DOWN not in self.tensors

    @property
    def is_dora(self) -> bool:
        """Tells a DoRA from a LoRA."""
        return MAGNITUDE in self.tensors

    @property
    def is_whole(self) -> bool:
        """Tells a LoKr of two whole factors, which has no rank."""
        return {".lokr_w1", ".lokr_w2"} <= self.tensors.keys()


def split_key(key: str) -> tuple[str, str] | None:
    """Split a tensor's name into its layer and its ending here; None where it has none of them."""
    found = ENDING.match(key)
    if found is None:
        return None
    if found["old"]:
        return found["layer"], DOWN if "down" in found["old"] else UP
    ending = found["ending"]
    return found["layer"], LORA_ENDINGS.get(ending, f".{ending}")


def input_widths(tensors: Mapping[str, Tensor], start: str, ends: tuple[str, ...]) -> set[int]:
    """Collect the input widths of linear layers whose names start and end so, by shapes."""
    layers: dict[str, dict[str, int]] = {}
    for key, tensor in tensors.items():
        split = split_key(key) if key.startswith(start) else None
        if split is not None and split[0].endswith(ends) and tensor.ndim > 1:
            layers.setdefault(split[0], {})[split[1]] = tensor.shape[1]
    widths: set[int] = set()
    for own in layers.values():
        first, second = (own.get(f".lokr_{name}", own.get(f".lokr_{name}_b", 0)) for name in ("w1", "w2"))
        widths.add(own.get(DOWN) or own.get(".hada_w1_b") or first * second)
    return widths - {0}


def read_layer(name: str, tensors: Mapping[str, Tensor], alpha: float | None = None) -> LayerChange:
    """Read one layer's tensors, by the endings of `split_key`, into our form.

    Without alpha, here and in the tensors, the change is not scaled: every tool means that.

    Raises:
        UserError: the layer lacks a tensor, or has one that we have no form for.
    """
    own = dict(tensors)
    stored = own.pop(ALPHA, None)
    if stored is not None:
        if stored.numel() != 1 or stored.dtype == torch.bool or not abs(float(stored)) <= LARGEST_ALPHA:
            raise UserError(f"the alpha of {name} is not one finite number up to {LARGEST_ALPHA:g}; {AGAIN}")
        alpha = read_alpha(stored) or alpha  # 0 stands for the rank, as in kohya's code
    if not own:
        raise UserError(f"{name} has an alpha and nothing else; {AGAIN}")
    for ending, tensor in own.items():
        if tensor.numel() == 0 or (tensor.ndim < 2 and ending not in {MAGNITUDE, DORA_SCALE}):
            raise UserError(f"{name}{ending} is {'no matrix' if tensor.numel() else 'empty'}; {AGAIN}")
    if DOWN in own or UP in own:
        return read_lora(name, own, alpha)
    return read_product(name, own, alpha)


def read_alpha(stored: Tensor) -> float:
    """Read an alpha; in float32, as the decimal of up to seven digits that it stands for: 0.1."""
    alpha = float(stored)
    decimal = float(f"{alpha:.7g}")
    same = stored.dtype == torch.float32 and torch.tensor(decimal, dtype=torch.float32).item() == alpha
    return decimal if same else alpha


def read_lora(name: str, own: dict[str, Tensor], alpha: float | None) -> LayerChange:
    """Read a LoRA or a DoRA: fold its middle factor, and turn its magnitudes."""
    if DOWN not in own or UP not in own:
        raise UserError(f"{name} is without the other half of its weights; {AGAIN}")
    down, up = own[DOWN], own[UP]
    if down.shape[0] != up.shape[1]:
        raise UserError(f"{name} has halves of different rank, {tuple(down.shape)} and {tuple(up.shape)}; {AGAIN}")
    if MID in own:
        middle = own.pop(MID)
        if middle.ndim != 4 or tuple(middle.shape[:2]) != (len(down), len(down)):
            raise UserError(f"{name} has a middle factor of another rank, {tuple(middle.shape)}; {AGAIN}")
        own[DOWN] = fold_middle(middle, down)
    scale = own.pop(DORA_SCALE, None)
    if scale is not None:
        own[MAGNITUDE] = read_magnitudes(name, scale, outputs=len(up), inputs=down.shape[1], ndim=down.ndim)
    elif MAGNITUDE in own and own[MAGNITUDE].numel() == len(up):
        own[MAGNITUDE] = shape_magnitudes(own[MAGNITUDE], down.ndim)
    if extra := sorted(own.keys() - {DOWN, UP, MAGNITUDE}):
        raise UserError(f"{name} has both a LoRA and {extra[0]}, which no tool applies together; {AGAIN}")
    rank = len(down)
    return LayerChange(tensors=own, rank=rank, alpha=float(rank) if alpha is None else alpha)


def fold_middle(mid: Tensor, down: Tensor) -> Tensor:
    """Multiply the middle factor into the down projection: rank x in x height x width."""
    folded = torch.einsum("rshw,si->rihw", mid.double(), down.double().flatten(1))
    return folded.to(down.dtype).contiguous()


def read_magnitudes(name: str, scale: Tensor, *, outputs: int, inputs: int, ndim: int) -> Tensor:
    """Turn kohya's `dora_scale` into our magnitudes: one for each output.

    Raises:
        UserError: there is one for each input, which is another method with the same name.
    """
    if scale.numel() != outputs or (scale.ndim > 1 and scale.shape[0] != outputs and outputs != 1):
        kind = "one for each input of the layer" if scale.numel() == inputs else f"of shape {tuple(scale.shape)}"
        raise UserError(
            f"{name} is a DoRA whose magnitudes are {kind}, and only one for each output is read; "
            "train it again with wd_on_out (LyCORIS) or on the output axis (OneTrainer)."
        )
    return shape_magnitudes(scale, ndim)


def shape_magnitudes(magnitudes: Tensor, ndim: int) -> Tensor:
    """Shape magnitudes as peft does: a row, or for a convolution 1 x out x 1 x 1."""
    return magnitudes.reshape(-1) if ndim == 2 else magnitudes.reshape(1, -1, *[1] * (ndim - 2))


def read_product(name: str, own: dict[str, Tensor], alpha: float | None) -> LayerChange:
    """Read a LoHa or a LoKr; its tensors have the same names and shapes in all tools.

    A LoKr of two whole factors has no rank, and its alpha scales nothing.
    """
    if DORA_SCALE in own or MAGNITUDE in own:
        raise UserError(
            f"{name} is a LoHa or LoKr with a DoRA's magnitudes, which mascot has no form for; "
            "train it again without weight decomposition."
        )
    kinds = {ending[:5] for ending in own}
    if len(kinds) != 1:
        raise UserError(f"{name} has tensors of several methods, {', '.join(sorted(own))}; {AGAIN}")
    # Where both factors of a LoKr are split, other tools take the rank of the second.
    factor = next((own[end] for end in (".hada_w1_b", ".lokr_w2_b", ".lokr_w1_b") if end in own), None)
    if factor is not None:
        rank = len(factor)
    else:
        whole = max((size for tensor in own.values() for size in tensor.shape[:2]), default=1)
        rank = int(alpha) if alpha is not None and 1 <= alpha <= MOST_RANK and alpha == int(alpha) else whole
        rank, alpha = min(rank, MOST_RANK), None
    return LayerChange(tensors=own, rank=rank, alpha=float(rank) if alpha is None else alpha)


KOHYA_ENDINGS: Final[Mapping[str, str]] = {DOWN: ".lora_down.weight", UP: ".lora_up.weight", MAGNITUDE: DORA_SCALE}
"""Our name ending -> kohya's, where they differ."""


def write_kohya(change: LayerChange) -> dict[str, Tensor]:
    """Write one layer under kohya's endings, with its alpha as a number in float32.

    A LoKr of two whole factors has no place for a scale; it is multiplied into the smaller one.
    """
    own = dict(change.tensors)
    alpha = change.alpha
    if change.is_whole and alpha != change.rank:
        first = own[".lokr_w1"]
        own[".lokr_w1"] = (first.double() * (alpha / change.rank)).to(first.dtype)
        alpha = float(change.rank)
    if MAGNITUDE in own:
        ones = [1] * (own[DOWN].ndim - 1)
        own[MAGNITUDE] = own[MAGNITUDE].reshape(-1, *ones)
    written = {KOHYA_ENDINGS.get(ending, ending): tensor.contiguous() for ending, tensor in own.items()}
    return written | {ALPHA: torch.tensor(alpha, dtype=torch.float32)}
