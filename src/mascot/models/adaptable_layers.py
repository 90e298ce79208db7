"""Sets of layers that a LoRA can adapt, by the names that diffusers and transformers give them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj")
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut")

JOINT_ATTENTION = (
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.to_out.0",
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
)
"""Projections of transformers that attend to image and text tokens jointly (arXiv 2403.03206)."""
JOINT_FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")
"""Feed-forward layers of image and text tokens in such transformers."""

UNET_LAYERS: Mapping[str, tuple[str, ...]] = {
    "attention": ATTENTION,
    "transformer": (*ATTENTION, *FEED_FORWARD),
    "all": (*ATTENTION, *FEED_FORWARD, *CONVOLUTIONS),
}
"""Name of a layer set -> the endings of the names of a UNet's layers in it."""

TEXT_LAYERS: Mapping[str, tuple[str, ...]] = {
    "attention": ("q_proj", "k_proj", "v_proj", "out_proj"),
    "transformer": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    "all": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
}
"""Name of a layer set -> the endings of the names of a CLIP text encoder's layers in it.

Each holds all four projections: other tools load a LoRA of some of them wrongly and say nothing.
"""


def layers_ending(module: nn.Module, endings: tuple[str, ...]) -> list[str]:
    """List the linear and convolution layers of a module whose name ends in one of `endings`."""
    dotted = tuple(f".{ending}" for ending in endings)
    return [
        name
        for name, layer in module.named_modules()
        if name.endswith(dotted) and isinstance(layer, nn.Linear | nn.Conv2d)
    ]
