"""The evidence of a run: what it draws for a handful of prompts, for the class alone and for the token alone, beside the untouched base.

None of the prompts is one that reports are measured by. All is drawn through the one generator and kept in galleries, so that nothing is
drawn twice, an evaluation finds the pictures of the class there, and a diagnosis that was stopped goes on.

Shape suffixes: B pictures, N prompts asked, I pictures of a prompt, Q prompts that pictures are held against, D width of an embedding.
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

from mascot.data.photo_audit import background_sameness, duplicates
from mascot.evaluation.diagnosis.measurements import PromptMeasurements, RunMeasurements
from mascot.evaluation.evaluation_task import EvaluationTask
from mascot.evaluation.evaluator import EmbeddedSamples, Scorers, by_prompt
from mascot.evaluation.metrics.color_leakage import scene_colors
from mascot.evaluation.metrics.diversity import diversity
from mascot.evaluation.metrics.memorization import real_nearest
from mascot.evaluation.metrics.subject_fidelity import real_similarity, similarity
from mascot.evaluation.samples import ImageSet, Samples, generate_samples
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest
from mascot.generation.prompt_sets import STARTER_VALIDATION, is_live
from mascot.progress import ImageGenerated, OnEvent
from mascot.storage.image_files import open_image

PLACES = 6
"""Validation prompts that a run is diagnosed by."""


PLAIN = tuple(f"a {{subject}} on a {colour} background" for colour in ("red", "yellow", "green", "blue"))
"""Scenes that differ in their colour alone."""


TOKENS = 4
"""Pictures of the token without the class noun."""


def diagnosis_prompts(class_noun: str | None) -> tuple[str, ...]:
    """What a run is asked to draw: validation prompts, and plain backgrounds; none is among the report's."""
    return (*STARTER_VALIDATION.for_subject(live=is_live(class_noun))[:PLACES], *PLAIN)


def token_requests(task: EvaluationTask) -> list[ImageRequest]:
    """The token without the class noun; none where the subject has none, and is the token alone anyhow."""
    return (
        []
        if task.subject.class_noun is None
        else [ImageRequest(f"a photo of {task.subject.token}", task.seed + k) for k in range(TOKENS)]
    )


@dataclass(frozen=True, kw_only=True)
class ProbeImages:
    """What one run drew, and what the judges see in it."""

    task: EvaluationTask
    samples: Samples
    token_alone: ImageSet
    scorers: Scorers

    @property
    def images(self) -> int:
        """How many were drawn."""
        kinds = (
            self.samples.trained,
            self.samples.base,
            self.samples.class_trained,
            self.samples.class_base,
            self.token_alone,
        )
        return sum(len(kind.files) for kind in kinds)

    @cached_property
    def seen(self) -> EmbeddedSamples:
        """The prompts' pictures, as they are scored."""
        return EmbeddedSamples(task=self.task, samples=self.samples, encoders=self.scorers.encoders)

    @cached_property
    def columns(self) -> dict[str, list[float]]:
        """A value for each picture of the prompts (see `EmbeddedSamples.columns`)."""
        return self.seen.columns()

    def measurements(self) -> RunMeasurements:
        """Measure all that ailments are looked for by."""
        task, identity = self.task, self.scorers.encoders.identity
        trained = self.seen.photos(identity, task.trained)
        return RunMeasurements(
            class_noun=task.subject.class_noun,
            prompts=tuple(self.prompt(number) for number in range(len(task.templates))),
            photos=len(task.photos),
            trained=len(task.trained),
            real_likeness=real_similarity(self.seen.real_identity),
            real_nearest=real_nearest(trained),
            class_now=self.likenesses(self.samples.class_trained),
            class_before=self.likenesses(self.samples.class_base),
            token_alone=self.likenesses(self.token_alone),
            followed=self.followed(self.samples.trained),
            base_followed=self.followed(self.samples.base),
            twins=len({path for pair in duplicates(task.photos) for path in (pair.first, pair.second)}),
            sameness=background_sameness(task.photos),
        )

    def prompt(self, number: int) -> PromptMeasurements:
        """Measure one prompt."""
        task = self.task
        places = range(number * task.images, (number + 1) * task.images)

        def mean(name: str) -> float | None:
            return fmean(self.columns[name][place] for place in places) if name in self.columns else None

        fidelity, unrelated, _ = match(self.matches[0], number)
        base_fidelity, base_unrelated, base_rank = match(self.matches[1], number)
        return PromptMeasurements(
            prompt=task.requests([task.templates[number]])[0].prompt if not task.plain else task.plain[number],
            likeness=mean("identity"),
            base_likeness=mean("base_identity"),
            excess=mean("nearest"),
            fidelity=fidelity,
            unrelated=unrelated,
            base_fidelity=base_fidelity,
            base_unrelated=base_unrelated,
            base_rank=base_rank,
            diversity=self.diversity(self.samples.trained, number),
            base_diversity=self.diversity(self.samples.base, number),
        )

    @cached_property
    def matches(self) -> tuple[Tensor | None, Tensor | None]:
        """Cosines of the run's and of the base's pictures to all prompts without the token, each N x I x Q; None without a class noun."""
        if not self.task.plain:
            return None, None
        clip = self.scorers.encoders.clip
        words_QD = F.normalize(clip.embed_prompts(self.task.plain).double(), dim=-1)
        trained, base = (
            (F.normalize(kind.embed(clip).double(), dim=-1) @ words_QD.T).reshape(
                len(self.task.plain), self.task.images, -1
            )
            for kind in (self.samples.trained, self.samples.base)
        )
        return trained, base

    def likenesses(self, images: ImageSet) -> tuple[float, ...]:
        """The likeness of each picture to the photos; none where there are no photos."""
        if not self.task.photos:
            return ()
        return tuple(
            similarity(row_D[None], self.seen.real_identity) for row_D in images.embed(self.scorers.encoders.identity)
        )

    def diversity(self, images: ImageSet, number: int) -> float | None:
        """The mean distance between the pictures of a prompt."""
        files = by_prompt(self.task, images.files)
        return diversity(images.sample_cache.distances(self.scorers.distance, files[number])) if files else None

    def plain_files(self, images: ImageSet) -> list[Sequence[Path]]:
        """For each seed, its pictures on plain backgrounds; none where fewer than two prompts are plain."""
        files = by_prompt(self.task, images.files)
        plain = [some for template, some in zip(self.task.templates, files, strict=False) if template in PLAIN]
        return list(zip(*plain, strict=True)) if len(plain) > 1 else []

    def followed(self, images: ImageSet) -> tuple[float | None, ...]:
        """For each seed, how far the middle's colour follows the background's."""
        scenes = [scene_colors([open_image(file) for file in files]) for files in self.plain_files(images)]
        return tuple(None if colours is None else colours.followed for colours in scenes)


def match(cosines_NIQ: Tensor | None, number: int) -> tuple[float | None, float | None, float | None]:
    """How well a prompt's own pictures match it, how well those of the others do, and how often one of the former does better.

    The last is the area under the ROC curve (Mann and Whitney 1947), 0.5 by chance. None for what there is nothing to compare with.
    """
    if cosines_NIQ is None:
        return None, None, None
    others = torch.arange(len(cosines_NIQ)) != number
    own_I, other_J = cosines_NIQ[number, :, number], cosines_NIQ[others][:, :, number].flatten()
    if not len(other_J):
        return float(own_I.mean()), None, None
    wins = [float(own > other) + 0.5 * float(own == other) for own, other in itertools.product(own_I, other_J)]
    return float(own_I.mean()), float(other_J.mean()), fmean(wins)


def draw_probes(
    task: EvaluationTask, generator: Generator, scorers: Scorers, *, adapter: Path, folder: Path, on_event: OnEvent
) -> ProbeImages:
    """Draw all that a diagnosis needs and is not kept yet.

    Raises:
        UserError: the pictures cannot be drawn or written.
    """
    alone = token_requests(task)
    samples = generate_samples(task, generator, adapter=adapter, folder=folder, on_event=on_event, more=len(alone))
    files: list[Path] = []
    for file in samples.trained.sample_cache.images(generator, alone, task.knobs, samples.weights):
        on_event(ImageGenerated(path=file))
        files.append(file)
    token_alone = ImageSet(sample_cache=samples.trained.sample_cache, files=tuple(files))
    return ProbeImages(task=task, samples=samples, token_alone=token_alone, scorers=scorers)
