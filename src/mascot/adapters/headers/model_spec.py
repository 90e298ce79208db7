"""The ModelSpec keys of an adapter's header, which say what the file is and how it is used.

ModelSpec 1.0 is Stability AI's standard for the header of safetensors files
(github.com/Stability-AI/ModelSpec). ComfyUI, SwarmUI and Invoke read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

PREFIX: Final = "modelspec."
"""How every key of the standard begins."""
VERSION: Final = "1.0.0"
"""The version of the standard that is written."""
ARCHITECTURES: Final[Mapping[str, str]] = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2-512",
    "sdxl": "stable-diffusion-xl-v1-base",
    "sd3": "stable-diffusion-v3-medium",
    "flux": "Flux.1-dev",
}
"""Architecture -> its id, as the standard lists it; FLUX's, which is newer, is the trainers'.

One id stands for both of FLUX.1's bases, dev and schnell: a LoRA of one is read for the other.
"""
VELOCITY: Final[Mapping[str, str]] = {"sd2": "stable-diffusion-v2-768-v"}
"""Architecture -> its id unless the base is known to predict noise, if that is another one."""
NEWER: Final[Mapping[str, str]] = {"5-large": "stable-diffusion-v3.5-large", "5-medium": "stable-diffusion-v3.5-medium"}
"""Version of Stable Diffusion 3 after the first (see `version_3`) -> its architecture's id."""
LARGE_WIDTH: Final = 2432
"""Width of the transformer of Stable Diffusion 3.5 large; medium's is 1536."""
SECOND_ATTENTION: Final = ".attn2."
"""Stands in layer names of Stable Diffusion 3.5 medium, in no other transformer's."""
PREDICTIONS: Final[Mapping[str, str]] = {"epsilon": "epsilon", "v_prediction": "v"}
"""What a denoiser predicts -> the standard's word; what has no word there is left out."""
LAYERS: Final = "lora"
"""The kind of a file with low-rank layers."""
WORDS_ALONE: Final = "textual-inversion"
"""The kind of a file with trained words and no layers."""
KINDS: Final = (LAYERS, WORDS_ALONE, "")
"""What an adapter file can be, as the end of an architecture's id; a whole model's has none."""
COMFYUI: Final = "https://github.com/comfyanonymous/ComfyUI"
GENERATIVE_MODELS: Final = "https://github.com/Stability-AI/generative-models"
BLACK_FOREST: Final = "https://github.com/black-forest-labs/flux"
KOHYA_NAMES: Final[Mapping[str, str]] = {"sdxl": GENERATIVE_MODELS, "flux": BLACK_FOREST}
"""Architecture -> the code whose layer names kohya's form has; diffusers' for the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What the header says of an adapter for people and tools."""

    architecture: str | None
    """One of ARCHITECTURES; None where no other tool has a name for it."""
    family: str
    """Name of the base's family, which stands in for an architecture without a name."""
    kind: str
    """One of KINDS."""
    title: str
    resolution: tuple[int, int] | None
    """Width and height in pixels; None where it is not known."""
    trigger: str = ""
    """The words that a prompt must have; empty where there are none."""
    description: str = ""
    prediction: str | None = None
    """What the base predicts, as its objective says it."""
    license: str | None = None
    date: str | None = None
    """ISO 8601; None leaves it out, as files must not depend on the hour of their training."""
    thumbnail: str | None = None
    """A data URI (see `thumbnails`)."""

    def keys(self, names: Iterable[str], widths: Iterable[int], to: str) -> dict[str, str]:
        """Return the header's keys; the hash is filled in when the file is whole.

        Args:
            names: The tensors' names.
            widths: The inputs of the adapted layers.
            to: The format that the file is written in.
        """
        values: dict[str, str | None] = {
            "sai_model_spec": VERSION,
            "architecture": self.architecture_id(names, widths),
            "implementation": implementation_of(self.architecture, to),
            "title": self.title,
            "description": self.description or None,
            "date": self.date,
            "license": self.license,
            "resolution": f"{self.resolution[0]}x{self.resolution[1]}" if self.resolution else None,
            "trigger_phrase": self.trigger or None,
            "usage_hint": f"Trigger word: {self.trigger}" if self.trigger else None,
            "prediction_type": PREDICTIONS.get(self.prediction or ""),
            "thumbnail": self.thumbnail,
        }
        return {f"{PREFIX}{key}": value for key, value in values.items() if value is not None}

    def architecture_id(self, names: Iterable[str], widths: Iterable[int]) -> str | None:
        """Return the architecture's id with the kind of file: `stable-diffusion-v1/lora`.

        None where neither the architecture nor the family is known.
        """
        known = ARCHITECTURES.get(self.architecture or "", self.family.replace("_", "-"))
        if self.prediction != "epsilon":
            known = VELOCITY.get(self.architecture or "", known)
        if self.architecture == "sd3":
            known = NEWER.get(version_3(names, widths), known)
        if not known:
            return None
        return f"{known}/{self.kind}" if self.kind else known


def version_3(names: Iterable[str], widths: Iterable[int]) -> str:
    """Tell the version of Stable Diffusion 3 by an adapter's layers, in kohya's words.

    A LoRA of attention alone is the same for 3 medium and 3.5 medium, and is called the first.
    """
    if LARGE_WIDTH in set(widths):
        return "5-large"
    return "5-medium" if any(SECOND_ATTENTION in name for name in names) else "medium"


def implementation_of(architecture: str | None, to: str) -> str:
    """Name the code base whose names the tensors of a file have, by its format."""
    if to == "comfyui":
        return COMFYUI
    return KOHYA_NAMES.get(architecture or "", "diffusers") if to == "kohya" else "diffusers"
