"""`doctor`: check photos and settings before training."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from mascot.data.photo_audit import Audit, audit_photos
from mascot.data.photos import PhotoSet
from mascot.evaluation.command_time import (
    TimedPart,
    describe_command_time,
    image_seconds,
    time_of_images,
    time_to_prepare,
)
from mascot.evaluation.selection.token_choice import choose_token
from mascot.evaluation.selection.validation import Validation
from mascot.generation.measured_time import MeasuredTime
from mascot.protocols import Subject
from mascot.recipe.recipe import Recipe, with_tokens
from mascot.runs.effective_settings import TIME, Rows, effective_settings, planned_settings
from mascot.runs.inputs import find_caption_faults, load_base, read_subject
from mascot.runs.training_run import TrainingRun
from mascot.runs.training_steps import begin
from mascot.storage.run_folder import Run

TIMED_STEPS = 2
"""Steps of each phase that are timed. The fastest counts, as the machine may be busy during one."""

USUAL_RESOLUTION = 512
"""Side, in pixels, that photos are audited for while the base is not loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorReport:
    """What training would use and cost, and what is wrong with the photos."""

    subject: Subject
    """The subject, or the first of several, as captions name it.

    `sks` stands in for a token that is not chosen yet.
    """
    photos: PhotoSet
    audit: Audit
    settings: Rows
    """Name and value of each effective setting; with a measurement, also the cost."""


def doctor(recipe: Recipe, *, measure: bool = True) -> DoctorReport:
    """Audit photos and settings without training; `measure` loads the base and times a few steps.

    Raises:
        UserError: a photo or a setting cannot be used.
    """
    photos = read_subject(with_class_images(recipe, 0))
    if measure:
        return measured_report(recipe, photos)
    return DoctorReport(
        subject=recipe.subject,
        photos=photos,
        audit=audit_subject(recipe, photos, recipe.dataset.resolution or USUAL_RESOLUTION),
        settings=planned_settings(recipe, len(photos.photos), recipe.dataset.resolution),
    )


def measured_report(recipe: Recipe, photos: PhotoSet) -> DoctorReport:
    """Load the base, time steps with at most one class image, and report all settings."""
    short = with_class_images(recipe, min(recipe.prior.count, 1))
    few = replace(photos, class_images=photos.class_images[:1])
    if not recipe.subjects.class_nouns:
        short = short.model_copy(update={"prior": recipe.prior.model_copy(update={"weight": 0.0})})
    with TemporaryDirectory() as folder:
        time_so_far = MeasuredTime(with_images=True)
        family = load_base(recipe)
        short, reason = choose_token(short, family)
        run = TrainingRun(recipe=short, files=Run(Path(folder)), photos=few, family=family, token_reason=reason)
        run.time = time_so_far
        loaded = run.time.so_far
        begin(run)
        rows = [row for row in effective_settings(run) if row[0] != TIME]
        given, recipe, resolution = recipe, with_tokens(recipe, short.subjects.tokens), run.resolution
        rows.append(("cost", describe_cost(run, recipe, photos, loaded)))
    # The rows of the shortened recipe give way to those of the recipe itself.
    planned = dict(planned_settings(recipe, len(photos.photos), resolution, reason))
    return DoctorReport(
        subject=recipe.subject,
        photos=photos,
        audit=audit_subject(given, photos, resolution),
        settings=[(name, planned.get(name, value)) for name, value in rows],
    )


def audit_subject(recipe: Recipe, photos: PhotoSet, resolution: int) -> Audit:
    """Audit the photos and their captions."""
    audit = audit_photos(photos, resolution, names=recipe.subjects.names)
    return replace(audit, findings=(*audit.findings, *find_caption_faults(recipe, photos)))


def describe_cost(run: TrainingRun, recipe: Recipe, photos: PhotoSet, loaded: float) -> str:
    """Describe the time of the whole command; `loaded` is that of loading the base.

    `run` is of the same recipe with fewer class images.
    """
    validation = Validation.plan(run)
    before, after = list(time_to_prepare(run, recipe, photos.class_images)), list(time_of_images(run, validation))
    seconds, total = measure_steps(run)
    parts = [TimedPart("loading", loaded), *before, TimedPart("training", total), *after]
    each = f"{seconds:.2f} s a step and {image_seconds(run, recipe.knobs):.2f} s an image, measured"
    return f"{describe_command_time(parts)} ({each})"


def measure_steps(run: TrainingRun) -> tuple[float, float]:
    """Time steps of each phase without taking any.

    Returns the seconds of the fastest step, and those of the whole training.
    """
    fastest, total = math.inf, 0.0
    for index, span in enumerate(run.spans):
        if span.last == span.first:
            continue
        if index:
            run.enter(index)
        seconds = min(run.time_one_step() for _ in range(TIMED_STEPS))
        fastest, total = min(fastest, seconds), total + seconds * (span.last - span.first)
    return fastest, total


def with_class_images(recipe: Recipe, count: int) -> Recipe:
    """Change the number of class images of a recipe."""
    return recipe.model_copy(update={"prior": recipe.prior.model_copy(update={"count": count})})
