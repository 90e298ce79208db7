"""The bases that people use, built on the meta device from their published settings: no weights."""

# diffusers and transformers annotate some arguments by their defaults: a tuple of one, never None.
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from mascot.adapters.lora_keys import name_in_file

Parts = dict[str, nn.Module]


def make_sd1() -> Parts:
    """Make Stable Diffusion 1.5."""
    unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    return {"unet": unet, "text_encoder": CLIPTextModel(text_config(768, 12))}


def make_sd2() -> Parts:
    """Make Stable Diffusion 2.1."""
    unet = UNet2DConditionModel(
        cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
    )
    return {"unet": unet, "text_encoder": CLIPTextModel(text_config(1024, 23))}


def make_sdxl() -> Parts:
    """Make Stable Diffusion XL 1.0."""
    unet = UNet2DConditionModel(
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        cross_attention_dim=2048,
        attention_head_dim=(5, 10, 20),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    return {
        "unet": unet,
        "text_encoder": CLIPTextModel(text_config(768, 12)),
        "text_encoder_2": CLIPTextModelWithProjection(text_config(1280, 32)),
    }


def text_config(width: int, layers: int) -> CLIPTextConfig:
    """Make the settings of a CLIP text encoder."""
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        projection_dim=width,
    )


ARCHITECTURES: Mapping[str, Callable[[], Parts]] = {"sd1": make_sd1, "sd2": make_sd2, "sdxl": make_sdxl}
"""Name of an architecture -> the function that makes its parts."""


def adaptable_shapes(architecture: str) -> dict[tuple[str, str], tuple[int, ...]]:
    """Map each linear layer and convolution, by part and our name, to the shape of its weight."""
    with torch.device("meta"):
        parts = ARCHITECTURES[architecture]()
    return {
        (part, name_in_file(part, name)): tuple(layer.weight.shape)
        for part, module in parts.items()
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }
