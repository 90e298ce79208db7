"""Where a layer lies in its base: its block, and whether any base of an architecture has it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from mascot.adapters.formats.transformer_layers import READ_NAMES, split_number, with_number

UNET_BLOCK: Final = re.compile(r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.")
TRANSFORMER_BLOCK: Final = re.compile(r"((?:single_)?transformer_blocks\.\d+)\.")
OTHER: Final = "other layers"
"""The layers of a denoiser outside its blocks."""

RESIDUALS: Final = r"(down_blocks\.[0-{0}]\.resnets\.[01]|up_blocks\.[0-{0}]\.resnets\.[0-2]|mid_block\.resnets\.[01])"
RESAMPLED: Final = r"(down_blocks\.[0-{0}]\.downsamplers|up_blocks\.[0-{0}]\.upsamplers)\.0\.conv"
UNET_ENDS: Final = r"(conv_in|conv_out|(time|add)_embedding\.linear_[12])"
ATTENTIONS_1: Final = (
    r"(down_blocks\.[0-2]\.attentions\.[01]|up_blocks\.[1-3]\.attentions\.[0-2]|mid_block\.attentions\.0)"
)
ATTENTIONS_XL: Final = (
    r"(down_blocks\.1\.attentions\.[01]|up_blocks\.1\.attentions\.[0-2])\.(proj_(in|out)|transformer_blocks\.[01]\..+)|"
    r"(down_blocks\.2\.attentions\.[01]|up_blocks\.0\.attentions\.[0-2]|mid_block\.attentions\.0)"
    r"\.(proj_(in|out)|transformer_blocks\.\d\..+)"
)
LAYERS: Final[Mapping[str, re.Pattern[str]]] = {
    name: re.compile(pattern)
    for name, pattern in {
        **dict.fromkeys(
            ("sd1", "sd2"),
            rf"{ATTENTIONS_1}\.(proj_(in|out)|transformer_blocks\.0\..+)|"
            rf"{RESIDUALS.format(3)}\..+|{RESAMPLED.format(2)}|{UNET_ENDS}",
        ),
        "sdxl": rf"{ATTENTIONS_XL}|{RESIDUALS.format(2)}\..+|{RESAMPLED.format(1)}|{UNET_ENDS}",
        "sd3": r"transformer_blocks\.([12]?\d|3[0-7])\..+|(?!(single_)?transformer_blocks).+",
        "flux": r"transformer_blocks\.1?\d\..+|single_transformer_blocks\.([12]?\d|3[0-7])\..+|"
        r"(?!(single_)?transformer_blocks).+",
    }.items()
}
"""Architecture -> the names of the layers of its denoiser, in its largest base."""
TEXT_LAYERS: Final[Mapping[tuple[str, str], int]] = {
    ("sd1", "text_encoder"): 12,
    ("sd2", "text_encoder"): 23,
    ("sdxl", "text_encoder"): 12,
    ("sdxl", "text_encoder_2"): 32,
    ("sd3", "text_encoder"): 12,
    ("sd3", "text_encoder_2"): 32,
    ("flux", "text_encoder"): 12,
}
"""Architecture and text encoder -> the number of its layers."""


def own_name(layer: str) -> str:
    """Turn an original name of a transformer's layer into diffusers', the first of several."""
    template, number = split_number(layer)
    names = READ_NAMES.layers.get(template)
    return layer if names is None else with_number(names[0], number)


def block_of(part: str, layer: str) -> str:
    """Name the block of a part that a layer lies in; a text encoder is one block."""
    if "text_encoder" in part:
        return part
    layer = own_name(layer)
    found = UNET_BLOCK.match(layer) or TRANSFORMER_BLOCK.match(layer)
    return found[1] if found else OTHER


def exists(architecture: str | None, part: str, layer: str) -> bool:
    """Tell whether a base of an architecture has a layer; of an unknown architecture, any may."""
    if architecture not in LAYERS:
        return True
    if not part.startswith("text_encoder"):
        return LAYERS[architecture].fullmatch(own_name(layer)) is not None
    number = re.search(r"encoder\.layers\.(\d+)\.", layer)
    return number is None or int(number[1]) < TEXT_LAYERS.get((architecture, part), 1000)
