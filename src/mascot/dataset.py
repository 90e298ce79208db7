"""Photos, class pictures and captions to batches: crops, buckets, latents computed once, an order that depends on the seed alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from mascot.captions import DEFAULT_TEMPLATE, Subject, fill
from mascot.crops import Crop, Size, buckets, crop, nearest_bucket
from mascot.latents import join, seeded
from mascot.photos import Photo
from mascot.protocols import Batch, Conditioning, Framing, Latents, Stage


class Settings(BaseModel):
    """How photos become training pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    resolution: int | None = Field(default=None, ge=32, le=4096, description="side of the training pictures; the base's own when not given")
    aspect_buckets: bool = Field(default=False, description="keep wide and tall photos wide and tall, at the same number of pixels")
    flip: bool = Field(default=False, description="also train on mirrored photos; wrong for asymmetric subjects")
    background: str = Field(default="white", description="colour under transparent parts")
    templates: tuple[str, ...] = Field(
        default=(DEFAULT_TEMPLATE,), min_length=1, description="captions, in turn, of photos that bring none; {token}, {class}, {subject}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One picture to train on."""

    latents: Latents
    """Batch of one."""
    prompts: tuple[str, ...]
    """Captions, one of which is chosen each time."""
    framing: Framing
    source: Path | None
    """None for a class picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Everything a run trains on, by size: the subject's examples and the class's."""

    subject: dict[Size, tuple[Example, ...]]
    prior: dict[Size, tuple[Example, ...]]
    prior_weight: float

    @property
    def prompts(self) -> tuple[str, ...]:
        """Every distinct caption."""
        return tuple(dict.fromkeys(prompt for prompt, _ in self.pairs))

    @property
    def pairs(self) -> list[tuple[str, Framing]]:
        """Every caption with the framing that it comes with."""
        examples = [e for groups in (self.subject, self.prior) for group in groups.values() for e in group]
        return list(dict.fromkeys((prompt, example.framing) for example in examples for prompt in example.prompts))

    @property
    def size(self) -> int:
        """Examples of the subject."""
        return sum(len(group) for group in self.subject.values())

    def schedule(self, *, seed: int, micro_batches: int, batch_size: int) -> list[tuple[Size, tuple[int, ...]]]:
        """Plan all micro-batches of a run: sizes mixed by how many photos have them, each photo shown as often as any other of its size."""
        rng = np.random.default_rng([seed, 1])
        sizes = sorted(self.subject)
        share = np.array([len(self.subject[size]) for size in sizes], float)
        order = rng.choice(len(sizes), micro_batches, p=share / share.sum())
        queues: dict[Size, list[int]] = defaultdict(list)
        plan: list[tuple[Size, tuple[int, ...]]] = []
        for which in order:
            size = sizes[which]
            while len(queues[size]) < batch_size:
                queues[size] += rng.permutation(len(self.subject[size])).tolist()
            plan.append((size, tuple(queues[size][:batch_size])))
            del queues[size][:batch_size]
        return plan

    def batch(self, plan: tuple[Size, tuple[int, ...]], *, seed: int, number: int, share: float) -> Batch:
        """Build micro-batch `number` of a plan; each example's randomness depends on (seed, number, place) alone.

        Weights add up to `share` over the subject's examples and to `share` x prior weight over the class's, one of which
        joins each of the subject's.
        """
        size, chosen = plan
        examples = [self.subject[size][i] for i in chosen]
        weights = [share / len(chosen)] * len(chosen)
        if self.prior_weight and self.prior.get(size):
            picked = torch.randint(len(self.prior[size]), (len(chosen),), generator=seeded(seed, number, "prior")).tolist()
            examples += [self.prior[size][i] for i in picked]
            weights += [share * self.prior_weight / len(chosen)] * len(chosen)
        return Batch(
            latents=join([example.latents for example in examples]),
            prompts=tuple(choose(example.prompts, seeded(seed, number, place, "caption")) for place, example in enumerate(examples)),
            framings=tuple(example.framing for example in examples),
            weight_B=torch.tensor(weights),
            subject_count=len(chosen),
            generators=tuple(seeded(seed, number, place) for place in range(len(examples))),
        )


def to_pixels(picture: Image.Image) -> Tensor:
    """A PIL picture as 1 x 3 x H x W in -1..1."""
    values = torch.from_numpy(np.asarray(picture.convert("RGB")).copy())
    return values.permute(2, 0, 1)[None].float() / 127.5 - 1


def sizes_for(photos: Sequence[Photo], settings: Settings, resolution: int, multiple: int) -> list[Size]:
    """The training size of each photo: the square, or its nearest aspect bucket."""
    side = max(multiple, resolution // multiple * multiple)
    if not settings.aspect_buckets:
        return [(side, side)] * len(photos)
    choices = buckets(side, multiple)
    return [nearest_bucket(photo.size, choices) for photo in photos]


def make_dataset(
    photos: Sequence[Photo], class_pictures: Sequence[Image.Image], *, stage: Stage, subject: Subject, class_caption: str,
    settings: Settings, prior_weight: float,
) -> Dataset:  # fmt: skip
    """Crop, encode and caption everything once."""
    sizes = sizes_for(photos, settings, settings.resolution or stage.resolution, stage.multiple)
    groups: dict[Size, list[Example]] = defaultdict(list)
    for photo, size in zip(photos, sizes, strict=True):
        prompts = tuple(fill(caption, subject) for caption in photo.captions)
        for flip in (False, True) if settings.flip else (False,):
            groups[size].append(encode(crop(photo, size, flip=flip), stage, prompts, photo.path))
    prior: dict[Size, tuple[Example, ...]] = {}
    if prior_weight:
        for size in groups:
            cuts = [crop(Photo(path=Path(), picture=p), size) for p in class_pictures]
            prior[size] = tuple(encode(cut, stage, (class_caption,), None) for cut in cuts)
    return Dataset(subject={size: tuple(group) for size, group in groups.items()}, prior=prior, prior_weight=prior_weight)


def choose(prompts: Sequence[str], generator: torch.Generator) -> str:
    """Draw one of the captions, each as likely."""
    return prompts[int(torch.randint(len(prompts), (), generator=generator))]


def encode(cut: Crop, stage: Stage, prompts: tuple[str, ...], source: Path | None) -> Example:
    """Encode one crop."""
    return Example(latents=stage.encode(to_pixels(cut.picture)), prompts=prompts, framing=cut.framing, source=source)


class Conditions:
    """Prompts to conditioning, computed once per prompt and framing while the text encoders stay as they are."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.known: dict[tuple[str, Framing], Conditioning] = {}

    def prepare(self, pairs: Sequence[tuple[str, Framing]]) -> None:
        """Compute what is not known yet, one prompt at a time, so that the batch cannot change it."""
        for pair in pairs:
            if pair not in self.known:
                with torch.no_grad():
                    self.known[pair] = self.stage.condition([pair[0]], [pair[1]])

    def __call__(self, prompts: Sequence[str], framings: Sequence[Framing]) -> Conditioning:
        """Join the rows of a batch."""
        pairs = list(zip(prompts, framings, strict=True))
        self.prepare(pairs)
        return {name: torch.cat([self.known[pair][name] for pair in pairs]) for name in self.known[pairs[0]]}
