"""TODO api.doctor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mascot.data.photo_audit import Audit, audit_photos
from mascot.data.photos import PhotoSet
from mascot.evaluation.selection.token_choice import choose_token
from mascot.protocols import Subject
from mascot.recipe.recipe import Recipe
from mascot.runs.effective_settings import TIME, Rows, describe_time, effective_settings, planned_settings
from mascot.runs.inputs import load_base, read_subject
from mascot.runs.training_run import TrainingRun
from mascot.runs.training_steps import begin
from mascot.storage.run_folder import Run

TIMED = 2
"""Rehearsals of each phase: the machine may be busy with something else in one."""


USUAL_RESOLUTION = 512
"""What photos are audited for while nobody has asked the base, in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorReport:
    """What the doctor found."""

    subject: Subject
    """What captions call the subject; `sks` stands in for a token that is still to be found."""
    photos: PhotoSet
    audit: Audit
    settings: Rows


def inspect_recipe(recipe: Recipe, photos: PhotoSet, *, measure: bool) -> DoctorReport:
    """Audit photos and settings; `measure` loads the base and times a few steps of the real loop, class pictures included."""
    if not measure:
        settings = planned_settings(recipe, len(photos.photos), recipe.dataset.resolution)
        return DoctorReport(
            subject=recipe.subject,
            photos=photos,
            audit=audit_photos(photos, recipe.dataset.resolution or USUAL_RESOLUTION),
            settings=settings,
        )
    short = recipe.model_copy(update={"prior": recipe.prior.model_copy(update={"count": min(recipe.prior.count, 1)})})
    if recipe.class_noun is None:
        short = short.model_copy(update={"prior": recipe.prior.model_copy(update={"weight": 0.0})})
    with TemporaryDirectory() as folder:
        family = load_base(recipe)
        short, why = choose_token(short, family)
        run = TrainingRun(recipe=short, files=Run(Path(folder)), photos=photos, family=family, token_reason=why)
        begin(run)
        rows = [row for row in effective_settings(run) if row[0] != TIME]
        seconds, total = measure_steps(run)
        recipe, resolution = recipe.model_copy(update={"token": short.token}), run.resolution
    rows = [(name, f"{value}") for name, value in rows]
    rows.append(
        (
            "cost",
            f"about {describe_time(total)} of training on this machine ({seconds:.2f} s a step, measured), previews not counted",
        )
    )
    planned = dict(planned_settings(recipe, len(photos.photos), resolution, why))
    return DoctorReport(
        subject=recipe.subject,
        photos=photos,
        audit=audit_photos(photos, resolution),
        settings=[(name, planned.get(name, value)) for name, value in rows],
    )


def measure_steps(run: TrainingRun) -> tuple[float, float]:
    """Seconds of the quickest step, and of the whole training: a step of each phase is rehearsed, none is taken."""
    quickest, total = math.inf, 0.0
    for number, span in enumerate(run.spans):
        if span.last == span.first:
            continue
        if number:
            run.enter(number)
        seconds = min(run.time_one_step() for _ in range(TIMED))
        quickest, total = min(quickest, seconds), total + seconds * (span.last - span.first)
    return quickest, total


def doctor(recipe: Recipe, *, measure: bool = True) -> DoctorReport:
    """Say what training would use and what it would cost, without training; `measure` loads the base and times a few steps."""
    photos = read_subject(recipe.model_copy(update={"prior": recipe.prior.model_copy(update={"count": 0})}))
    return inspect_recipe(recipe, photos, measure=measure)
