"""The bases that people use, built on the meta device from their published settings: no weights."""

# diffusers and transformers annotate some arguments by their defaults: a tuple of one, never None.
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

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


def make_sd3() -> Parts:
    """Make Stable Diffusion 3 medium."""
    return {
        "transformer": sd3_transformer(1536, 24),
        "text_encoder": CLIPTextModelWithProjection(text_config(768, 12)),
        "text_encoder_2": CLIPTextModelWithProjection(text_config(1280, 32)),
        "text_encoder_3": t5_xxl(),
    }


def make_flux() -> Parts:
    """Make FLUX.1-dev."""
    transformer = FluxTransformer2DModel(guidance_embeds=True)
    return {
        "transformer": transformer,
        "text_encoder": CLIPTextModel(text_config(768, 12)),
        "text_encoder_2": t5_xxl(),
    }


def sd3_transformer(width: int, layers: int, *, dual: int = 0, norm: str | None = None) -> SD3Transformer2DModel:
    """Make a transformer of SD3, or of 3.5 with normalized queries and keys."""
    return SD3Transformer2DModel(
        sample_size=128,
        patch_size=2,
        in_channels=16,
        num_layers=layers,
        attention_head_dim=64,
        num_attention_heads=width // 64,
        joint_attention_dim=4096,
        caption_projection_dim=width,
        pooled_projection_dim=2048,
        out_channels=16,
        pos_embed_max_size=192,
        dual_attention_layers=tuple(range(dual)),
        qk_norm=norm,
    )


def t5_xxl() -> T5EncoderModel:
    """Make the encoder of T5 1.1 XXL."""
    config = T5Config(
        vocab_size=32128,
        d_model=4096,
        d_ff=10240,
        d_kv=64,
        num_heads=64,
        num_layers=24,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
    )
    return T5EncoderModel(config)


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
TRANSFORMERS: Mapping[str, Callable[[], Parts]] = {
    "sd3": make_sd3,
    "flux": make_flux,
    "sd3.5-medium": lambda: {"transformer": sd3_transformer(1536, 24, dual=13, norm="rms_norm")},
    "sd3.5-large": lambda: {"transformer": sd3_transformer(2432, 38, norm="rms_norm")},
}
"""Name of a base whose denoiser is a transformer -> the function that makes its parts."""


def adaptable_shapes(architecture: str) -> dict[tuple[str, str], tuple[int, ...]]:
    """Map each linear layer and convolution, by part and our name, to the shape of its weight."""
    with torch.device("meta"):
        parts = {**ARCHITECTURES, **TRANSFORMERS}[architecture]()
    return {
        (part, name_in_file(part, name)): tuple(layer.weight.shape)
        for part, module in parts.items()
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }
