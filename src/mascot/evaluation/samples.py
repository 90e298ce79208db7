"""TODO evaluation.samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mascot.data.prompt_templates import fill
from mascot.evaluation.evaluation_task import EvaluationTask
from mascot.generation.generator import Generator
from mascot.generation.sample_cache import ImageEncoder, SampleCache, weights_name
from mascot.progress import Progress
from mascot.storage.user_cache import cache_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """Kept pictures of one kind, by prompt and then by seed."""

    gallery: SampleCache
    files: tuple[Path, ...]

    def embed(self, encoder: ImageEncoder) -> Tensor:
        """Embed them; without pictures, without rows. Shape B x D."""
        return self.gallery.embed(encoder, self.files) if self.files else torch.empty(0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Everything that was drawn for one run."""

    taught: ImageSet
    untouched: ImageSet
    """The same prompts by the base, with the class noun alone."""
    class_taught: ImageSet
    class_untouched: ImageSet
    weights: str
    """The name of what drew it (see `weights_name`)."""


def draw_samples(task: EvaluationTask, generator: Generator, *, adapter: Path, folder: Path, progress: Progress) -> Samples:
    """Draw all that is not kept yet, in `folder` and, what the base draws, in the cache that all runs share.

    Raises:
        UserError: the pictures cannot be drawn or written.
    """
    family = generator.family
    own, shared = SampleCache(folder), SampleCache(cache_folder() / "gallery" / family.identity)
    taught, untouched = weights_name(family, adapter), weights_name(family)
    bare = task.knobs.model_copy(update={"unet_scale": 0.0, "text_scale": 0.0})  # exactly the base
    asked = task.shots([fill(template, task.subject) for template in task.templates])
    orders = (
        (own, asked, task.knobs, taught),
        (shared, task.shots(task.plain), bare, untouched),
        (own, task.shots_of_class, task.knobs, taught),
        (shared, task.shots_of_class, bare, untouched),
    )
    progress("drawing", sum(len(shots) for _, shots, _, _ in orders))
    kinds: list[ImageSet] = []
    for gallery, shots, knobs, weights in orders:
        files: list[Path] = []
        for file in gallery.pictures(generator, shots, knobs, weights):
            progress("picture", file)
            files.append(file)
        kinds.append(ImageSet(gallery=gallery, files=tuple(files)))
    return Samples(taught=kinds[0], untouched=kinds[1], class_taught=kinds[2], class_untouched=kinds[3], weights=taught)
