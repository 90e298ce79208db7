"""Names of the layers of Stable Diffusion 3's transformer, as Stability AI and diffusers give them.

The original code (arXiv 2403.03206) calls it an MMDiT. Medium, large and 3.5 share these names.
`N` stands for the number of a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

IMAGE: Final = "joint_blocks.N.x_block"
TEXT: Final = "joint_blocks.N.context_block"
BLOCK: Final = "transformer_blocks.N"

LAYERS: Final[Mapping[str, tuple[str, ...]]] = {
    "x_embedder.proj": ("pos_embed.proj",),
    "context_embedder": ("context_embedder",),
    "t_embedder.mlp.0": ("time_text_embed.timestep_embedder.linear_1",),
    "t_embedder.mlp.2": ("time_text_embed.timestep_embedder.linear_2",),
    "y_embedder.mlp.0": ("time_text_embed.text_embedder.linear_1",),
    "y_embedder.mlp.2": ("time_text_embed.text_embedder.linear_2",),
    f"{IMAGE}.attn.qkv": (f"{BLOCK}.attn.to_q", f"{BLOCK}.attn.to_k", f"{BLOCK}.attn.to_v"),
    f"{IMAGE}.attn.proj": (f"{BLOCK}.attn.to_out.0",),
    f"{IMAGE}.attn2.qkv": (f"{BLOCK}.attn2.to_q", f"{BLOCK}.attn2.to_k", f"{BLOCK}.attn2.to_v"),
    f"{IMAGE}.attn2.proj": (f"{BLOCK}.attn2.to_out.0",),
    f"{IMAGE}.mlp.fc1": (f"{BLOCK}.ff.net.0.proj",),
    f"{IMAGE}.mlp.fc2": (f"{BLOCK}.ff.net.2",),
    f"{IMAGE}.adaLN_modulation.1": (f"{BLOCK}.norm1.linear",),
    f"{TEXT}.attn.qkv": (f"{BLOCK}.attn.add_q_proj", f"{BLOCK}.attn.add_k_proj", f"{BLOCK}.attn.add_v_proj"),
    f"{TEXT}.attn.proj": (f"{BLOCK}.attn.to_add_out",),
    f"{TEXT}.mlp.fc1": (f"{BLOCK}.ff_context.net.0.proj",),
    f"{TEXT}.mlp.fc2": (f"{BLOCK}.ff_context.net.2",),
    f"{TEXT}.adaLN_modulation.1": (f"{BLOCK}.norm1_context.linear",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
    "final_layer.linear": ("proj_out",),
}
"""Original layer -> the layers of diffusers whose outputs it holds, in their order."""

SHIFT_FIRST: Final = ("final_layer.adaLN_modulation.1", f"{TEXT}.adaLN_modulation.1")
"""Original layers that give a shift and then a scale, where diffusers has the scale first.

The second is one only in the last block, where it gives these two alone.
"""
