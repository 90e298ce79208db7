"""`sweep`: train and score a recipe with several settings; and the same for inference knobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from mascot.adapters.adapter_file import Adapter
from mascot.api.diagnose import name_of
from mascot.api.evaluate import evaluate
from mascot.api.train import train_on_pooled_base
from mascot.errors import UserError, suggest
from mascot.evaluation.metrics.default_encoders import (
    EncoderNames,
    default_encoder_names,
    load_encoders,
    named_encoders,
)
from mascot.evaluation.scores import METRICS
from mascot.experiments.base_pool import base_pool
from mascot.experiments.executors import make_executor
from mascot.experiments.leaderboard import Leaderboard, MetricValues, metric_values
from mascot.experiments.search_space import Choices
from mascot.experiments.sweep import SweepFolder, SweepJob, sweep_recipes
from mascot.generation.knob_checks import check_knob_axes
from mascot.generation.knob_grid import plan_settings, sweep_knobs
from mascot.generation.knobs import ImageRequest, settings_text
from mascot.generation.loading import open_generator, plan_requests, recommended_knobs, resolve_adapter
from mascot.generation.prompts.prompt_reading import check_prompts
from mascot.generation.prompts.prompt_sets import KNOBS_PROMPT
from mascot.progress import OnEvent, ignore
from mascot.recipe.recipe import Recipe
from mascot.storage.atomic_write import is_writable
from mascot.storage.image_files import write_image
from mascot.storage.run_folder import Run, images_folder


def sweep(
    recipe: Recipe | Mapping[str, object],
    over: Mapping[str, Choices],
    *,
    out: str | Path,
    by: str = "identity",
    trials: int | None = None,
    images: int = 1,
    prompt: str = KNOBS_PROMPT,
    identity: str | None = None,
    clip: str | None = None,
    engine: str = "local",
    address: str | None = None,
    on_event: OnEvent = ignore,
) -> Leaderboard:
    """Train and evaluate a recipe with several settings, and rank the runs by one metric.

    `over` maps dotted recipe keys to values (see `parse_over`); all combinations are trained, or
    `trials` of them that a search chooses. `by` is a metric of `evaluate`, over `images` images of
    each prompt; `prompt` is that of the image grid. `identity` and `clip` name the encoders that
    score all runs, by default those of the recipe, else those of the base. `engine` is `local` or
    `ray`; `address` is that of a Ray cluster. Files and events are those of `sweep_recipes`.

    Raises:
        UserError: the metric or the engine is unknown, or an encoder cannot be used; see also
            `sweep_recipes`.
    """
    if by not in METRICS:
        raise UserError(f"unknown metric {by!r} for --by{suggest(by, METRICS)}")
    names = named_encoders(recipe.model_dump() if isinstance(recipe, Recipe) else recipe, identity, clip)
    job = plan_job(SweepFolder(Path(out)), names, images=images, prompt=prompt)
    executor, lowest = make_executor(engine, address), METRICS[by].better == "low"
    return sweep_recipes(recipe, over, job, by=by, lowest=lowest, trials=trials, executor=executor, on_event=on_event)


def plan_job(files: SweepFolder, names: EncoderNames, *, images: int, prompt: str) -> SweepJob:
    """Plan what is done for each run of a sweep."""
    given = "".join(f", {kind} encoder: {name}" for kind, name in names.items() if name)
    return SweepJob(
        files=files,
        check=partial(check_encoders, **names),
        train_run=train_on_pooled_base,
        score_run=partial(score_sweep_run, images=images, **names),
        scored_by=f"images of each prompt: {images}{given}",
        generate=write_sweep_image,
        request=ImageRequest(prompt, 0),
    )


def check_encoders(bases: Sequence[str], *, identity: str | None, clip: str | None) -> None:
    """Check that the encoders that score runs on some bases can be loaded.

    Raises:
        UserError: one cannot.
    """
    for base in bases:
        load_encoders(base, identity, clip)


def score_sweep_run(run: Run, *, images: int, identity: str | None, clip: str | None) -> MetricValues:
    """Evaluate one run of a sweep on a base from this process's pool.

    Encoders that are None are the base's, so that one sweep has the same ones in all its runs.
    """
    recipe = Recipe.read(run.recipe)
    defaults = default_encoder_names(recipe.base)
    identity, clip = identity or defaults["identity"], clip or defaults["clip"]
    with base_pool().lend(recipe) as family:
        return metric_values(evaluate(run, images=images, identity=identity, clip=clip, family=family))


def write_sweep_image(run: Run, request: ImageRequest, path: Path) -> None:
    """Generate one image with a run's adapter on a base from the pool, and write it.

    In the request's prompt, `{subject}` stands for the run's own subject.
    """
    with base_pool().lend(Recipe.read(run.recipe)) as family:
        generator, adapter, name = open_generator(run, family=family)
        knobs = generator.with_defaults(recommended_knobs(adapter))
        [filled] = plan_requests(adapter, [request.prompt], count=1, seed=request.seed)
        image = next(generator.generate([filled], knobs))
        facts = generator.reading(filled.prompt, knobs).facts
        write_image(
            image, path, settings_text(filled, knobs, generator.size(knobs), name, run.folder.name, facts=facts)
        )
        generator.remove_adapter()


def generate_knob_grid(
    run: str | Path | Run,
    over: Mapping[str, Sequence[object]],
    *,
    out: str | Path | None = None,
    prompt: str = KNOBS_PROMPT,
    on_event: OnEvent = ignore,
) -> Path:
    """Generate one prompt and seed with up to three inference knobs varied, as one labelled grid.

    `over` maps knobs to values, and `prompt` to prompts, which are filled as `prompt` is. Returns
    the grid's file, a PNG. Without `out` it has a free name beside the adapter. Events:
    `PromptTruncated`, `PromptRead`.

    Raises:
        UserError: the adapter, a knob or a value cannot be used, or the file cannot be written.
    """
    adapter, path = resolve_adapter(run)
    request, knobs = plan_requests(adapter, [prompt], count=1, seed=0)[0], recommended_knobs(adapter)
    over = {key: fill_axis(adapter, values) if key == "prompt" else values for key, values in over.items()}
    target = images_folder(path).with_name("knobs.png") if out is None else Path(out)
    # Mistakes are found before the base is loaded.
    settings = plan_settings(over, prompt=request.prompt, seed=request.seed, knobs=knobs)
    check_knob_axes(adapter, over, [setting.knobs for setting in settings])
    typed = {text for setting in settings for text in (setting.request.prompt, setting.knobs.negative)}
    check_prompts(sorted(typed), adapter.manifest.base if adapter.manifest else None)
    if (out is not None and target.is_dir()) or not is_writable(target.parent):
        raise UserError(f"{target} cannot be written; give another --out, a file such as knobs.png.")
    generator, _, base = open_generator(run, on_event=on_event)
    name = Path(name_of(run)).name
    return sweep_knobs(
        generator,
        over,
        prompt=request.prompt,
        knobs=knobs,
        out=target,
        overwrite=out is not None,
        base=base,
        adapter=name,
    )


def fill_axis(adapter: Adapter, prompts: Sequence[object]) -> list[str]:
    """Fill the prompts of a grid's axis, each with the adapter's first subject.

    Raises:
        UserError: a prompt has a placeholder that cannot be filled.
    """
    return [plan_requests(adapter, [str(prompt)], count=1, seed=0)[0].prompt for prompt in prompts]
