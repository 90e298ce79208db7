"""The effective settings: what a recipe comes to on these photos, said before it is done."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mascot.audit import Audit, audit
from mascot.personalization import Personalization, choose_device, load_base
from mascot.photos import PhotoSet
from mascot.recipe import Recipe
from mascot.run import Run

Rows = list[tuple[str, str]]
TIMED_STEPS = 3
USUAL_RESOLUTION = 512
"""What photos are audited for while nobody has asked the base, in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkup:
    """What the doctor found."""

    photos: PhotoSet
    audit: Audit
    settings: Rows


def planned_settings(recipe: Recipe, photos: int, resolution: int | None) -> Rows:
    """What can be said without loading a weight: images a step, steps, passes, rates, resolution (None: only the base knows)."""
    training, method = recipe.training, recipe.method.model_dump()
    shown = training.batch_size * training.accumulation
    side = "the base's own" if resolution is None else f"{resolution} px"
    class_pictures = "none"
    if recipe.prior.count and recipe.prior.weight:
        class_pictures = f"{shown}, of {recipe.prior.count}, weight {recipe.prior.weight:g}"
        class_pictures += "" if recipe.class_noun else "; to draw them give --class-noun, or leave them out with --set prior.count=0"
    rows = [
        ("base", recipe.base),
        ("photos", f"{photos}" + (", each mirrored too" if recipe.dataset.flip else "")),
        ("resolution", f"about {side}, aspect buckets" if recipe.dataset.aspect_buckets else f"{side}, square"),
        ("images per step", f"{shown} ({training.batch_size} x {training.accumulation} accumulated)"),
        ("class pictures per step", class_pictures),
        ("steps", f"{training.steps}"),
        ("passes over each photo", f"{training.steps * shown / photos:.1f}"),
        (
            "method",
            ", ".join(f"{key} {value}" for key, value in method.items() if "rate" not in key and key != "name").join(
                (f"{method['name']} (", ")")
            ),
        ),
    ]
    rows += [(key.replace("_", " "), f"{value:g}" + ("" if value else " (not trained)")) for key, value in method.items() if "rate" in key]
    rows += [
        ("schedule", f"{training.schedule}, {training.warmup} steps of warm-up"),
        ("loss", "plain MSE" if training.min_snr is None else f"min-SNR, limit {training.min_snr:g}"),
        ("device and precision", f"{choose_device(recipe.device)}, {recipe.precision}"),
        ("seed", f"{recipe.seed}"),
    ]
    return rows


def effective_settings(job: Personalization) -> Rows:
    """The planned settings and what the loaded base adds: how much learns, which captions, what is cut off."""
    rows = planned_settings(job.recipe, len(job.photos.photos), job.resolution)
    counts = {group.part: sum(p.numel() for p in group.parameters) for group in job.learner.groups}
    rows.append(("learning parameters", ", ".join(f"{part} {count:,}" for part, count in counts.items())))
    rows.append(
        ("captions", " | ".join(sorted({prompt for group in job.dataset.subject.values() for e in group for prompt in e.prompts})[:4]))
    )
    lengths = {prompt: job.stage.prompt_length(prompt) for prompt in job.dataset.prompts}
    long = {prompt: length for prompt, length in lengths.items() if length[0] > length[1]}
    cut = [f"{prompt!r} has {tokens} tokens, of which this base hears {heard}" for prompt, (tokens, heard) in long.items()]
    return rows + [("captions cut off", " | ".join(cut))] * bool(cut)


def check_up(recipe: Recipe, photos: PhotoSet, *, measure: bool) -> Checkup:
    """Audit photos and settings; `measure` loads the base and times a few steps of the real loop, class pictures included."""
    if not measure:
        settings = planned_settings(recipe, len(photos.photos), recipe.dataset.resolution)
        return Checkup(photos=photos, audit=audit(photos, recipe.dataset.resolution or USUAL_RESOLUTION), settings=settings)
    short = recipe.model_copy(update={"prior": recipe.prior.model_copy(update={"count": min(recipe.prior.count, 1)})})
    if recipe.class_noun is None:
        short = short.model_copy(update={"prior": recipe.prior.model_copy(update={"count": 0})})
    with TemporaryDirectory() as folder:
        job = Personalization(recipe=short, run=Run(Path(folder)), photos=photos, family=load_base(recipe))
        rows = effective_settings(job)
        steps = job.loop.steps(job.batches)
        seconds = [next(steps).seconds for _ in range(min(TIMED_STEPS, recipe.training.steps))]
        resolution = job.resolution
    total = statistics.median(seconds) * recipe.training.steps
    rows = [(name, f"{value}") for name, value in rows]
    rows.append(
        ("cost", f"about {describe_time(total)} of training on this machine ({min(seconds):.2f} s a step, measured), previews not counted")
    )
    planned = dict(planned_settings(recipe, len(photos.photos), resolution))
    return Checkup(photos=photos, audit=audit(photos, resolution), settings=[(name, planned.get(name, value)) for name, value in rows])


def describe_time(seconds: float) -> str:
    """Seconds in words."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
