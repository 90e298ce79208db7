"""Names of the layers of FLUX.1's transformer, as Black Forest Labs and diffusers give them.

`N` stands for the number of a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

DOUBLE: Final = "double_blocks.N"
SINGLE: Final = "single_blocks.N"
BLOCK: Final = "transformer_blocks.N"
SINGLE_BLOCK: Final = "single_transformer_blocks.N"

IMAGE_QKV: Final = (f"{BLOCK}.attn.to_q", f"{BLOCK}.attn.to_k", f"{BLOCK}.attn.to_v")
TEXT_QKV: Final = (f"{BLOCK}.attn.add_q_proj", f"{BLOCK}.attn.add_k_proj", f"{BLOCK}.attn.add_v_proj")
SINGLE_QKV: Final = (f"{SINGLE_BLOCK}.attn.to_q", f"{SINGLE_BLOCK}.attn.to_k", f"{SINGLE_BLOCK}.attn.to_v")

LAYERS: Final[Mapping[str, tuple[str, ...]]] = {
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    "time_in.in_layer": ("time_text_embed.timestep_embedder.linear_1",),
    "time_in.out_layer": ("time_text_embed.timestep_embedder.linear_2",),
    "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
    "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
    "guidance_in.in_layer": ("time_text_embed.guidance_embedder.linear_1",),
    "guidance_in.out_layer": ("time_text_embed.guidance_embedder.linear_2",),
    f"{DOUBLE}.img_attn.qkv": IMAGE_QKV,
    f"{DOUBLE}.img_attn.proj": (f"{BLOCK}.attn.to_out.0",),
    f"{DOUBLE}.img_mlp.0": (f"{BLOCK}.ff.net.0.proj",),
    f"{DOUBLE}.img_mlp.2": (f"{BLOCK}.ff.net.2",),
    f"{DOUBLE}.img_mod.lin": (f"{BLOCK}.norm1.linear",),
    f"{DOUBLE}.txt_attn.qkv": TEXT_QKV,
    f"{DOUBLE}.txt_attn.proj": (f"{BLOCK}.attn.to_add_out",),
    f"{DOUBLE}.txt_mlp.0": (f"{BLOCK}.ff_context.net.0.proj",),
    f"{DOUBLE}.txt_mlp.2": (f"{BLOCK}.ff_context.net.2",),
    f"{DOUBLE}.txt_mod.lin": (f"{BLOCK}.norm1_context.linear",),
    f"{SINGLE}.linear1": (*SINGLE_QKV, f"{SINGLE_BLOCK}.proj_mlp"),
    f"{SINGLE}.linear2": (f"{SINGLE_BLOCK}.proj_out",),
    f"{SINGLE}.modulation.lin": (f"{SINGLE_BLOCK}.norm.linear",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
    "final_layer.linear": ("proj_out",),
}
"""Original layer -> the layers of diffusers whose outputs it holds, in their order."""

SHARES: Final[Mapping[str, tuple[int, ...]]] = {f"{SINGLE}.linear1": (1, 1, 1, 4)}
"""Original layer -> the relative numbers of outputs of its parts, where they differ."""

SHIFT_FIRST: Final = ("final_layer.adaLN_modulation.1",)
"""Original layers that give a shift and then a scale, where diffusers has the scale first."""

XLABS: Final[Mapping[str, tuple[str, ...]]] = {
    f"{DOUBLE}.qkv_lora1": IMAGE_QKV,
    f"{DOUBLE}.proj_lora1": (f"{BLOCK}.attn.to_out.0",),
    f"{DOUBLE}.qkv_lora2": TEXT_QKV,
    f"{DOUBLE}.proj_lora2": (f"{BLOCK}.attn.to_add_out",),
    f"{SINGLE}.qkv": SINGLE_QKV,
    f"{SINGLE}.proj": (f"{SINGLE_BLOCK}.proj_out",),
    f"{SINGLE}.linear1_qkv": SINGLE_QKV,
}
"""Layer of XLabs' trainer for FLUX.1, without `processor.` -> the layers of diffusers.

ComfyUI calls one of them `linear1_qkv`.
"""
