"""The time of a whole `mascot train`: what it generates and scores, counted and timed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mascot.data.photos import Photo
from mascot.evaluation.diagnosis.probe_images import TOKEN_IMAGES, diagnosis_prompts
from mascot.evaluation.evaluation_task import CLASS_IMAGES
from mascot.evaluation.selection.validation import Validation, likely_images
from mascot.generation.generator import Generator
from mascot.generation.knobs import Knobs
from mascot.recipe.recipe import Recipe
from mascot.runs.effective_settings import describe_time
from mascot.runs.inputs import count_missing_class_images
from mascot.runs.previews import preview_prompts
from mascot.runs.training_run import TrainingRun

TIMED_PHOTOS = 8
"""Most photos that the encoders are timed with."""


@dataclass(frozen=True, slots=True)
class TimedPart:
    """One part of the command, and its seconds."""

    what: str
    seconds: float


def describe_command_time(parts: list[TimedPart]) -> str:
    """Write the time of the whole command, then of each part."""
    listed = ", ".join(f"{part.what} {describe_time(part.seconds)}" for part in parts if part.what)
    return f"about {describe_time(sum(part.seconds for part in parts))} for the whole command: {listed}"


def time_to_prepare(run: TrainingRun, recipe: Recipe, own: Sequence[Photo]) -> Iterator[TimedPart]:
    """Time what happens before the first step: class images of the whole recipe, and encoding.

    `run` may be of the same recipe with fewer class images; `own` are all those of the user.
    """
    examples = len(run.photos.photos) + sum(map(len, run.class_images.values()))
    missing = count_missing_class_images(recipe, run.family, run.resolution, own)
    if missing:
        knobs = Knobs(guidance=recipe.prior.guidance, steps=recipe.prior.steps)
        yield TimedPart(f"{missing} class images", missing * image_seconds(run, knobs))
    wanted = len(run.photos.photos) + len(run.class_images) * max(len(own), recipe.prior.count)
    yield TimedPart("encoding", run.time.encoding * wanted / examples)


def time_of_images(run: TrainingRun, validation: Validation) -> Iterator[TimedPart]:
    """Time what training generates and scores: previews, selection, diagnosis, report."""
    recipe, each, scoring = run.recipe, image_seconds(run, run.recipe.knobs), scoring_seconds(validation)
    rounds = 1 + run.steps // recipe.previews.every if recipe.previews.every else 0
    previews = rounds * len(preview_prompts(recipe))
    selection, diagnosis = likely_images(validation), diagnosis_images(recipe, validation)
    for what, images, scored in (
        ("previews", previews, False),
        ("images of the selection", selection, True),
        ("images of the diagnosis", diagnosis, True),
        ("images of the report", recipe.report.images, False),
    ):
        if images:
            yield TimedPart(f"{images} {what}", images * (each + scored * scoring))


def image_seconds(run: TrainingRun, knobs: Knobs) -> float:
    """Return the seconds of one image of a run."""
    return run.time.image_seconds(Generator(run.family), knobs)


def scoring_seconds(validation: Validation) -> float:
    """Time the encoders on photos; returns the seconds of one image."""
    if validation.opened_set is None:
        return 0.0
    photos = [photo.image for photo in validation.opened_set.photos[:TIMED_PHOTOS]]
    started = time.perf_counter()
    for encoder in (validation.opened_set.encoders.identity, validation.opened_set.encoders.clip):
        encoder.embed(photos)
    return (time.perf_counter() - started) / len(photos)


def diagnosis_images(recipe: Recipe, validation: Validation) -> int:
    """Count the images of a diagnosis, the base model's included; 0 where it cannot take place."""
    if not recipe.diagnosis.active or validation.lacks_encoders:
        return 0
    images, count = recipe.diagnosis.images, 0
    for subject in recipe.subject.all:
        prompts = images * len(diagnosis_prompts(subject.class_noun))
        count += prompts if subject.class_noun is None else 2 * (prompts + CLASS_IMAGES * images) + TOKEN_IMAGES
    return count
