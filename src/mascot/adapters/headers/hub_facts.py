"""What the model hub and other tools call an adapter: tags, pipelines, and names in prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

TAGS: Final[Mapping[str, tuple[str, ...]]] = {
    "sd1": ("stable-diffusion", "stable-diffusion-diffusers"),
    "sd2": ("stable-diffusion", "stable-diffusion-diffusers"),
    "sdxl": ("stable-diffusion-xl", "stable-diffusion-xl-diffusers"),
    "sd3": ("sd3", "sd3-diffusers"),
    "flux": ("flux", "flux-diffusers"),
}
"""Architecture -> the hub's tags of it."""
KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "lora": ("lora", "template:sd-lora"),
    "textual-inversion": ("textual_inversion",),
    "": ("dreambooth",),
}
"""Kind of file -> the hub's tags of it. The template shows a gallery of images."""
LAYERS_FILE: Final = "pytorch_lora_weights.safetensors"
"""The file that diffusers' `load_lora_weights` takes from a repository."""
WORD_FILE: Final = "learned_embeds.safetensors"
"""The file that diffusers' `load_textual_inversion` takes from a repository."""
ENCODERS: Final[Mapping[str, tuple[str, str]]] = {
    "clip_l": ("text_encoder", "tokenizer"),
    "clip_g": ("text_encoder_2", "tokenizer_2"),
}
"""Name of a word's rows in a file -> the pipeline's text encoder and tokenizer for them."""
READ_BY_A1111: Final = frozenset({"sd1", "sd2", "sdxl"})
"""Architectures that A1111's web UI loads; Forge and ComfyUI load the others too."""


def hub_tags(architecture: str | None, kind: str) -> tuple[str, ...]:
    """List the hub's tags of an adapter."""
    return ("text-to-image", "diffusers", *TAGS.get(architecture or "", ()), *KINDS[kind], "mascot")


def prompt_name(name: str, scale: float) -> str:
    """Write how A1111's prompts call an adapter's file: `<lora:NAME:1>`."""
    return f"<lora:{name}:{scale:g}>"


LICENSES: Final = (
    *("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0"),
    *("cc-by-nc-nd-4.0", "creativeml-openrail-m", "openrail", "openrail++", "bsd-2-clause", "bsd-3-clause"),
    *("gpl-3.0", "agpl-3.0", "lgpl-3.0", "mpl-2.0", "unlicense", "wtfpl", "other", "unknown"),
)
"""Licenses that the hub has a name for."""
USUAL_LICENSES: Final = "apache-2.0, mit, cc0-1.0, cc-by-4.0, cc-by-nc-4.0, creativeml-openrail-m, openrail++, other"
"""Licenses of most adapters; that of the base may demand one."""
