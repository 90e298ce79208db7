"""Names of the layers of CLIP text encoders in files of other tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mascot.adapters.formats.layer_names import FlatNames, join_patterns
from mascot.adapters.lora_keys import T5_PREFIX, TEXT_PREFIX

LAYERS: Final = (
    *join_patterns(("text_model.encoder.layers.#.self_attn",), ("q_proj", "k_proj", "v_proj", "out_proj")),
    *join_patterns(("text_model.encoder.layers.#.mlp",), ("fc1", "fc2")),
)
PROJECTION: Final = "text_projection"
"""Layer after the encoder of those that have it."""
CLIP: Final = FlatNames((*LAYERS, PROJECTION))
T5: Final = FlatNames(
    (
        *join_patterns((f"{T5_PREFIX}#.layer.#.SelfAttention",), ("q", "k", "v", "o")),
        *join_patterns((f"{T5_PREFIX}#.layer.#.DenseReluDense",), ("wi_#", "wo")),
    )
)
OLD_PROJECTIONS: Final[Mapping[str, str]] = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
"""Attention layer in old files of diffusers -> its name."""

FLAT_PREFIXES: Final[Mapping[str, str]] = {
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te3_": "text_encoder_3",
}
"""Prefix of kohya's underscored names -> the text encoder."""
COMFYUI_ENCODERS: Final[Mapping[str, str]] = {
    "clip_l": "text_encoder",
    "clip_h": "text_encoder",
    "clip_g": "text_encoder_2",
    "t5xxl": "text_encoder_3",
}
"""ComfyUI's name of a text encoder -> ours."""


def from_flat(flat: str) -> str | None:
    """Turn an underscored name, with or without `text_model_`, into ours."""
    return CLIP.unflatten(flat) or CLIP.unflatten(f"text_model_{flat}") or T5.unflatten(flat)


def from_dotted(name: str) -> str:
    """Turn a dotted name of any age into ours: with `text_model.`, and today's projections."""
    start, _, last = name.rpartition(".")
    old = last in OLD_PROJECTIONS and start.endswith(".self_attn")
    current = f"{start}.{OLD_PROJECTIONS[last]}" if old else name
    return current if current.startswith((TEXT_PREFIX, PROJECTION, T5_PREFIX)) else f"{TEXT_PREFIX}{current}"


def to_kohya(part: str, layer: str, architecture: str | None, *, several: bool) -> str | None:
    """Turn our name into kohya's whole one; `several` says that the base has two text encoders.

    A T5 is the third in kohya's files, though FLUX.1 has no second CLIP.
    """
    if T5.knows(layer):
        return f"lora_te3_{layer.replace('.', '_')}"
    if not CLIP.knows(layer):
        return None
    numbered = several or architecture in {"sdxl", "sd3", "flux"}
    prefixes = {part: prefix for prefix, part in FLAT_PREFIXES.items() if prefix != "lora_te_"}
    prefix = prefixes.get(part) if numbered else "lora_te_"
    return None if prefix is None else prefix + layer.replace(".", "_")


def to_comfyui(part: str, layer: str, architecture: str | None) -> str | None:
    """Turn our name into ComfyUI's whole one."""
    if T5.knows(layer):
        return f"text_encoders.t5xxl.transformer.{layer}"
    if not CLIP.knows(layer):
        return None
    first = "clip_h" if architecture == "sd2" else "clip_l"
    encoder = {"text_encoder": first, "text_encoder_2": "clip_g"}.get(part)
    return None if encoder is None else f"text_encoders.{encoder}.transformer.{layer}"


def to_module(part: str, layer: str, architecture: str | None) -> str:
    """Turn our name into the module's, as peft writes it.

    transformers 5 dropped `text_model.` from text encoders without a projection at their end.
    """
    flat = part == "text_encoder" and architecture != "sd3"
    return layer.removeprefix(TEXT_PREFIX) if flat else layer
