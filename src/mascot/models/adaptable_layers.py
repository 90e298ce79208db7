"""TODO models.adaptable_layers."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj")


FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")


CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut")


LAYERS: Mapping[str, tuple[str, ...]] = {
    "attention": ATTENTION, "transformer": (*ATTENTION, *FEED_FORWARD), "all": (*ATTENTION, *FEED_FORWARD, *CONVOLUTIONS),
}  # fmt: skip
"""Word -> how the names of a UNet's layers end."""


TEXT_LAYERS: Mapping[str, tuple[str, ...]] = {
    "attention": ("q_proj", "k_proj", "v_proj", "out_proj"),
    "transformer": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    "all": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
}
"""The same of a CLIP text encoder, always a full set of projections: other tools load a partial one wrongly, in silence."""


def layers_ending(module: nn.Module, ends: tuple[str, ...]) -> list[str]:
    """Names of the linear and convolution layers whose name ends in one of `ends`."""
    dotted = tuple(f".{end}" for end in ends)
    return [
        name
        for name, layer in module.named_modules()
        if name.endswith(dotted) and isinstance(layer, nn.Linear | nn.Conv2d)
    ]
