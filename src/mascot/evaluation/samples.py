"""Generate the images that an evaluation scores, with and without the adapter.

Shape suffixes: B images, D width of an embedding.
"""

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
    """Cached images of one kind, ordered by prompt and then by seed."""

    sample_cache: SampleCache
    files: tuple[Path, ...]

    def embed(self, encoder: ImageEncoder) -> Tensor:
        """Embed the images. Shape B x D; without images there are no rows."""
        return self.sample_cache.embed(encoder, self.files) if self.files else torch.empty(0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """All images that were generated for one run."""

    trained: ImageSet
    """The prompts with the adapter."""
    base: ImageSet
    """The same prompts by the base model, with the class noun alone."""
    class_trained: ImageSet
    """The class alone with the adapter."""
    class_base: ImageSet
    """The class alone by the base model."""
    weights: str
    """Hash of the base and the adapter (see `weights_name`)."""


def generate_samples(
    task: EvaluationTask, generator: Generator, *, adapter: Path, folder: Path, on_event: OnEvent, more: int = 0
) -> Samples:
    """Generate the images that are not cached yet.

    Images with the adapter are kept in `folder`, those of the base in the cache that all runs
    share. `more` images, which the caller generates afterwards, are counted in the event
    `GenerationStarted`. Events: `PromptTruncated`,
    `GenerationStarted`, `ImageGenerated`.

    Raises:
        UserError: the images cannot be generated or written.
    """
    family = generator.family
    own, shared = SampleCache(folder), SampleCache(cache_folder() / "gallery" / family.identity)
    trained, base = weights_name(family, adapter), weights_name(family)
    base_knobs = task.knobs.model_copy(update={"unet_scale": 0.0, "text_scale": 0.0})  # exactly the base
    prompts = task.requests([fill(template, task.subject) for template in task.templates])
    orders = (
        (own, prompts, task.knobs, trained),
        (shared, task.requests(task.prompts_without_token), base_knobs, base),
        (own, task.class_requests, task.knobs, trained),
        (shared, task.class_requests, base_knobs, base),
    )
    generator.report_truncations([request.prompt for _, requests, _, _ in orders for request in requests], on_event)
    on_event(GenerationStarted(images=more + sum(len(requests) for _, requests, _, _ in orders)))
    kinds: list[ImageSet] = []
    for sample_cache, requests, knobs, weights in orders:
        files: list[Path] = []
        for file in sample_cache.images(generator, requests, knobs, weights):
            on_event(ImageGenerated(path=file))
            files.append(file)
        kinds.append(ImageSet(sample_cache=sample_cache, files=tuple(files)))
    return Samples(trained=kinds[0], base=kinds[1], class_trained=kinds[2], class_base=kinds[3], weights=trained)
