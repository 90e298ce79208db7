"""Reading a file of any tool into our form, and writing ours as a file of another tool.

Dict to dict: names of tensors to tensors, with the texts of the header beside them. The form of
peft has the part before each name (`unet.base_model.model.LAYER`); on disk that is a folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from torch import Tensor

from mascot.adapters.adapter_checks import AGAIN, settings_by_part
from mascot.adapters.formats import text_encoder_names
from mascot.adapters.formats.layer_kinds import input_widths, read_layer, split_key, write_kohya
from mascot.adapters.formats.layer_names import DenoiserNames
from mascot.adapters.formats.layer_settings import Layers, read_own, with_alpha, without_settings, write_own
from mascot.adapters.formats.numbered_layers import LAYER, is_numbered, read_numbered, without_numbers
from mascot.adapters.formats.transformer_layers import (
    ORIGINAL_NAMES,
    PART,
    TRANSFORMER,
    find_original_name,
    join_original,
    separate_layers,
    tell_transformer,
)
from mascot.adapters.formats.unet_names import UNET
from mascot.adapters.formats.word_files import is_foreign_word, own_words, take_words, write_words
from mascot.adapters.lora_keys import DOWN, METADATA_KEY
from mascot.errors import UserError, list_some

Architecture = Literal["sd1", "sd2", "sdxl", "sd3", "flux"]
BASE_NAMES: Final[Mapping[str | None, str]] = {
    "sd1": "Stable Diffusion 1",
    "sd2": "Stable Diffusion 2",
    "sdxl": "Stable Diffusion XL",
    "sd3": "Stable Diffusion 3",
    "flux": "FLUX.1",
}
"""Architecture -> its name in messages."""
FORMATS: Final = ("diffusers", "kohya", "peft", "comfyui")
"""Formats that are written."""
DENOISERS: Final[tuple[DenoiserNames, ...]] = (UNET, TRANSFORMER)
"""Names of each kind of denoiser; the first that knows a layer counts."""

OWN: Final = re.compile(
    r"(?P<part>(stage\d+\.)?(unet|transformer|text_encoder(_\d+)?))\.(?P<peft>base_model\.model\.)?(?P<layer>.+)"
)
"""A layer's name that begins with its part, as diffusers and peft write it."""
FLAT: Final = re.compile(r"(lora_unet|lycoris|lora_transformer|lora_prior_unet)_(?P<layer>.+)")
"""An underscored name of a denoiser's layer."""
COMFYUI: Final = "diffusion_model."
COMFYUI_TEXT: Final = re.compile(r"text_encoders\.(?P<encoder>\w+)\.transformer\.(?P<layer>.+)")
CROSS_ATTENTION: Final[Mapping[int, Architecture]] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""Width of the text embeddings that a UNet attends to -> its architecture."""
TEXT_WIDTHS: Final[Mapping[int, Architecture]] = {768: "sd1", 1024: "sd2"}
"""Width of the only text encoder -> the architecture."""
STATED: Final[Mapping[str, Architecture]] = {
    "stable-diffusion-v1": "sd1",
    "stable-diffusion-v2": "sd2",
    "stable-diffusion-xl": "sdxl",
    "sd_v1": "sd1",
    "sd_v2": "sd2",
    "sdxl": "sdxl",
}
"""How a header's statement of the base begins -> the architecture."""
STATEMENTS: Final = ("modelspec.architecture", "ss_base_model_version")
"""Keys of a header that state the base."""
SECOND_ENCODER: Final = 1280
"""Width of SDXL's second text encoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertedAdapter:
    """A file of another tool in our form."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    """The file's own texts, with the ranks and alphas of its layers as ours are written."""
    format: str
    """Name of the format found; several are joined by `and`."""
    architecture: Architecture | None
    """The kind of base, where names and shapes tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a tensor's name leads."""

    part: str
    layer: str
    format: str


def read_format(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], name: str = "word") -> ConvertedAdapter:
    """Read the tensors of any tool's file into our form; those of our own form stay what they are.

    `name` is the file's without its ending. It names a word that the file does not name.

    Raises:
        UserError: a tensor has no layer that we know, a layer is not whole, or its kind has no
            form here; the sentence names it.
    """
    rest, found_words = take_words(tensors, metadata, name)
    numbered = is_numbered(tuple(rest))
    if numbered and (strays := [key for key in rest if not LAYER.fullmatch(key)]):
        raise UserError(describe_strays(strays, len(tensors)))
    grouped, formats = group_by_layer(read_numbered(rest) if numbered else rest)
    formats = {"cloneofsimo": None} if numbered else formats or {"words": None}
    metadata = without_numbers(metadata) if numbered else metadata
    words, word_metadata = own_words(found_words, bundled=bool(rest))
    settings = settings_by_part(metadata)
    layers = {
        (part, layer): with_alpha(read_layer(f"{part}.{layer}", own), layer, settings.get(part))
        for (part, layer), own in grouped.items()
    }
    own_tensors, own_metadata = write_own(place_text_layers(separate_layers(layers)))
    is_own = METADATA_KEY in metadata and {*own_tensors, *words} == set(tensors)
    return ConvertedAdapter(
        tensors=own_tensors | words,
        metadata={**(metadata if is_own else without_settings(metadata) | own_metadata), **word_metadata},
        format=" and ".join(formats),
        architecture=architecture_of(own_tensors),
    )


def group_by_layer(
    tensors: Mapping[str, Tensor],
) -> tuple[dict[tuple[str, str], dict[str, Tensor]], dict[str, None]]:
    """Group tensors by part and layer under their endings; return their formats beside them.

    Raises:
        UserError: a name leads to no layer, or two names lead to one tensor.
    """
    grouped: dict[tuple[str, str], dict[str, Tensor]] = {}
    strays: list[str] = []
    formats: dict[str, None] = {}
    for key, tensor in tensors.items():
        split = split_key(key)
        found = locate(split[0]) if split else None
        if split is None or found is None:
            strays.append(key)
            continue
        formats[found.format] = None
        own = grouped.setdefault((found.part, found.layer), {})
        if split[1] in own:
            raise UserError(f"it has {found.part}.{found.layer} twice, under two names; {AGAIN}")
        own[split[1]] = tensor
    if strays:
        raise UserError(describe_strays(strays, len(tensors)))
    return grouped, formats


def is_foreign(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether tensors have the names of another format than ours, which is diffusers'."""
    if any(is_foreign_word(key) for key in tensors):
        return True
    layers = dict.fromkeys(split[0] for key in tensors if (split := split_key(key)))
    return any(found.format != "diffusers" for layer in layers if (found := locate(layer)))


def describe_strays(strays: list[str], count: int) -> str:
    """Write the error message for tensors whose names lead to no layer."""
    return (
        f"{len(strays)} of its {count} keys have no layer that mascot knows, {list_some(strays)}; "
        "give a LoRA, LoCon, DoRA, LoHa or LoKr of diffusers, kohya, LyCORIS, peft, ComfyUI, OneTrainer or ai-toolkit."
    )


def locate(name: str) -> Location | None:
    """Find part and layer of a name without its ending; None where no layer is called so."""
    for read in READERS:
        found = read(name)
        if found is not None:
            return found
    return None


def locate_own(name: str) -> Location | None:
    """Read a name that begins with its part; the layer is checked against the base later."""
    found = OWN.fullmatch(name)
    if found is None:
        return None
    part, layer = found["part"], found["layer"].replace(".processor.", ".")
    if part.startswith("text_encoder"):
        layer = text_encoder_names.from_dotted(layer)
    else:
        layer = re.sub(r"\.to_out$", ".to_out.0", from_any_original(layer) or layer)
    return Location(part=part, layer=layer, format="peft" if found["peft"] else "diffusers")


def from_any_original(layer: str) -> str | None:
    """Turn a dotted name of a denoiser's original code into ours."""
    return next((ours for denoiser in DENOISERS if (ours := denoiser.from_original(layer))), None)


def locate_flat(name: str) -> Location | None:
    """Read an underscored name, as kohya, LyCORIS and OneTrainer write it."""
    for prefix, part in text_encoder_names.FLAT_PREFIXES.items():
        if name.startswith(prefix):
            layer = text_encoder_names.from_flat(name.removeprefix(prefix))
            return None if layer is None else Location(part=part, layer=layer, format="kohya")
    found = FLAT.fullmatch(name)
    if found is None:
        return None
    for denoiser in DENOISERS:
        ours = denoiser.from_flat(found["layer"])
        if ours is not None:
            return Location(part=denoiser.part, layer=ours, format="kohya")
    layer = text_encoder_names.from_flat(found["layer"]) if name.startswith("lycoris_") else None
    return None if layer is None else Location(part="text_encoder", layer=layer, format="kohya")


def locate_comfyui(name: str) -> Location | None:
    """Read a name of ComfyUI: the original code's, after `diffusion_model.` or `text_encoders.`."""
    found = COMFYUI_TEXT.fullmatch(name)
    if found is not None and found["encoder"] in text_encoder_names.COMFYUI_ENCODERS:
        part = text_encoder_names.COMFYUI_ENCODERS[found["encoder"]]
        return Location(part=part, layer=text_encoder_names.from_dotted(found["layer"]), format="comfyui")
    if not name.startswith(COMFYUI):
        return None
    layer = name.removeprefix(COMFYUI)
    for denoiser in DENOISERS:
        ours = layer if denoiser.knows(layer) else denoiser.from_original(layer)
        if ours is not None:
            return Location(part=denoiser.part, layer=ours, format="comfyui")
    return None


def locate_bare(name: str) -> Location | None:
    """Read a name without its part, as diffusers' `save_lora_adapter` and peft write it."""
    layer = name.removeprefix("base_model.model.").replace(".processor.", ".")
    kind = "diffusers" if name.removeprefix("base_model.model.") == name else "peft"
    layer = re.sub(r"\.to_out$", ".to_out.0", layer)
    for denoiser in DENOISERS:
        ours = layer if denoiser.knows(layer) else denoiser.from_original(layer)
        if ours is not None:
            is_original = kind == "diffusers" and find_original_name(layer) is not None
            return Location(part=denoiser.part, layer=ours, format="original" if is_original else kind)
    text = text_encoder_names.from_dotted(layer)
    return Location(part="text_encoder", layer=text, format=kind) if text_encoder_names.CLIP.knows(text) else None


READERS: Final[tuple[Callable[[str], Location | None], ...]] = (locate_own, locate_flat, locate_comfyui, locate_bare)
"""Readers of layer names; the first that knows a name counts."""


def place_text_layers(layers: Layers) -> Layers:
    """Give layers of text encoders to the one that has them in diffusers.

    One of SDXL's second width is the second, where none is named so. FLUX.1's T5 is the second.
    """
    if any(part == "text_encoder_3" for part, _ in layers) and tell_transformer(layers) == "flux":
        return {
            ("text_encoder_2" if part == "text_encoder_3" else part, layer): own
            for (part, layer), own in layers.items()
        }
    text = [change for (part, layer), change in layers.items() if part == "text_encoder" and ".self_attn." in layer]
    wide = all(DOWN in change.tensors and change.tensors[DOWN].shape[1] == SECOND_ENCODER for change in text)
    if not text or not wide or any(part == "text_encoder_2" for part, _ in layers):
        return layers
    return {("text_encoder_2" if part == "text_encoder" else part, layer): own for (part, layer), own in layers.items()}


def architecture_of(tensors: Mapping[str, Tensor]) -> Architecture | None:
    """Tell the kind of base from the names and shapes of tensors in our form; None if they do not.

    A UNet is told by the width of the text embeddings that it attends to. Two CLIPs alone tell
    nothing: those of SDXL and of Stable Diffusion 3 are alike.
    """
    widths = input_widths(tensors, "unet.", (".attn2.to_k", ".attn2.to_v"))
    if widths:
        return CROSS_ATTENTION.get(widths.pop()) if len(widths) == 1 else None
    parts = {key.partition(".")[0] for key in tensors}
    text = input_widths(tensors, "text_encoder", ("q_proj", "k_proj", "v_proj", "out_proj", ".fc1"))
    if PART in parts:
        return tell_transformer(read_own(tensors, {})[0])
    if parts & {"text_encoder_2", "text_encoder_3"}:
        return "sdxl" if "unet" in parts and SECOND_ENCODER in text else None
    return TEXT_WIDTHS.get(text.pop()) if len(text) == 1 and "unet" in parts else None


def stated_architecture(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Architecture | None:
    """Tell the base by what a file's header states, where no layer has a shape that tells."""
    if any(".attn2.to_" in key for key in tensors):
        return None
    stated = next((metadata[key] for key in STATEMENTS if key in metadata), "")
    return next((found for start, found in STATED.items() if stated.startswith(start)), None)


def write_format(
    to: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], architecture: Architecture | None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Write tensors and metadata of our form in another format, one of FORMATS.

    Raises:
        UserError: the format has no name for a layer, or no form for a tensor.
    """
    without_words, words = take_words(tensors, metadata, "word")
    layers, others = read_own(without_words, metadata)
    check_others(to, others)
    others |= write_words(to, words, bundled=bool(layers))
    rest = without_settings(metadata)
    if to == "diffusers":
        written, settings = write_own(layers)
        return written | others, rest | settings
    if to == "peft":
        names = {key: name_in_peft(key, architecture) for key in layers}
        written, settings = write_own(layers)
        renamed = {
            f"{names[key]}{ending}": tensor for key, own in layers.items() for ending, tensor in own.tensors.items()
        }
        return renamed | others, rest | settings
    write_name = name_in_kohya if to == "kohya" else name_in_comfyui
    several = any(part == "text_encoder_2" for part, _ in layers)
    layers, apart = join_transformer(to, layers, architecture)
    named = {key: write_name(key, architecture, several) for key in layers} | {key: name_apart(key) for key in apart}
    layers |= apart
    if unnamed := [".".join(key) for key, name in named.items() if name is None]:
        raise UserError(
            f"{to} has no name for {len(unnamed)} of its {len(layers)} layers, {list_some(unnamed)}; "
            "give --to diffusers or peft."
        )
    return write_layers(layers, named) | others, rest


def join_transformer(to: str, layers: Layers, architecture: Architecture | None) -> tuple[Layers, Layers]:
    """Give a transformer's layers their original names, and join those that are one layer there.

    Returns them, and the layers that can only be written apart, as ComfyUI alone reads them.

    Raises:
        UserError: it is unclear whose transformer it is, or the format cannot hold a layer.
    """
    if not any(part == PART for part, _ in layers):
        return layers, {}
    if architecture is None or architecture not in ORIGINAL_NAMES:
        raise UserError(
            "its layers do not tell whether they are of SD3 or of FLUX.1, whose names differ; "
            "give --to diffusers or peft."
        )
    joined, refused = join_original(layers, architecture)
    if refused and to != "comfyui":
        (part, layer), reason = next(iter(refused.items()))
        raise UserError(
            f"{to} has one layer for several, and {len(refused)} of its {len(layers)} layers cannot be joined: "
            f"{part}.{layer}, because {reason}; give --to comfyui, diffusers or peft."
        )
    return joined, {key: layers[key] for key in refused}


def name_apart(key: tuple[str, str]) -> str | None:
    """Write ComfyUI's name of a layer of diffusers that is a part of an original one.

    ComfyUI leaves scale and shift of SD3's last block as they stand under that name, so that layer
    has none.
    """
    layer = key[1]
    has_name = TRANSFORMER.knows(layer) and not layer.endswith("norm1_context.linear")
    return f"lycoris_{layer.replace('.', '_')}" if has_name else None


def write_layers(layers: Layers, names: Mapping[tuple[str, str], str | None]) -> dict[str, Tensor]:
    """Write layers under their names in another format, with kohya's endings."""
    return {
        f"{names[key]}{ending}": tensor
        for key, change in layers.items()
        for ending, tensor in write_kohya(change).items()
    }


def check_others(to: str, others: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are no layer and no word, which only our own form can carry."""
    if others and to != "diffusers":
        raise UserError(f"the form of {to} has no place for {list_some(others)}; give --to diffusers.")


def name_in_kohya(key: tuple[str, str], architecture: str | None, several: bool) -> str | None:  # noqa: FBT001
    """Write kohya's whole name of a layer; None where it has none."""
    part, layer = key
    if part.startswith("text_encoder"):
        return text_encoder_names.to_kohya(part, layer, architecture, several=several)
    denoiser = next((one for one in DENOISERS if one.part == part and one.knows(layer)), None)
    name = None if denoiser is None else denoiser.to_kohya(layer, architecture)
    return None if name is None else f"lora_unet_{name}"


def name_in_comfyui(key: tuple[str, str], architecture: str | None, several: bool) -> str | None:  # noqa: FBT001
    """Write ComfyUI's whole name of a layer; None where it has none."""
    del several
    part, layer = key
    if part.startswith("text_encoder"):
        return text_encoder_names.to_comfyui(part, layer, architecture)
    denoiser = next((one for one in DENOISERS if one.part == part and one.knows(layer)), None)
    name = None if denoiser is None else denoiser.to_original(layer, architecture)
    return None if name is None else f"{COMFYUI}{name}"


def name_in_peft(key: tuple[str, str], architecture: str | None) -> str:
    """Write a layer's name in peft's form, with its part before it."""
    part, layer = key
    name = text_encoder_names.to_module(part, layer, architecture) if part.startswith("text_encoder") else layer
    return f"{part}.base_model.model.{name}"
