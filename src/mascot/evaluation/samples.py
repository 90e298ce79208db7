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
from mascot.progress import GenerationStarted, ImageGenerated, OnEvent
from mascot.storage.user_cache import cache_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """Kept pictures of one kind, by prompt and then by seed."""

    sample_cache: SampleCache
    files: tuple[Path, ...]

    def embed(self, encoder: ImageEncoder) -> Tensor:
        """Embed them; without pictures, without rows. Shape B x D."""
        return self.sample_cache.embed(encoder, self.files) if self.files else torch.empty(0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Everything that was drawn for one run."""

    trained: ImageSet
    base: ImageSet
    """The same prompts by the base, with the class noun alone."""
    class_trained: ImageSet
    class_base: ImageSet
    weights: str
    """The name of what drew it (see `weights_name`)."""


def generate_samples(
    task: EvaluationTask, generator: Generator, *, adapter: Path, folder: Path, on_event: OnEvent, more: int = 0
) -> Samples:
    """Draw all that is not kept yet, in `folder` and, what the base draws, in the cache that all runs share.

    `more` images, which the caller generates afterwards, are counted in the event `GenerationStarted`.

    Raises:
        UserError: the images cannot be generated or written.
    """
    family = generator.family
    own, shared = SampleCache(folder), SampleCache(cache_folder() / "gallery" / family.identity)
    trained, base = weights_name(family, adapter), weights_name(family)
    bare = task.knobs.model_copy(update={"unet_scale": 0.0, "text_scale": 0.0})  # exactly the base
    asked = task.requests([fill(template, task.subject) for template in task.templates])
    orders = (
        (own, asked, task.knobs, trained),
        (shared, task.requests(task.plain), bare, base),
        (own, task.class_requests, task.knobs, trained),
        (shared, task.class_requests, bare, base),
    )
    on_event(GenerationStarted(images=more + sum(len(requests) for _, requests, _, _ in orders)))
    kinds: list[ImageSet] = []
    for sample_cache, requests, knobs, weights in orders:
        files: list[Path] = []
        for file in sample_cache.images(generator, requests, knobs, weights):
            on_event(ImageGenerated(path=file))
            files.append(file)
        kinds.append(ImageSet(sample_cache=sample_cache, files=tuple(files)))
    return Samples(trained=kinds[0], base=kinds[1], class_trained=kinds[2], class_base=kinds[3], weights=trained)
