"""Layers of transformers under their original names and under those of diffusers.

Some original layers hold the outputs of several of diffusers', and some give scale and shift in the
other order (see `fused_layers`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Final, Literal

from mascot.adapters.adapter_checks import AGAIN
from mascot.adapters.formats import flux_names, sd3_names
from mascot.adapters.formats.fused_layers import (
    InseparableLayerError,
    expand_kronecker,
    find_fault,
    inputs_of,
    is_kronecker,
    join_layers,
    outputs_of,
    scale_of,
    split_layer,
    swap_halves,
)
from mascot.adapters.formats.layer_kinds import LayerChange
from mascot.adapters.formats.layer_names import DenoiserNames
from mascot.adapters.formats.layer_settings import Layers
from mascot.adapters.lora_keys import TEXT_PREFIX
from mascot.errors import UserError

TransformerKind = Literal["sd3", "flux"]
PART: Final = "transformer"
NUMBER: Final = re.compile(r"(?<=blocks[._])\d+")
"""The number of a block in a layer's name."""
SHIFT_AND_SCALE: Final = 2
"""Outputs per input of a layer that gives a shift and a scale, and nothing else."""
WIDTHS: Final[Mapping[int, TransformerKind]] = {1536: "sd3", 2432: "sd3", 3072: "flux"}
"""Width of the attention -> architecture."""


@dataclass(frozen=True)
class LayerNames:
    """The names of a transformer's layers: those of a file, and those of diffusers."""

    layers: Mapping[str, tuple[str, ...]]
    """Layer in the file -> layers of diffusers, with `N` for the number of the block."""
    shift_first: tuple[str, ...] = ()
    shares: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])

    @cached_property
    def dotted(self) -> Mapping[str, str]:
        """Name of a layer in the file, with dots or with underscores -> with dots."""
        return {style: name for name in self.layers for style in (name, name.replace(".", "_"))}

    @cached_property
    def places(self) -> Mapping[str, tuple[str, int]]:
        """Name of a layer of diffusers -> the layer in the file that holds it, and its place."""
        return {own: (name, place) for name, parts in self.layers.items() for place, own in enumerate(parts)}

    def shares_of(self, name: str) -> tuple[int, ...]:
        """Give the relative numbers of outputs of a layer's parts."""
        return self.shares.get(name, (1,) * len(self.layers[name]))

    def is_changed(self, name: str) -> bool:
        """Tell whether a layer's tensors differ between the file and diffusers."""
        return len(self.layers[name]) > 1 or name in self.shift_first

    def order_halves(self, name: str, layer: LayerChange) -> LayerChange:
        """Exchange scale and shift where the file has them in the other order than diffusers."""
        swapped = name in self.shift_first and outputs_of(layer) == SHIFT_AND_SCALE * inputs_of(layer)
        return swap_halves(layer) if swapped else layer


ORIGINAL_NAMES: Final[Mapping[str, LayerNames]] = {
    "sd3": LayerNames(sd3_names.LAYERS, sd3_names.SHIFT_FIRST),
    "flux": LayerNames(flux_names.LAYERS, flux_names.SHIFT_FIRST, flux_names.SHARES),
}
"""Architecture -> the original names of its transformer's layers."""
READ_NAMES: Final = LayerNames(
    {**sd3_names.LAYERS, **flux_names.LAYERS, **flux_names.XLABS}, sd3_names.SHIFT_FIRST, flux_names.SHARES
)
"""All names that are read; where two architectures share one, it means the same."""
OWN_NAMES: Final[Mapping[str, str]] = {
    style: own for own in READ_NAMES.places for style in (own, own.replace(".", "_"))
}
"""Name of a layer of diffusers, with dots or with underscores -> with dots."""


def split_number(name: str) -> tuple[str, str]:
    """Replace the number of the block in a layer's name by `N`, and return both."""
    match = NUMBER.search(name)
    return (f"{name[: match.start()]}N{name[match.end() :]}", match[0]) if match else (name, "")


def with_number(name: str, number: str) -> str:
    """Put the number of the block into a layer's name; the inverse of `split_number`."""
    return re.sub(r"(?<=blocks\.)N(?=\.)", number, name)


def find_name(name: str) -> str | None:
    """Read a name of diffusers or of an original code, with dots or underscores; None for others.

    The dots are put back. An original name stays one; `separate_layers` translates it later, with
    the layer's tensors.
    """
    template, number = split_number(name.replace(".processor.", "."))
    found = OWN_NAMES.get(template) or READ_NAMES.dotted.get(template)
    return None if found is None else with_number(found, number)


def find_original_name(name: str) -> str | None:
    """Read a name of an original code, as `find_name` does; None for those of diffusers too."""
    return find_name(name) if split_number(name.replace(".processor.", "."))[0] in READ_NAMES.dotted else None


TRANSFORMER: Final = DenoiserNames(
    part=PART,
    knows=lambda name: find_name(name) == name,
    from_flat=find_name,
    from_original=find_original_name,
    to_kohya=lambda name, _: name.replace(".", "_"),
    to_original=lambda name, _: name,
)
"""Names of the transformers; layers are written under them after `join_original`."""


def separate_layers(layers: Layers) -> Layers:
    """Give layers of a transformer with original names those of diffusers; others stay as they are.

    Raises:
        UserError: a layer is damaged, cannot be split exactly, or stands there twice.
    """
    own: Layers = {}
    for (part, written), layer in layers.items():
        for name, piece in (separate(written, layer) if part == PART else {written: layer}).items():
            if (part, name) in own:
                raise UserError(f"it has {part}.{name} twice, under two names; {AGAIN}")
            own[part, name] = piece
    return expand_products(own) if is_cut(layers, own) else own


def is_cut(layers: Layers, own: Layers) -> bool:
    """Tell whether some LoKrs of a transformer were split inside a block, and became LoRAs."""
    before, after = ([change for (part, _), change in each.items() if part == PART] for each in (layers, own))
    return all(map(is_kronecker, before)) and any(map(is_kronecker, after)) and not all(map(is_kronecker, after))


def expand_products(layers: Layers) -> Layers:
    """Write all LoKrs of a transformer as the LoRAs that they equal, since a part has one kind.

    They stay what they are where one of them is equal to no small LoRA.
    """
    try:
        return {
            key: expand_kronecker(layer) if key[0] == PART and is_kronecker(layer) else layer
            for key, layer in layers.items()
        }
    except InseparableLayerError:
        return layers


def separate(written: str, layer: LayerChange) -> dict[str, LayerChange]:
    """Split one layer into those of diffusers; one with a name of diffusers is returned alone."""
    template, number = split_number(written)
    if template not in READ_NAMES.layers:
        return {written: layer}
    parts = READ_NAMES.layers[template]
    if READ_NAMES.is_changed(template) and (fault := find_fault(layer)) is not None:
        raise UserError(f"{written} {fault}; {AGAIN}")
    try:
        ordered = READ_NAMES.order_halves(template, layer)
        pieces = [ordered] if len(parts) == 1 else split_layer(ordered, READ_NAMES.shares_of(template))
    except InseparableLayerError as error:
        raise UserError(
            f"the layer {written} cannot be split into those that diffusers has, because {error}; "
            "generate with the tool that wrote it, or give a LoRA."
        ) from error
    return {with_number(part, number): piece for part, piece in zip(parts, pieces, strict=True) if piece is not None}


def join_original(layers: Layers, architecture: str) -> tuple[Layers, dict[tuple[str, str], str]]:
    """Give layers of a transformer their original names, and join those that are one there.

    Returns the layers, and those of diffusers that have no original layer, each with the reason.

    Raises:
        UserError: a layer is damaged.
    """
    names = ORIGINAL_NAMES[architecture]
    groups: dict[tuple[str, str], dict[int, str]] = {}
    original: Layers = {}
    refused: dict[tuple[str, str], str] = {}
    for (part, own), layer in layers.items():
        template, number = split_number(own)
        if part != PART:
            original[part, own] = layer
        elif template not in names.places:
            refused[part, own] = "the original code has no such layer"
        elif names.is_changed(names.places[template][0]) and (fault := find_fault(layer)) is not None:
            raise UserError(f"{part}.{own} {fault}; {AGAIN}")
        else:
            name, place = names.places[template]
            groups.setdefault((name, number), {})[place] = own
    for (name, number), members in groups.items():
        parts = [layers.get((PART, members.get(place, ""))) for place in range(len(names.layers[name]))]
        try:
            joined = layers[PART, members[0]] if len(parts) == 1 else join_layers(parts, names.shares_of(name))
            original[PART, with_number(name, number)] = names.order_halves(name, joined)
        except InseparableLayerError as error:
            refused |= {(PART, own): str(error) for own in members.values()}
    return original, refused


def tell_transformer(layers: Layers) -> TransformerKind | None:
    """Tell whose transformer an adapter's layers are of; None where it is unclear, or none."""
    own = {layer: change for (part, layer), change in layers.items() if part == PART}
    outputs = {layer: 0 if find_fault(change) else outputs_of(change) for layer, change in own.items()}
    if (kind := tell_architecture(outputs)) is not None or not own:
        return kind
    second = next((layer for part, layer in layers if part == "text_encoder_2"), None)
    third = any(part == "text_encoder_3" for part, _ in layers)
    if second is None:
        return "sd3" if third else None
    return "sd3" if second.startswith(TEXT_PREFIX) else "flux"


def tell_architecture(outputs: Mapping[str, int]) -> TransformerKind | None:
    """Tell by names and outputs whose transformer some layers of diffusers are of, if it is clear.

    The architectures share the names of most layers. Their last blocks and their widths differ:
    the last block of SD3 does not change the text any more.
    """
    templates = {split_number(name)[0] for name in outputs}
    sd3, flux = (set(ORIGINAL_NAMES[architecture].places) for architecture in ("sd3", "flux"))
    if templates & (sd3 ^ flux):
        return "sd3" if templates & (sd3 - flux) else "flux"
    blocks = [int(split_number(name)[1]) for name in outputs if name.startswith("transformer_blocks.")]
    last, first = (f"transformer_blocks.{number}.attn." for number in (max(blocks, default=0), min(blocks, default=0)))
    if f"{last}add_q_proj" in outputs and f"{first}to_add_out" in outputs:
        return "flux" if f"{last}to_add_out" in outputs else "sd3"
    widths = {count for name, count in outputs.items() if ".attn." in name}
    return WIDTHS.get(widths.pop()) if len(widths) == 1 else None


def notes_on_transformer(to: str, layers: Layers, architecture: str | None) -> Iterator[str]:
    """Say what other tools make of a transformer's layers in a format."""
    own = {layer: change for (part, layer), change in layers.items() if part == PART}
    if to == "diffusers" and any(change.alpha != change.rank for change in own.values()):
        yield "ComfyUI reads no alphas in this form; give --to comfyui for it"
    if to not in {"kohya", "comfyui"} or not own or architecture not in ORIGINAL_NAMES:
        return
    if architecture == "sd3":
        yield "diffusers reads no file of SD3 in this form; give --to diffusers for it"
    elif any("blocks." not in layer for layer in own):
        yield "diffusers drops layers outside the blocks of FLUX.1 in this form; give --to diffusers for it"
    scales: dict[tuple[str, str], set[Fraction]] = {}
    for layer, change in own.items():
        template, number = split_number(layer)
        scales.setdefault((READ_NAMES.places.get(template, (layer, 0))[0], number), set()).add(scale_of(change))
    if rounded := sum(len(each) > 1 for each in scales.values()):
        yield f"{rounded} layers join parts with different alpha / rank, so one factor of each was multiplied"
