"""Generate and embed the images that an evaluation scores, with and without the adapter.

Shape suffixes: B images, P photos, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from mascot.data.photos import Photo
from mascot.data.prompt_templates import fill
from mascot.evaluation.evaluation_task import EvaluationTask
from mascot.evaluation.metrics.class_drift import drift, preservation
from mascot.evaluation.metrics.default_encoders import EncoderPair
from mascot.evaluation.metrics.memorization import copy_scores, nearest_excesses
from mascot.evaluation.metrics.prompt_fidelity import prompt_fidelity
from mascot.evaluation.metrics.subject_fidelity import real_similarity, similarity
from mascot.evaluation.metrics.subject_leakage import Leak, measure_leak
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


@dataclass(frozen=True, kw_only=True)
class EmbeddedSamples:
    """Embeddings of a run's images, photos and prompts, computed on first use.

    The sample cache keeps the embeddings of images and photos.
    """

    task: EvaluationTask
    samples: Samples
    encoders: EncoderPair

    def embed_photos(self, encoder: ImageEncoder, photos: Sequence[Photo]) -> Tensor:
        """Embed photos. Shape P x D; without photos there are no rows."""
        sample_cache = self.samples.trained.sample_cache
        return sample_cache.embed_images(encoder, [photo.image for photo in photos]) if photos else torch.empty(0, 0)

    @cached_property
    def photo_identity_embeddings(self) -> Tensor:
        """The photos embedded by the identity encoder. Shape P x D."""
        return self.embed_photos(self.encoders.identity, self.task.photos)

    @cached_property
    def photo_clip_embeddings(self) -> Tensor:
        """The photos embedded by CLIP. Shape P x D."""
        return self.embed_photos(self.encoders.clip, self.task.photos)

    @cached_property
    def prompt_clip_embeddings(self) -> Tensor:
        """Each image's prompt without the token, embedded by CLIP.

        Shape B x D; without a class noun there are no rows.
        """
        prompts = self.task.clip_prompts
        if not prompts:
            return torch.empty(0, 0)
        return self.encoders.clip.embed_prompts(prompts).repeat_interleave(self.task.images, dim=0)

    def per_image_values(self) -> dict[str, list[float]]:
        """Compute the metrics that are means over images: metric to one value for each image.

        Metrics of the base model have the prefix `base_`. Metrics that cannot be computed are left
        out.
        """
        values: dict[str, list[float]] = {}
        for prefix, images in {"": self.samples.trained, "base_": self.samples.base}.items():
            identity_BD, clip_BD = images.embed(self.encoders.identity), images.embed(self.encoders.clip)
            if self.task.photos and images.files:
                real_PD = self.photo_identity_embeddings
                values[f"{prefix}identity"] = [similarity(row_D[None], real_PD) for row_D in identity_BD]
                values[f"{prefix}clip_i"] = [similarity(row_D[None], self.photo_clip_embeddings) for row_D in clip_BD]
            if self.task.prompts_without_token:
                pairs = zip(clip_BD, self.prompt_clip_embeddings, strict=True)
                values[f"{prefix}clip_t"] = [
                    prompt_fidelity(image_D[None], prompt_D[None]) for image_D, prompt_D in pairs
                ]
        generated_BD = self.samples.trained.embed(self.encoders.identity)
        trained_PD = self.embed_photos(self.encoders.identity, self.task.training_photos)
        held_out_PD = self.embed_photos(self.encoders.identity, self.task.held_out)
        copies = {
            "copying": copy_scores(generated_BD, trained_PD, held_out_PD),
            "nearest": nearest_excesses(generated_BD, trained_PD),
        }
        return values | {name: column for name, column in copies.items() if column}

    def per_run_values(self) -> dict[str, float | None]:
        """Compute the metrics of a run as a whole; None where one cannot be computed."""
        encoder, photos_PD = self.encoders.identity, self.photo_identity_embeddings
        trained_BD, base_BD = self.samples.class_trained.embed(encoder), self.samples.class_base.embed(encoder)
        return {
            "preservation": preservation(trained_BD, photos_PD),
            "base_preservation": preservation(base_BD, photos_PD),
            "drift": drift(trained_BD, base_BD, photos_PD),
            "real_identity": real_similarity(photos_PD),
            "real_clip_i": real_similarity(self.photo_clip_embeddings),
        }

    def leaks(self) -> dict[str, Leak | str]:
        """Measure how far the images look like each other subject, by its name, or why not."""
        found: dict[str, Leak | str] = {}
        encoder = self.encoders.identity
        for name, photos in self.task.other_photos.items():
            if not photos or not self.task.photos:
                found[name] = "no photos of the subjects are known; give --photos once for each of them"
                continue
            found[name] = measure_leak(
                self.samples.trained.embed(encoder),
                self.samples.base.embed(encoder),
                self.photo_identity_embeddings,
                self.embed_photos(encoder, photos),
                each=self.task.images,
            )
        return found


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
    generator.prompt_reader.report([request.prompt for _, requests, _, _ in orders for request in requests], on_event)
    on_event(GenerationStarted(images=more + sum(len(requests) for _, requests, _, _ in orders)))
    kinds: list[ImageSet] = []
    for sample_cache, requests, knobs, weights in orders:
        files: list[Path] = []
        for file in sample_cache.images(generator, requests, knobs, weights):
            on_event(ImageGenerated(path=file))
            files.append(file)
        kinds.append(ImageSet(sample_cache=sample_cache, files=tuple(files)))
    return Samples(trained=kinds[0], base=kinds[1], class_trained=kinds[2], class_base=kinds[3], weights=trained)
