"""The effective settings: what a recipe comes to on these photos, said before it is done."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mascot.data.photo_audit import Audit, audit
from mascot.data.photos import PhotoSet
from mascot.judges import is_embedded
from mascot.models import starter
from mascot.naming import named
from mascot.personalization import Personalization, choose_device, load_base
from mascot.recipe.recipe import Recipe
from mascot.storage.run_folder import Run
from mascot.subject import Subject

Rows = list[tuple[str, str]]
TIMED = 2
"""Rehearsals of each phase: the machine may be busy with something else in one."""
TIME = "time, estimated"
"""What differs between two runs of one recipe."""
UNNAMED = "found when the base is loaded, as none is named"
"""Where a token will come from."""
USUAL_RESOLUTION = 512
"""What photos are audited for while nobody has asked the base, in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkup:
    """What the doctor found."""

    subject: Subject
    """What captions call the subject; `sks` stands in for a token that is still to be found."""
    photos: PhotoSet
    audit: Audit
    settings: Rows


def planned_settings(recipe: Recipe, photos: int, resolution: int | None, why: str = "") -> Rows:
    """What can be said without loading a weight: images a step, steps, passes, rates, resolution (None: only the base knows).

    `why` says where a token comes from that the user did not name.
    """
    training, settings = recipe.training, list(flat(recipe.method.model_dump()))
    shown = training.batch_size * training.accumulation
    side = "the base's own" if resolution is None else f"{resolution} px"
    class_pictures = "none"
    if recipe.prior.preserves:
        class_pictures = f"none: the base's own outputs are kept, weight {recipe.prior.weight:g}"
    elif recipe.prior.draws:
        class_pictures = f"{shown}, of {recipe.prior.count}, weight {recipe.prior.weight:g}"
        class_pictures += "" if recipe.class_noun else "; to draw them give --class-noun, or leave them out with --set prior.weight=0"
    rows = [
        ("base", recipe.base),
        ("token", UNNAMED if recipe.token is None else f"{recipe.token}, {why}" if why else recipe.token),
        ("class noun", described_noun(recipe)),
        ("photos", f"{photos}" + (", each mirrored too" if recipe.dataset.flip else "")),
        ("resolution", f"about {side}, aspect buckets" if recipe.dataset.aspect_buckets else f"{side}, square"),
        ("images per step", f"{shown} ({training.batch_size} x {training.accumulation} accumulated)"),
        ("class pictures per step", class_pictures),
        ("steps", f"{training.steps}"),
        ("passes over each photo", f"{training.steps * shown / photos:.1f}"),
        ("method", f"{recipe.method.model_dump()['name']} ({', '.join(f'{key} {value}' for key, value in settings if 'rate' not in key)})"),
    ]
    rows += [(key, f"{value:g}" + ("" if value else " (not trained)")) for key, value in settings if "rate" in key]
    late = " (the run ends before: the full rate is never reached)" if training.warmup >= training.steps else ""
    rows += [
        ("schedule", f"{training.schedule}, {training.warmup} steps of warm-up{late}"),
        ("optimizer", training.optimizer + ("" if training.ema is None else f", averaged with decay {training.ema:g}")),
        ("loss", "plain MSE" if training.min_snr is None else f"min-SNR, limit {training.min_snr:g}"),
        ("device and precision", f"{choose_device(recipe.device)}, {recipe.precision}"),
        ("seed", f"{recipe.seed}"),
    ]
    return rows


def described_noun(recipe: Recipe) -> str:
    """The class noun, and a warning where the embedded base has never seen one: its class pictures mean little."""
    noun = recipe.class_noun
    if noun is None:
        return "none"
    if not is_embedded(recipe.base) or set(noun.lower().split()) & set(known := starter.nouns()):
        return noun
    return f"{noun}, which the embedded base was never shown: its pictures of the class mean little. It was shown {', '.join(known)}"


def flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """A method's settings as pairs, the nested ones too, but what it is called."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from flat(value, f"{above}{key} ")
        elif key != "name":
            yield f"{above}{key}".replace("_", " "), value


def effective_settings(job: Personalization) -> Rows:
    """The planned settings and what the loaded base adds: how much learns, which captions, what is cut off."""
    rows = planned_settings(job.recipe, len(job.photos.photos), job.resolution, job.why)
    if len(job.stretches) > 1:
        rows.append(("phases", ", ".join(f"steps {stretch.first + 1} to {stretch.last}" for stretch in job.stretches)))
    rows.append(("learning parameters", learning(job)))
    rows += job.needs.rows if job.needs is not None else []
    if job.loop.done < job.steps:
        rows.append((TIME, f"{describe_time(job.rehearse() * (job.steps - job.loop.done))} of training, previews not counted"))
    dataset = job.material.dataset
    rows.append(("captions", " | ".join(sorted({prompt for group in dataset.subject.values() for e in group for prompt in e.prompts})[:4])))
    lengths = {prompt: job.stage.prompt_length(prompt) for prompt in dataset.prompts}
    long = {prompt: length for prompt, length in lengths.items() if length[0] > length[1]}
    cut = [f"{prompt!r} has {tokens} tokens, of which this base hears {heard}" for prompt, (tokens, heard) in long.items()]
    return rows + [("captions cut off", " | ".join(cut))] * bool(cut)


def check_up(recipe: Recipe, photos: PhotoSet, *, measure: bool) -> Checkup:
    """Audit photos and settings; `measure` loads the base and times a few steps of the real loop, class pictures included."""
    if not measure:
        settings = planned_settings(recipe, len(photos.photos), recipe.dataset.resolution)
        return Checkup(
            subject=recipe.subject, photos=photos, audit=audit(photos, recipe.dataset.resolution or USUAL_RESOLUTION), settings=settings
        )
    short = recipe.model_copy(update={"prior": recipe.prior.model_copy(update={"count": min(recipe.prior.count, 1)})})
    if recipe.class_noun is None:
        short = short.model_copy(update={"prior": recipe.prior.model_copy(update={"weight": 0.0})})
    with TemporaryDirectory() as folder:
        family = load_base(recipe)
        short, why = named(short, family)
        job = Personalization(recipe=short, run=Run(Path(folder)), photos=photos, family=family, why=why)
        job.begin()
        rows = [row for row in effective_settings(job) if row[0] != TIME]
        seconds, total = measure_steps(job)
        recipe, resolution = recipe.model_copy(update={"token": short.token}), job.resolution
    rows = [(name, f"{value}") for name, value in rows]
    rows.append(
        ("cost", f"about {describe_time(total)} of training on this machine ({seconds:.2f} s a step, measured), previews not counted")
    )
    planned = dict(planned_settings(recipe, len(photos.photos), resolution, why))
    return Checkup(
        subject=recipe.subject,
        photos=photos,
        audit=audit(photos, resolution),
        settings=[(name, planned.get(name, value)) for name, value in rows],
    )


def learning(job: Personalization) -> str:
    """How many parameters of each part learn in the present phase."""
    counts = {group.called: sum(p.numel() for p in group.parameters) for group in job.learner.groups}
    return ", ".join(f"{part} {count:,}" for part, count in counts.items())


def measure_steps(job: Personalization) -> tuple[float, float]:
    """Seconds of the quickest step, and of the whole training: a step of each phase is rehearsed, none is taken."""
    quickest, total = math.inf, 0.0
    for number, stretch in enumerate(job.stretches):
        if stretch.last == stretch.first:
            continue
        if number:
            job.enter(number)
        seconds = min(job.rehearse() for _ in range(TIMED))
        quickest, total = min(quickest, seconds), total + seconds * (stretch.last - stretch.first)
    return quickest, total


def describe_time(seconds: float) -> str:
    """Seconds in words."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
