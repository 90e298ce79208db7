"""The effective settings: what a recipe comes to on these photos, said before it is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mascot.models import starter
from mascot.models.devices import choose_device
from mascot.models.starter import is_embedded
from mascot.recipe.recipe import Recipe
from mascot.runs.training_run import TrainingRun

Rows = list[tuple[str, str]]


TIME = "time, estimated"
"""What differs between two runs of one recipe."""


UNNAMED = "found when the base is loaded, as none is named"
"""Where a token will come from."""


def planned_settings(recipe: Recipe, photos: int, resolution: int | None, why: str = "") -> Rows:
    """What can be said without loading a weight: images a step, steps, passes, rates, resolution (None: only the base knows).

    `why` says where a token comes from that the user did not name.
    """
    training, settings = recipe.training, list(flat(recipe.method.model_dump()))
    shown = training.batch_size * training.gradient_accumulation_steps
    side = "the base's own" if resolution is None else f"{resolution} px"
    class_images = "none"
    if recipe.prior.preserves:
        class_images = f"none: the base's own outputs are kept, weight {recipe.prior.weight:g}"
    elif recipe.prior.generates:
        class_images = f"{shown}, of {recipe.prior.count}, weight {recipe.prior.weight:g}"
        class_images += (
            "" if recipe.class_noun else "; to draw them give --class-noun, or leave them out with --set prior.weight=0"
        )
    rows = [
        ("base", recipe.base),
        ("token", UNNAMED if recipe.token is None else f"{recipe.token}, {why}" if why else recipe.token),
        ("class noun", described_noun(recipe)),
        ("photos", f"{photos}" + (", each mirrored too" if recipe.dataset.flip else "")),
        ("resolution", f"about {side}, aspect buckets" if recipe.dataset.aspect_buckets else f"{side}, square"),
        ("images per step", f"{shown} ({training.batch_size} x {training.gradient_accumulation_steps} accumulated)"),
        ("class pictures per step", class_images),
        ("steps", f"{training.steps}"),
        ("passes over each photo", f"{training.steps * shown / photos:.1f}"),
        (
            "method",
            f"{recipe.method.model_dump()['name']} ({', '.join(f'{key} {value}' for key, value in settings if 'rate' not in key)})",
        ),
    ]
    rows += [(key, f"{value:g}" + ("" if value else " (not trained)")) for key, value in settings if "rate" in key]
    late = " (the run ends before: the full rate is never reached)" if training.warmup_steps >= training.steps else ""
    rows += [
        ("schedule", f"{training.lr_schedule}, {training.warmup_steps} steps of warm-up{late}"),
        (
            "optimizer",
            training.optimizer
            + ("" if training.ema_decay is None else f", averaged with decay {training.ema_decay:g}"),
        ),
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


def effective_settings(run: TrainingRun) -> Rows:
    """Add to the planned settings what the loaded base tells: trained parameters, memory, time, captions, truncated prompts."""
    rows = planned_settings(run.recipe, len(run.photos.photos), run.resolution, run.token_reason)
    if len(run.spans) > 1:
        rows.append(("phases", ", ".join(f"steps {span.first + 1} to {span.last}" for span in run.spans)))
    rows.append(("trained parameters", trained_parameters(run)))
    rows += run.needs.rows if run.needs is not None else []
    if run.loop.done < run.steps:
        rows.append(
            (
                TIME,
                f"{describe_time(run.time_one_step() * (run.steps - run.loop.done))} of training, previews not counted",
            )
        )
    dataset = run.batch_loaders[run.span.stage].dataset
    captions = {prompt for group in dataset.subject.values() for example in group for prompt in example.prompts}
    rows.append(("captions", " | ".join(sorted(captions)[:4])))
    lengths = {prompt: run.stage.prompt_length(prompt) for prompt in dataset.prompts}
    truncated = [
        f"{prompt!r} has {tokens} tokens, of which this base reads {read}"
        for prompt, (tokens, read) in lengths.items()
        if tokens > read
    ]
    return rows + [("captions truncated", " | ".join(truncated))] * bool(truncated)


def trained_parameters(run: TrainingRun) -> str:
    """Count the parameters that the present phase trains, by part of the base."""
    counts = {group.name: sum(p.numel() for p in group.parameters) for group in run.attached[run.span.stage].groups}
    return ", ".join(f"{part} {count:,}" for part, count in counts.items())


def describe_time(seconds: float) -> str:
    """Write seconds as seconds, minutes or hours."""
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} minutes"
        if seconds < 7200
        else f"{seconds / 3600:.1f} hours"
    )
