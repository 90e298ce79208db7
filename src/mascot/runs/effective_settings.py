"""The effective settings: what a recipe resolves to on given photos, shown before training."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from mascot.data.captioning.caption_variants import has_wildcards
from mascot.data.prompt_templates import fill
from mascot.generation.prompts.truncation import describe_truncations
from mascot.models import starter
from mascot.models.devices import choose_device
from mascot.models.starter import is_embedded
from mascot.recipe.recipe import Recipe
from mascot.runs.training_run import TrainingRun

Rows = list[tuple[str, str]]
"""Name and value of each setting, in the order in which they are shown."""

TIME = "time, estimated"
"""Name of the only row that differs between two runs of one recipe."""

UNNAMED = "chosen when the base is loaded, as none is named"
"""Value of the token's row while no token is chosen."""


def planned_settings(recipe: Recipe, photos: int, resolution: int | None, token_reason: str = "") -> Rows:
    """List the settings that are known before any weights are loaded.

    `photos` is how many there are, `resolution` the side of the images in pixels; None where only
    the base knows it. `token_reason` says why the token was chosen, where the user named none.
    """
    return [*data_settings(recipe, photos, resolution, token_reason), *training_settings(recipe)]


def data_settings(recipe: Recipe, photos: int, resolution: int | None, token_reason: str) -> Rows:
    """List base, subject, photos, and the images that each step takes."""
    training, dataset = recipe.training, recipe.dataset
    per_step = training.batch_size * training.gradient_accumulation_steps
    accumulated = f"({training.batch_size} x {training.gradient_accumulation_steps} accumulated)"
    side = "the base's own" if resolution is None else f"{resolution} px"
    several = len(recipe.tables)
    passes = training.steps * per_step / photos
    return [
        ("base", recipe.base),
        *described_reading(recipe),
        *([] if recipe.start_from is None else [("starts from", recipe.start_from)]),
        *(subject_rows(recipe, token_reason)),
        ("photos", f"{photos}" + (", each mirrored too" if dataset.flip else "")),
        ("resolution", f"about {side}, aspect buckets" if dataset.aspect_buckets else f"{side}, square"),
        ("images per step", f"{per_step} {accumulated}"),
        ("class images per step", described_class_images(recipe, per_step)),
        ("steps", f"{training.steps}"),
        ("steps with each subject", f"{training.steps / several:.0f}")
        if several > 1
        else ("passes over each photo", f"{passes:.1f}"),
    ]


def subject_rows(recipe: Recipe, token_reason: str) -> Rows:
    """List token and class noun of the subject, or a row for each of several."""

    def described(token: str | None) -> str:
        return UNNAMED if token is None else f"{token}, {token_reason}".removesuffix(", ")

    if not recipe.tables:
        return [("token", described(recipe.token)), ("class noun", described_noun(recipe.class_noun, recipe.base))]
    return [
        (
            f"{{{table.name}}}",
            f"token {described(table.token)}; class noun {described_noun(table.class_noun, recipe.base)}",
        )
        for table in recipe.tables
    ]


def described_reading(recipe: Recipe) -> Rows:
    """List how the base is read, where that is not left to the base."""
    given = recipe.reading.model_dump(exclude_defaults=True)
    return [(name.replace("_", " "), str(value).lower()) for name, value in given.items()]


def training_settings(recipe: Recipe) -> Rows:
    """List method, learning rates, optimizer, loss, device and seed."""
    training, method = recipe.training, recipe.method.model_dump()
    settings = list(flatten(method))
    listed = ", ".join(f"{key} {value}" for key, value in settings if value is not None and "rate" not in key)
    rates = [(key, f"{value:g}" + ("" if value else " (not trained)")) for key, value in settings if "rate" in key]
    late = training.warmup_steps >= training.steps
    warmup = f"{training.warmup_steps} steps of warm-up"
    averaged = "" if training.ema_decay is None else f", averaged with decay {training.ema_decay:g}"
    return [
        ("method", f"{method['name']} ({listed})"),
        *rates,
        (
            "schedule",
            f"{training.lr_schedule}, {warmup}{' (training ends during warm-up, below the full rate)' if late else ''}",
        ),
        ("optimizer", f"{training.optimizer}{averaged}"),
        ("loss", "plain MSE" if training.min_snr is None else f"min-SNR, limit {training.min_snr:g}"),
        ("device and precision", f"{choose_device(recipe.device)}, {recipe.precision}"),
        ("seed", f"{recipe.seed}"),
    ]


def described_class_images(recipe: Recipe, per_step: int) -> str:
    """Describe the class images of a step and their weight, or what replaces them."""
    prior = recipe.prior
    if prior.uses_base_outputs:
        return f"none: the base's own predictions are preserved, weight {prior.weight:g}"
    if not prior.uses_class_images:
        return "none"
    missing = "; to generate them give --class-noun, or leave them out with --set prior.weight=0"
    own = "" if prior.folder is None else f" with those of {prior.folder}"
    nouns = recipe.subjects.class_nouns
    each = " of each class" if len(nouns) > 1 else ""
    return f"{per_step}, of {prior.count}{each}{own}, weight {prior.weight:g}{'' if nouns else missing}"


def described_noun(noun: str | None, base: str) -> str:
    """Describe a class noun; one that the embedded base was not trained on, with those nearest."""
    if noun is None:
        return "none"
    if not is_embedded(base) or is_known(noun):
        return noun
    from mascot.models.starter.nearest_nouns import nearest_nouns

    first, second, third = nearest_nouns(noun)
    return (
        f"{noun}, which the embedded base was not trained on, so its class images mean little; "
        f"of the {len(starter.nouns())} nouns that it knows, {first}, {second} and {third} are nearest"
    )


def is_known(noun: str) -> bool:
    """Tell whether the embedded base was trained on a noun, or on one within it (`a red dog`)."""
    words = f" {' '.join(re.findall('[a-z]+', noun.lower()))} "
    return any(f" {known} " in words for known in starter.nouns())


def flatten(settings: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """List a method's settings as pairs, nested ones too, without its name."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key} ")
        elif key != "name":
            yield f"{prefix}{key}".replace("_", " "), value


def effective_settings(run: TrainingRun) -> Rows:
    """List the planned settings, and what only the loaded base tells.

    That is: phases, trained parameters, memory, time, captions, and captions that are truncated.
    """
    rows = planned_settings(run.recipe, len(run.photos.photos), run.resolution, run.token_reason)
    spans = [span for span in run.spans if span.last > span.first]
    if len(spans) > 1:
        rows.append(("phases", ", ".join(f"steps {span.first + 1} to {span.last}" for span in spans)))
    rows.append(("trained parameters", count_trained_parameters(run)))
    rows += run.needs.rows if run.needs is not None else []
    if run.loop.done < run.steps:
        run.time.training = run.time_one_step() * (run.steps - run.loop.done)
        rows.append((TIME, f"{describe_time(run.time.training)} of training alone"))
    return rows + caption_rows(run)


def caption_rows(run: TrainingRun) -> Rows:
    """List up to four captions of the subject, and all captions and prompts that are truncated."""
    dataset = run.batch_loaders[run.span.stage].dataset
    captions = {prompt for group in dataset.subject.values() for example in group for prompt in example.prompts}
    rows = [("captions", " | ".join(sorted(captions)[:4])), *variation_rows(run)]
    previews = [fill(prompt, run.recipe.subject) for prompt in run.recipe.previews.prompts if run.recipe.previews.every]
    for name, prompts in {"captions": dataset.prompts, "prompts": [*previews, run.recipe.knobs.negative]}.items():
        truncated = describe_truncations(run.stage, prompts, typed=name == "prompts").values()
        rows += [(f"{name} truncated", " | ".join(truncated))] * bool(truncated)
    return rows


def variation_rows(run: TrainingRun) -> Rows:
    """Describe how captions vary from step to step; no row if they do not."""
    settings, loader = run.recipe.dataset.tags, run.batch_loaders[run.span.stage]
    if not loader.dataset.varies:
        return []
    said = ["tags shuffled"] * settings.shuffle + [f"tag dropout {settings.dropout:g}"] * (settings.dropout > 0)
    if settings.active:
        said.append(f"first {settings.keep} kept")
    if any(has_wildcards(caption) for photo in run.photos.photos for caption in photo.captions):
        said.append("wildcards drawn")
    return [("captions vary", ", ".join(said))]


def count_trained_parameters(run: TrainingRun) -> str:
    """Count the parameters that the present phase trains, by part of the base."""
    counts = {group.name: sum(p.numel() for p in group.parameters) for group in run.attached[run.span.stage].groups}
    return ", ".join(f"{part} {count:,}" for part, count in counts.items())


def describe_time(seconds: float) -> str:
    """Write seconds as seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
