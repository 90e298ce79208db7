"""The settings of a checkpoint's parts, found from the shapes of its tensors.

A checkpoint in the original layout of Stable Diffusion (Rombach et al. 2022) holds tensors and no
settings. Widths, depths and attention follow from shapes. What does not is the same in all of them:
32 groups a normalization, 8 or 64-wide heads, and the scale of latents.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from mascot.models.base_files.file_contents import AUTOENCODER, OPEN_CLIP, SECOND_OF_TWO, UNET, Shapes

HEAD_WIDTH: Final = 64
"""Width of an attention head, but in Stable Diffusion 1's UNets, which have 8 heads a layer."""
FRAMING_NUMBERS: Final = 6

ALL_LAYERS: Final = 24
"""Layers of OpenCLIP's ViT-H; Stable Diffusion 2 was trained on the last but one."""

Settings = dict[str, object]


def count_numbered(shapes: Shapes, prefix: str) -> int:
    """Count the layers `prefix0.`, `prefix1.` and so on."""
    numbers = {int(found[1]) for name in shapes if (found := re.match(rf"{re.escape(prefix)}(\d+)\.", name))}
    return len(numbers)


def has_two_encoders(shapes: Shapes) -> bool:
    """Tell whether two text encoders condition the UNet."""
    return any(name.startswith(SECOND_OF_TWO) for name in shapes)


def denoiser_levels(shapes: Shapes) -> list[list[tuple[int, int]]]:
    """List each level of the UNet: the width and the transformer depth of each of its layers."""
    levels: list[list[tuple[int, int]]] = [[]]
    for number in range(1, count_numbered(shapes, f"{UNET}input_blocks.")):
        block = f"{UNET}input_blocks.{number}."
        if f"{block}0.op.weight" in shapes:
            levels.append([])
        else:
            width = shapes[f"{block}0.in_layers.2.weight"][0]
            levels[-1].append((width, count_numbered(shapes, f"{block}1.transformer_blocks.")))
    return levels


def denoiser_settings(shapes: Shapes, sample_size: int) -> Settings:
    """Return the settings of the UNet; `sample_size` is the side of its latents."""
    levels = denoiser_levels(shapes)
    widths = [level[0][0] for level in levels]
    depths = [max(depth for _, depth in level) for level in levels]
    cross = next(name for name in shapes if name.startswith(UNET) and name.endswith("attn2.to_k.weight"))
    projection = next(name for name in shapes if name.startswith(UNET) and name.endswith(".proj_in.weight"))
    linear = len(shapes[projection]) == 2
    settings: Settings = {
        "sample_size": sample_size,
        "in_channels": shapes[f"{UNET}input_blocks.0.0.weight"][1],
        "out_channels": shapes[f"{UNET}out.2.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": len(levels[0]),
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        "transformer_layers_per_block": [max(1, depth) for depth in depths],
        "cross_attention_dim": shapes[cross][1],
        "attention_head_dim": [max(1, width // HEAD_WIDTH) for width in widths] if linear else 8,
        "use_linear_projection": linear,
    }
    if has_two_encoders(shapes):
        added = shapes[f"{UNET}label_emb.0.0.weight"][1]
        pooled = shapes[f"{SECOND_OF_TWO}text_projection"][1]
        settings |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (added - pooled) // FRAMING_NUMBERS,
            "projection_class_embeddings_input_dim": added,
        }
    return settings


def autoencoder_settings(shapes: Shapes) -> Settings:
    """Return the settings of the autoencoder."""
    levels = range(count_numbered(shapes, f"{AUTOENCODER}encoder.down."))
    blocks = [f"{AUTOENCODER}encoder.down.{level}.block." for level in levels]
    return {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": shapes[f"{AUTOENCODER}post_quant_conv.weight"][0],
        "block_out_channels": [shapes[f"{block}0.conv1.weight"][0] for block in blocks],
        "layers_per_block": count_numbered(shapes, blocks[0]),
        "down_block_types": ["DownEncoderBlock2D"] * len(blocks),
        "up_block_types": ["UpDecoderBlock2D"] * len(blocks),
        "scaling_factor": 0.13025 if has_two_encoders(shapes) else 0.18215,
    }


TRANSFORMERS: Final[Mapping[str, str]] = {
    "tokens": "embeddings.token_embedding.weight",
    "positions": "embeddings.position_embedding.weight",
    "layers": "encoder.layers.",
    "feed_forward": "encoder.layers.0.mlp.fc1.weight",
}
"""Name of a fact -> the tensor that tells it, in CLIP's layout of the transformers library."""
ORIGINAL: Final[Mapping[str, str]] = {
    "tokens": "token_embedding.weight",
    "positions": "positional_embedding",
    "layers": "transformer.resblocks.",
    "feed_forward": "transformer.resblocks.0.mlp.c_fc.weight",
}
"""Name of a fact -> the tensor that tells it, in OpenCLIP's layout."""


def text_settings(shapes: Shapes, prefix: str) -> Settings:
    """Return the settings of the CLIP text encoder under a prefix.

    OpenCLIP's encoders have another activation, and another token fills their prompts.
    """
    original = f"{prefix}{ORIGINAL['tokens']}" in shapes
    names = ORIGINAL if original else TRANSFORMERS
    start = prefix if original or f"{prefix}{names['tokens']}" in shapes else f"{prefix}text_model."
    rows, width = shapes[f"{start}{names['tokens']}"]
    projection = shapes.get(f"{prefix}text_projection", (width, width))
    layers = count_numbered(shapes, f"{start}{names['layers']}")
    if prefix == OPEN_CLIP and layers == ALL_LAYERS:
        layers -= 1
    return {
        "vocab_size": rows,
        "hidden_size": width,
        "intermediate_size": shapes[f"{start}{names['feed_forward']}"][0],
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // HEAD_WIDTH),
        "max_position_embeddings": shapes[f"{start}{names['positions']}"][0],
        "projection_dim": projection[1],
        "hidden_act": "gelu" if original else "quick_gelu",
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
