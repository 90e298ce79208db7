"""Names of the layers of Stable Diffusion 1, 2 and XL's UNets, in diffusers and the original code.

The original code numbers all blocks in a row (`input_blocks.4.1`), two layers and a resampling a
level; diffusers counts levels and layers apart (`down_blocks.1.attentions.0`). kohya writes
diffusers' names for Stable Diffusion 1 and 2, and the original ones for XL, both with underscores.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from mascot.adapters.formats.layer_names import DenoiserNames, FlatNames, join_patterns, rename_start

ATTENTION: Final = (
    "proj_in",
    "proj_out",
    *join_patterns(
        ("transformer_blocks.#",),
        (
            *join_patterns(("attn1", "attn2"), ("to_q", "to_k", "to_v", "to_out.#")),
            "ff.net.#.proj",
            "ff.net.#",
        ),
    ),
)
"""Patterns of the layers inside one attention block; both codes share these names."""
RESNET: Final[Mapping[str, str]] = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
"""Layer of a residual block in diffusers -> in the original code."""
OUTER: Final[Mapping[str, str]] = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_out": "out.2",
}
"""Layer outside the levels in diffusers -> in the original code."""
MIDDLE: Final[Mapping[str, str]] = {
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
"""Block between the levels in diffusers -> in the original code."""

LEVELS: Final = ("down_blocks.#", "up_blocks.#")
DIFFUSERS: Final = FlatNames(
    (
        *(re.sub(r"_\d$", "_#", name) for name in OUTER),
        *join_patterns(join_patterns((*LEVELS, "mid_block"), ("resnets.#",)), RESNET),
        *join_patterns(join_patterns((*LEVELS, "mid_block"), ("attentions.#",)), ATTENTION),
        "down_blocks.#.downsamplers.#.conv",
        "up_blocks.#.upsamplers.#.conv",
    )
)
ORIGINAL_BLOCKS: Final = ("input_blocks.#.#", "middle_block.#", "output_blocks.#.#")
ORIGINAL: Final = FlatNames(
    (
        "input_blocks.#.#",
        "time_embed.#",
        "label_emb.#.#",
        "out.#",
        *join_patterns(ORIGINAL_BLOCKS, (re.sub(r"\d", "#", name) for name in RESNET.values())),
        *join_patterns(ORIGINAL_BLOCKS, ATTENTION),
        "input_blocks.#.#.op",
        "output_blocks.#.#.conv",
    )
)
ROW: Final = 3
"""Numbered blocks of the original code for each level."""


def from_flat(flat: str) -> str | None:
    """Turn an underscored name, of diffusers or the original code, into diffusers' name."""
    ours = DIFFUSERS.unflatten(flat)
    if ours is not None:
        return ours
    original = ORIGINAL.unflatten(flat)
    return None if original is None else from_original(original)


def from_original(name: str) -> str | None:
    """Turn a dotted name of the original code into diffusers' name."""
    outer = rename_start(name, {original: ours for ours, original in (OUTER | MIDDLE).items()})
    ours = outer or from_numbered(name)
    if ours is None:
        return None
    start, found, inner = ours.partition("resnets.")
    number, _, layer = inner.partition(".")
    if found:
        known = next((mine for mine, theirs in RESNET.items() if theirs == layer), None)
        ours = None if known is None else f"{start}resnets.{number}.{known}"
    return ours if ours is not None and DIFFUSERS.knows(ours) else None


def from_numbered(name: str) -> str | None:
    """Turn the original code's number of a block into level and layer; what follows is kept."""
    found = re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d+)\.(.+)", name)
    if found is None:
        return None
    number, place, inner = int(found[2]), int(found[3]), found[4]
    if found[1] == "input":
        level, layer = divmod(number - 1, ROW)
        if inner == "op":
            return f"down_blocks.{level}.downsamplers.0.conv" if layer == ROW - 1 and place == 0 else None
        side = "down"
        if number == 0 or layer == ROW - 1:
            return None
    else:
        level, layer = divmod(number, ROW)
        if inner == "conv":
            return f"up_blocks.{level}.upsamplers.0.conv" if layer == ROW - 1 and place in {1, 2} else None
        side = "up"
    kind = {0: "resnets", 1: "attentions"}.get(place)
    return None if kind is None else f"{side}_blocks.{level}.{kind}.{layer}.{inner}"


def to_original(name: str, architecture: str | None) -> str | None:
    """Turn diffusers' name into the original code's.

    An upsampling stands behind the attention of its block, which Stable Diffusion 1 and 2 lack in
    their first level, and XL has there.
    """
    if not DIFFUSERS.knows(name):
        return None
    outer = rename_start(name, OUTER)
    if outer is not None:
        return outer
    start, found, inner = name.partition(".resnets.")
    number, _, layer = inner.partition(".")
    inside = f"{start}.resnets.{number}.{RESNET[layer]}" if found else name
    middle = rename_start(inside, MIDDLE)
    if middle is not None or inside.startswith("mid_block."):
        return middle
    return to_numbered(inside, architecture)


def to_numbered(name: str, architecture: str | None) -> str | None:
    """Turn level and layer into the original code's number of a block; what follows is kept."""
    side, level, kind, layer, inner = re.split(r"\.", name, maxsplit=4)
    number = ROW * int(level) + int(layer)
    if kind == "downsamplers":
        return f"input_blocks.{ROW * (int(level) + 1)}.0.op"
    if kind == "upsamplers":
        place = 1 if level == "0" and architecture != "sdxl" else 2
        return f"output_blocks.{ROW * int(level) + ROW - 1}.{place}.conv"
    most = ROW - 1 if side == "down_blocks" else ROW
    if int(layer) >= most:
        return None
    block = f"input_blocks.{number + 1}" if side == "down_blocks" else f"output_blocks.{number}"
    return f"{block}.{0 if kind == 'resnets' else 1}.{inner}"


def to_kohya(name: str, architecture: str | None) -> str | None:
    """Turn diffusers' name into kohya's underscored one: the original code's for XL."""
    theirs = to_original(name, architecture) if architecture == "sdxl" else name
    return None if theirs is None or not DIFFUSERS.knows(name) else theirs.replace(".", "_")


UNET: Final = DenoiserNames(
    part="unet",
    knows=DIFFUSERS.knows,
    from_flat=from_flat,
    from_original=from_original,
    to_kohya=to_kohya,
    to_original=to_original,
)
