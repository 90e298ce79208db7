"""The default encoders of each base: one for identity, and a CLIP for images and prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

import torch

from mascot.evaluation.metrics.image_encoders import ClipEncoder, IdentityEncoder, read_clip, read_identity_encoder
from mascot.models import starter
from mascot.models.starter import EMBEDDED, is_embedded

IDENTITY = "facebook/dino-vits16"
"""The identity encoder of published tables (Ruiz et al. 2023)."""

CLIP = "openai/clip-vit-base-patch32"
"""The CLIP of published tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderPair:
    """An identity encoder, and a CLIP for images and prompts."""

    identity: IdentityEncoder
    clip: ClipEncoder

    def describe(self) -> Mapping[str, str]:
        """Describe each encoder, its weights and preprocessing in one line.

        The lines belong beside every table of scores.
        """
        return {"identity": self.identity.describe(), "clip": self.clip.describe()}


def load_encoders(
    base: str, identity: str | None = None, clip: str | None = None, device: torch.device | str = "cpu"
) -> EncoderPair:
    """Load the encoders that score images of a base.

    The embedded base has embedded encoders; other bases get those of published tables. `identity`
    and `clip` name others: a folder in the layout of transformers, a hub id, or `starter` for the
    embedded one.

    Raises:
        UserError: an encoder does not exist, cannot be downloaded, or is of another kind.
    """
    defaults = default_encoder_names(base)
    identity, clip = identity or defaults["identity"], clip or defaults["clip"]
    return EncoderPair(
        identity=read_identity_encoder(starter.identity_folder() if identity == EMBEDDED else identity, device),
        clip=read_clip(starter.clip_folder() if clip == EMBEDDED else clip, device),
    )


class EncoderNames(TypedDict):
    """Names of encoders, as options give them; None stands for the default of the base."""

    identity: str | None
    clip: str | None


def named_encoders(recipe: Mapping[str, object], identity: str | None = None, clip: str | None = None) -> EncoderNames:
    """Name the encoders that options ask for, or else the section `selection` of a recipe."""
    return EncoderNames(
        identity=identity or recorded_encoder(recipe, "identity"), clip=clip or recorded_encoder(recipe, "clip")
    )


def recorded_encoder(recipe: Mapping[str, object], kind: str) -> str | None:
    """Return the encoder of a kind that a recipe's values name; None where there is none."""
    section = recipe.get("selection")
    found = section.get(kind) if isinstance(section, Mapping) else None
    return found if isinstance(found, str) and found != "none" else None


def default_encoder_names(base: str) -> Mapping[str, str]:
    """Name the encoders that `load_encoders` loads for a base by default."""
    ours = is_embedded(base)
    return {"identity": EMBEDDED if ours else IDENTITY, "clip": EMBEDDED if ours else CLIP}
