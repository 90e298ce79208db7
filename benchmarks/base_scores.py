"""Scores of a base's images: prompt fidelity, right nouns and places, Frechet distances.

Shape suffixes: B images, N choices, I individuals, M images of each, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.base_prompts import BasePrompts
from mascot.evaluation.metrics.frechet import frechet_distance
from mascot.evaluation.metrics.prompt_fidelity import prompt_fidelity
from mascot.evaluation.metrics.subject_fidelity import similarity
from starter_training.scenes.backgrounds import PLACES
from starter_training.scenes.canvas import COLORS
from starter_training.scenes.caption_words import ARTICLE

RESAMPLES = 4000
"""Bootstrap resamples of each interval."""
KINDS_SECTION, RETRIEVAL_SECTION, SETS_SECTION = "By kind of prompt", "Right prompt found", "Whole sets of images"


class ImageEncoder(Protocol):
    """Embeds images as unit vectors."""

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """Embed images. Shape B x D."""
        ...

    def describe(self) -> str:
        """Describe the encoder in one line."""
        ...


class Clip(ImageEncoder, Protocol):
    """Embeds images and prompts as unit vectors of one space."""

    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Embed prompts. Shape B x D."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """Images embedded by both encoders."""

    clip_BD: Tensor
    identity_BD: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoders:
    """The CLIP and the identity encoder."""

    clip: Clip
    identity: ImageEncoder

    def embed(self, images: Sequence[Image.Image]) -> Embeddings:
        """Embed images by both encoders."""
        return Embeddings(clip_BD=self.clip.embed(images), identity_BD=self.identity.embed(images))


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """Embeddings with which each base's images are compared."""

    prompts: dict[str, Tensor]
    """Kind -> B x D."""
    nouns_ND: Tensor
    places_BND: Tensor
    """For each scene of the kind "places" its noun in every place."""
    individuals: dict[str, Tensor]
    """Noun -> I x M x D."""
    retrieval_BD: Tensor
    reference_set: Embeddings | None
    """None where sets are not compared."""


def embed_references(prompts: BasePrompts, encoders: Encoders) -> References:
    """Embed everything that is the same for every base."""
    embed = encoders.clip.embed_prompts
    placed = [ARTICLE.sub("an", f"a {scene.nouns[0]} {place}") for scene in prompts.kinds["places"] for place in PLACES]
    return References(
        prompts={kind: embed([scene.prompt for scene in scenes]) for kind, scenes in prompts.kinds.items()},
        nouns_ND=embed([ARTICLE.sub("an", f"a photo of a {noun}") for noun in prompts.nouns]),
        places_BND=embed(placed).unflatten(0, (-1, len(PLACES))),
        individuals={
            noun: torch.stack([encoders.identity.embed(images) for images in individuals])
            for noun, individuals in prompts.individuals.items()
        },
        retrieval_BD=embed([scene.prompt for scene in prompts.retrieval]),
        reference_set=encoders.embed(prompts.reference_set) if prompts.reference_set else None,
    )


def cosines(images_BD: Tensor, prompts_BD: Tensor) -> list[float]:
    """Return each image's cosine with the prompt of its row."""
    rows = zip(images_BD.split(1), prompts_BD.split(1), strict=True)
    return [prompt_fidelity(image_BD, prompt_BD) for image_BD, prompt_BD in rows]


def nearest(images_BD: Tensor, choices_ND: Tensor) -> list[int]:
    """Return the index of each image's nearest choice.

    Choices may differ from image to image; their shape is then B x N x D.
    """
    return (choices_ND @ images_BD.unsqueeze(-1)).squeeze(-1).argmax(-1).tolist()


def individual_margin(image_D: Tensor, individuals_IMD: Tensor, right: int) -> float:
    """Return an image's similarity to the right individual minus that to the noun's others."""
    others_BD = torch.cat([row_MD for i, row_MD in enumerate(individuals_IMD) if i != right])
    return similarity(image_D[None], individuals_IMD[right]) - similarity(image_D[None], others_BD)


def found_within(images_BD: Tensor, prompts_BD: Tensor, rank: int) -> list[float]:
    """Return for each image whether its own prompt is among the `rank` nearest: 0 or 1.

    Where prompts tie, the value is the chance.
    """
    cosines_BB = images_BD.double() @ prompts_BD.double().T
    own_B1 = cosines_BB.diagonal()[:, None]
    nearer_B, tied_B = (cosines_BB > own_B1).sum(1), (cosines_BB == own_B1).sum(1)
    return ((rank - nearer_B) / tied_B).clamp(0, 1).tolist()


def score_kind(prompts: BasePrompts, references: References, kind: str, images: Embeddings) -> dict[str, list[float]]:
    """Return measure -> its value for each prompt of a kind."""
    scenes, prompts_BD = prompts.kinds[kind], references.prompts[kind]
    named = nearest(images.clip_BD, references.nouns_ND)
    scores = {
        "CLIP-T": cosines(images.clip_BD, prompts_BD),
        "CLIP-T, shuffled": cosines(images.clip_BD, prompts_BD.roll(1, 0)),
        "noun named right": [float(prompts.nouns[i] in scene.nouns) for i, scene in zip(named, scenes, strict=True)],
    }
    if kind == "places":
        places = [list(PLACES)[i] for i in nearest(images.clip_BD, references.places_BND)]
        scores["place named right"] = [float(place == scene.place) for place, scene in zip(places, scenes, strict=True)]
    if kind == "names":
        for suffix, images_BD in (("", images.identity_BD), (", shuffled", images.identity_BD.roll(1, 0))):
            rows = zip(images_BD, scenes, strict=True)
            scores[f"right minus other individuals{suffix}"] = [
                individual_margin(image_D, references.individuals[scene.nouns[0]], scene.individual)
                for image_D, scene in rows
            ]
    return scores


def border_share(image: Image.Image, color: str) -> float:
    """Return the share of an image's border that is nearer to a named color than to the others.

    The border is a sixteenth of the side wide.
    """
    width = max(1, image.width // 16)
    pixels = np.asarray(image.convert("RGB"), float)
    inner = np.zeros(pixels.shape[:2], bool)
    inner[width:-width, width:-width] = True
    distances = np.linalg.norm(pixels[~inner][:, None] - np.asarray(list(COLORS.values())), axis=-1)
    return float((distances.argmin(1) == list(COLORS).index(color)).mean())


def color_of(prompt: str) -> str:
    """Return the first word of a prompt that is a color."""
    return next(word for word in prompt.split() if word in COLORS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One cell of a table."""

    value: float
    low: float | None = None
    """Bounds of the 95 % interval; None where the value is no mean."""
    high: float | None = None
    values: tuple[float, ...] = ()
    """The values of which it is the mean, one for each prompt."""

    def __str__(self) -> str:
        return f"{self.value:.4f}" if self.low is None else f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def mean_of(values: Sequence[float]) -> Measurement:
    """Return the mean and its 95 % percentile bootstrap interval."""
    table = np.asarray(values, float)
    chosen = np.random.default_rng(0).integers(len(table), size=(RESAMPLES, len(table)))
    low, high = np.quantile(table[chosen].mean(1), (0.025, 0.975))
    return Measurement(
        value=float(table.mean()), low=float(low), high=float(high), values=tuple(float(value) for value in values)
    )


Rows = dict[tuple[str, str, str], Measurement]
"""Section, prompts, measure -> cell."""


def score_kinds(
    prompts: BasePrompts, references: References, encoders: Encoders, images: Mapping[str, Sequence[Image.Image]]
) -> Rows:
    """Score one base's images by kind of prompt.

    A figure's color should not be the background's: prompts of "colours" name no background.
    """
    rows = {
        (KINDS_SECTION, kind, measure): mean_of(values)
        for kind, generated in images.items()
        for measure, values in score_kind(prompts, references, kind, encoders.embed(generated)).items()
    }
    if "colours" in images:
        colored = zip(images["colours"], prompts.kinds["colours"], strict=True)
        painted = [border_share(image, color_of(scene.prompt)) for image, scene in colored]
        rows[KINDS_SECTION, "colours", "border in the figure's color"] = mean_of(painted)
    return rows


def score_retrieval(references: References, encoders: Encoders, images: Sequence[Image.Image]) -> Rows:
    """Score how often the right prompt is found, at rank 1 and 5."""
    images_BD, among = encoders.clip.embed(images), f"among {len(images)}"
    return {
        (RETRIEVAL_SECTION, among, f"rank {k}"): mean_of(found_within(images_BD, references.retrieval_BD, k))
        for k in (1, 5)
    }


def score_set(references: References, encoders: Encoders, label: str, images: Sequence[Image.Image]) -> Rows:
    """Measure the Frechet distance of a set to the reference set, in both encoders' spaces."""
    reference = references.reference_set
    assert reference is not None, "sets are compared only where there is a reference set"
    found = encoders.embed(images)
    pairs = {
        "identity encoder": (found.identity_BD, reference.identity_BD),
        "CLIP": (found.clip_BD, reference.clip_BD),
    }
    return {
        (SETS_SECTION, label, f"Fréchet distance, {name}"): Measurement(value=frechet_distance(*both))
        for name, both in pairs.items()
    }
