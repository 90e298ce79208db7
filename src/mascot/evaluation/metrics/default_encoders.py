"""The encoders that judge pictures: which ones a base is judged by, and what is said of them beside every table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
    """An encoder of identity, and one of pictures and prompts."""

    identity: IdentityEncoder
    clip: ClipEncoder

    def describe(self) -> Mapping[str, str]:
        """Say what each is, weights and preprocessing, in one line: it belongs beside every table of their scores."""
        return {"identity": self.identity.describe(), "clip": self.clip.describe()}


def load_encoders(
    base: str, identity: str | None = None, clip: str | None = None, device: torch.device | str = "cpu"
) -> EncoderPair:
    """Load the encoders that pictures of a base are judged by: the embedded ones on the embedded base, elsewhere the published tables'.

    `identity` and `clip` name others: a folder as transformers saves it, a hub id, or `starter` for the embedded one.

    Raises:
        UserError: an encoder is not there, cannot be fetched, or is of another kind.
    """
    usual = default_encoder_names(base)
    identity, clip = identity or usual["identity"], clip or usual["clip"]
    return EncoderPair(
        identity=read_identity_encoder(starter.identity_folder() if identity == EMBEDDED else identity, device),
        clip=read_clip(starter.clip_folder() if clip == EMBEDDED else clip, device),
    )


def default_encoder_names(base: str) -> Mapping[str, str]:
    """What `load_encoders` loads for a base where no other judges are named."""
    ours = is_embedded(base)
    return {"identity": EMBEDDED if ours else IDENTITY, "clip": EMBEDDED if ours else CLIP}
