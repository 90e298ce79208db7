"""Probe images: what a run generates for the diagnosis, and what the encoders measure in it.

A run generates a handful of prompts, the class noun alone and the token alone; the base model
generates the same. None of the prompts is one that reports are measured on. The sample caches keep
all images, so that a second diagnosis generates nothing and an interrupted one goes on. Evaluations
with the same knobs find the class images there.

Shape suffixes: B images, N prompts that were generated, I images of a prompt, J images of the other
prompts, Q prompts that images are compared with, D width of an embedding.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor
from torch.nn import functional as F

from mascot.data.photo_audit import background_similarity, duplicates
from mascot.evaluation.diagnosis.measurements import PromptMeasurements, RunMeasurements
from mascot.evaluation.evaluation_task import EvaluationTask
from mascot.evaluation.evaluator import Scorers, split_by_prompt
from mascot.evaluation.metrics.color_leakage import scene_colors
from mascot.evaluation.metrics.diversity import diversity
from mascot.evaluation.metrics.memorization import real_nearest
from mascot.evaluation.metrics.subject_fidelity import real_similarity, similarity
from mascot.evaluation.samples import EmbeddedSamples, ImageSet, Samples, generate_samples
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest
from mascot.generation.prompts.live_nouns import is_live
from mascot.generation.prompts.prompt_sets import STARTER_VALIDATION
from mascot.progress import ImageGenerated, OnEvent
from mascot.storage.image_files import open_image

VALIDATION_PROMPTS = 6
"""Number of validation prompts that a run is diagnosed on."""

PLAIN_BACKGROUNDS = tuple(f"a {{subject}} on a {color} background" for color in ("red", "yellow", "green", "blue"))
"""Prompts that differ in the background's color alone."""

TOKEN_IMAGES = 4
"""Number of images of the token without the class noun."""


def diagnosis_prompts(class_noun: str | None) -> tuple[str, ...]:
    """List the prompts of a diagnosis: validation prompts, then plain backgrounds.

    None of them is a prompt of a report.
    """
    validation = STARTER_VALIDATION.for_subject(live=is_live(class_noun))
    return (*validation[:VALIDATION_PROMPTS], *PLAIN_BACKGROUNDS)


def token_requests(task: EvaluationTask) -> list[ImageRequest]:
    """Request images of the token without the class noun.

    A subject without a class noun has none, because its prompts name the token alone anyhow.
    """
    if task.subject.class_noun is None:
        return []
    return [ImageRequest(f"a photo of {task.subject.token}", task.seed + k) for k in range(TOKEN_IMAGES)]


@dataclass(frozen=True, kw_only=True)
class ProbeImages:
    """The images that one run and its base model generated, and the models that measure them."""

    task: EvaluationTask
    samples: Samples
    token_alone: ImageSet
    """Images of the token without the class noun."""
    scorers: Scorers

    @property
    def count(self) -> int:
        """Number of images, the base model's included."""
        samples = self.samples
        sets = (samples.trained, samples.base, samples.class_trained, samples.class_base, self.token_alone)
        return sum(len(images.files) for images in sets)

    @cached_property
    def embedded(self) -> EmbeddedSamples:
        """Embeddings of the images of the prompts, and of the photos."""
        return EmbeddedSamples(task=self.task, samples=self.samples, encoders=self.scorers.encoders)

    @cached_property
    def per_image_values(self) -> dict[str, list[float]]:
        """Metric to one value for each image (see `EmbeddedSamples.per_image_values`)."""
        return self.embedded.per_image_values()

    def measurements(self) -> RunMeasurements:
        """Measure everything that the checks need."""
        task, identity = self.task, self.scorers.encoders.identity
        training_photos_PD = self.embedded.embed_photos(identity, task.training_photos)
        return RunMeasurements(
            class_noun=task.subject.class_noun,
            prompts=tuple(self.prompt_measurements(number) for number in range(len(task.templates))),
            photo_count=len(task.photos),
            training_photo_count=len(task.training_photos),
            real_likeness=real_similarity(self.embedded.photo_identity_embeddings),
            real_nearest=real_nearest(training_photos_PD),
            class_likeness=self.likeness(self.samples.class_trained),
            base_class_likeness=self.likeness(self.samples.class_base),
            token_likeness=self.likeness(self.token_alone),
            leakage=self.leakage(self.samples.trained),
            base_leakage=self.leakage(self.samples.base),
            duplicate_count=len({path for pair in duplicates(task.photos) for path in (pair.first, pair.second)}),
            background_similarity=background_similarity(task.photos),
            leaks=self.embedded.leaks(),
        )

    def prompt_measurements(self, number: int) -> PromptMeasurements:
        """Measure the images of one prompt."""
        task = self.task
        indices = range(number * task.images, (number + 1) * task.images)

        def mean(metric: str) -> float | None:
            values = self.per_image_values.get(metric)
            return None if values is None else fmean(values[index] for index in indices)

        trained_cosines, base_cosines = self.prompt_cosines
        clip_t, clip_t_others, _ = match_prompt(trained_cosines, number)
        base_clip_t, base_clip_t_others, base_match_rate = match_prompt(base_cosines, number)
        without_token = task.prompts_without_token
        return PromptMeasurements(
            prompt=without_token[number] if without_token else task.requests([task.templates[number]])[0].prompt,
            likeness=mean("identity"),
            base_likeness=mean("base_identity"),
            nearest_excess=mean("nearest"),
            clip_t=clip_t,
            clip_t_others=clip_t_others,
            base_clip_t=base_clip_t,
            base_clip_t_others=base_clip_t_others,
            base_match_rate=base_match_rate,
            diversity=self.diversity(self.samples.trained, number),
            base_diversity=self.diversity(self.samples.base, number),
        )

    @cached_property
    def prompt_cosines(self) -> tuple[Tensor | None, Tensor | None]:
        """CLIP cosines of the run's, and the base model's, images to all prompts without the token.

        Each has shape N x I x Q; None without a class noun.
        """
        prompts, clip = self.task.clip_prompts, self.scorers.encoders.clip
        if not prompts:
            return None, None
        prompts_QD = F.normalize(clip.embed_prompts(prompts).double(), dim=-1)
        trained, base = (
            (F.normalize(images.embed(clip).double(), dim=-1) @ prompts_QD.T).reshape(
                len(prompts), self.task.images, -1
            )
            for images in (self.samples.trained, self.samples.base)
        )
        return trained, base

    def likeness(self, images: ImageSet) -> tuple[float, ...]:
        """Measure the likeness of each image to the photos; empty where there are no photos."""
        if not self.task.photos:
            return ()
        photos_PD = self.embedded.photo_identity_embeddings
        return tuple(similarity(row_D[None], photos_PD) for row_D in images.embed(self.scorers.encoders.identity))

    def diversity(self, images: ImageSet, number: int) -> float | None:
        """Average the distances between the images of a prompt."""
        files = split_by_prompt(self.task, images.files)
        return diversity(images.sample_cache.distances(self.scorers.distance, files[number])) if files else None

    def plain_background_files(self, images: ImageSet) -> list[Sequence[Path]]:
        """Group the images on plain backgrounds by seed; empty with fewer than two such prompts."""
        files = split_by_prompt(self.task, images.files)
        pairs = zip(self.task.templates, files, strict=False)
        plain = [group for template, group in pairs if template in PLAIN_BACKGROUNDS]
        return list(zip(*plain, strict=True)) if len(plain) > 1 else []

    def leakage(self, images: ImageSet) -> tuple[float | None, ...]:
        """Measure for each seed how far the center's color follows the background's."""
        colors = [scene_colors([open_image(file) for file in files]) for files in self.plain_background_files(images)]
        return tuple(None if scene is None else scene.leakage for scene in colors)


def match_prompt(cosines_NIQ: Tensor | None, number: int) -> tuple[float | None, float | None, float | None]:
    """Compare how well a prompt is matched by its own images and by those of the other prompts.

    Returns the mean cosine of its own images, the mean cosine of the others, and how often an own
    image has the higher cosine. The last is the area under the ROC curve (Mann and Whitney 1947),
    which is 0.5 by chance. A value is None where there is nothing to compare with.
    """
    if cosines_NIQ is None:
        return None, None, None
    others = torch.arange(len(cosines_NIQ)) != number
    own_I, other_J = cosines_NIQ[number, :, number], cosines_NIQ[others][:, :, number].flatten()
    if not len(other_J):
        return float(own_I.mean()), None, None
    wins = [float(own > other) + 0.5 * float(own == other) for own, other in itertools.product(own_I, other_J)]
    return float(own_I.mean()), float(other_J.mean()), fmean(wins)


def generate_probes(
    task: EvaluationTask, generator: Generator, scorers: Scorers, *, adapter: Path, folder: Path, on_event: OnEvent
) -> ProbeImages:
    """Generate all images that a diagnosis needs and that are not cached yet.

    Raises:
        UserError: the images cannot be generated or written.
    """
    requests = token_requests(task)
    samples = generate_samples(task, generator, adapter=adapter, folder=folder, on_event=on_event, more=len(requests))
    files: list[Path] = []
    for file in samples.trained.sample_cache.images(generator, requests, task.knobs, samples.weights):
        on_event(ImageGenerated(path=file))
        files.append(file)
    token_alone = ImageSet(sample_cache=samples.trained.sample_cache, files=tuple(files))
    return ProbeImages(task=task, samples=samples, token_alone=token_alone, scorers=scorers)
