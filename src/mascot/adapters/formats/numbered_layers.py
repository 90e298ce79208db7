"""Files of cloneofsimo's lora: layers by number, in the order in which a program visited them.

A layer's tensors are `<part>:<number>:up` and `<part>:<number>:down`. The metadata list the classes
of modules whose linear layers (and convolutions, of residual blocks) were numbered. The order is
that of the modules in a UNet of Stable Diffusion 1 or 2, as diffusers built it when the file was
written: the middle block comes last. Releases of diffusers differ in the place of a block's
feed-forward layer, so of several orders the one is taken that fits all shapes.

There is no alpha: weight changes are `up @ down`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Final

from torch import Tensor

from mascot.adapters.lora_keys import DOWN, UP
from mascot.errors import UserError, list_some

LAYER: Final = re.compile(r"(?P<part>\w+):(?P<number>\d{1,4}):(?P<side>up|down)")
"""A tensor's name."""
WORD_MARK: Final = "<embed>"
"""Metadata value of each token whose embedding is in the file under its own name."""
WIDTHS: Final = (320, 640, 1280, 1280)
"""Channels of the UNet's levels, from the finest on."""
TEXT_WIDTHS: Final = {12: 768, 23: 1024}
"""Layers of the text encoder -> its width: Stable Diffusion 1, and 2."""
TEXT_PROJECTIONS: Final = ("k_proj", "v_proj", "q_proj", "out_proj")
"""A text encoder layer's projections in their order."""
ATTENTION_FIRST: Final = ("attn1", "ff", "attn2")
"""Order in a transformer block up to diffusers 0.11; later releases have the feed-forward last."""

Named = tuple[str, tuple[int, ...]]
"""A layer's name and the shape of its weight."""


def is_numbered(keys: Sequence[str]) -> bool:
    """Tell by the tensor names whether a file numbers its layers."""
    return any(LAYER.fullmatch(key) for key in keys)


def read_numbered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name the numbered layers of a file as diffusers does; other tensors stay out.

    Raises:
        UserError: numbers or shapes are not those of a UNet or text encoder of SD 1 or 2.
    """
    sides: dict[str, dict[int, dict[str, Tensor]]] = {}
    for key, tensor in tensors.items():
        if match := LAYER.fullmatch(key):
            sides.setdefault(match["part"], {}).setdefault(int(match["number"]), {})[match["side"]] = tensor
    named: dict[str, Tensor] = {}
    for part, layers in sides.items():
        halves = [f"{part}:{number}" for number, pair in layers.items() if len(pair) == 1]
        if halves:
            raise UserError(f"it has half a layer at {list_some(halves)}; get the file again from where it comes from.")
        for name, number in zip(layer_names(part, layers), sorted(layers), strict=True):
            named[f"{part}.{name}{DOWN}"] = layers[number]["down"]
            named[f"{part}.{name}{UP}"] = layers[number]["up"]
    return named


def without_numbers(metadata: Mapping[str, str]) -> dict[str, str]:
    """Leave out what the header of such a file says of its numbers and words."""
    numbered = re.compile(r"\w+:\d+:rank")
    parts = {key.partition(":")[0] for key in metadata if numbered.fullmatch(key)}
    return {
        key: value
        for key, value in metadata.items()
        if not numbered.fullmatch(key) and key not in parts and value != WORD_MARK
    }


def layer_names(part: str, layers: Mapping[int, Mapping[str, Tensor]]) -> list[str]:
    """Find the names of a part's layers, in the order of their numbers.

    Raises:
        UserError: there are other layers than in SD 1 or 2.
    """
    shapes = [pair_shape(layers[number]) for number in sorted(layers)]
    if sorted(layers) == list(range(len(layers))):
        for names in orders(part, len(layers)):
            if [shape for _, shape in names] == shapes:
                return [name for name, _ in names]
    raise UserError(
        f"its {len(layers)} numbered layers of {part} are not those of Stable Diffusion 1 or 2, "
        "and the file does not name them; generate with the tool that wrote it."
    )


def pair_shape(pair: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Give the shape of the weight that a pair of projections changes."""
    up, down = pair["up"], pair["down"]
    return (*up.shape[:1], *down.shape[1:]) if up.shape[1:2] == down.shape[:1] else ()


def orders(part: str, count: int) -> Iterator[list[Named]]:
    """Yield the orders in which a part's layers may have been numbered."""
    if part == "text_encoder":
        width = TEXT_WIDTHS.get(count // len(TEXT_PROJECTIONS), 0)
        yield [
            (f"text_model.encoder.layers.{layer}.self_attn.{projection}", (width, width))
            for layer in range(count // len(TEXT_PROJECTIONS))
            for projection in TEXT_PROJECTIONS
        ]
    elif part == "unet":
        for block, context, residual in product(
            (ATTENTION_FIRST, ("attn1", "attn2", "ff"), ("attn1", "attn2"), ("ff",)), (768, 1024), (False, True)
        ):
            yield list(unet_layers(block, context, residual=residual))


def unet_layers(block: Sequence[str], context: int, *, residual: bool) -> Iterator[Named]:
    """Yield the layers of a UNet of Stable Diffusion: down blocks, up blocks, then the middle.

    Args:
        block: Which layers of a transformer block count, in their order.
        context: Width of the text encoder.
        residual: Whether those of residual blocks count too.
    """
    for level, width in enumerate(WIDTHS):
        if level < len(WIDTHS) - 1:
            for index in range(2):
                yield from transformer(f"down_blocks.{level}.attentions.{index}", width, block, context)
        inputs = (WIDTHS[max(level - 1, 0)], width)
        yield from resnets(f"down_blocks.{level}", inputs, width, residual=residual)
    for level, width in enumerate(reversed(WIDTHS)):
        if level:
            for index in range(3):
                yield from transformer(f"up_blocks.{level}.attentions.{index}", width, block, context)
        skipped = WIDTHS[max(len(WIDTHS) - 2 - level, 0)]
        before = WIDTHS[min(len(WIDTHS) - level, len(WIDTHS) - 1)]
        inputs = (before + width, 2 * width, width + skipped)
        yield from resnets(f"up_blocks.{level}", inputs, width, residual=residual)
    yield from transformer("mid_block.attentions.0", WIDTHS[-1], block, context)
    yield from resnets("mid_block", (WIDTHS[-1],) * 2, WIDTHS[-1], residual=residual)


def transformer(name: str, width: int, block: Sequence[str], context: int) -> Iterator[Named]:
    """Yield the layers of a transformer's only block."""
    for layer in block:
        inner = f"{name}.transformer_blocks.0.{layer}"
        if layer == "ff":
            yield f"{inner}.net.0.proj", (8 * width, width)
            continue
        source = width if layer == "attn1" else context
        for projection, inputs in (("to_q", width), ("to_k", source), ("to_v", source), ("to_out.0", width)):
            yield f"{inner}.{projection}", (width, inputs)


def resnets(name: str, inputs: Sequence[int], width: int, *, residual: bool) -> Iterator[Named]:
    """Yield the layers of a block's residual blocks, which have these channels as inputs."""
    for index, channels in enumerate(inputs if residual else ()):
        inner = f"{name}.resnets.{index}"
        yield f"{inner}.conv1", (width, channels, 3, 3)
        yield f"{inner}.time_emb_proj", (width, 4 * WIDTHS[0])
        yield f"{inner}.conv2", (width, width, 3, 3)
        if channels != width:
            yield f"{inner}.conv_shortcut", (width, channels, 1, 1)
