"""What takes many runs: settings that are searched, photos that are held out in turn, collections that are taught and scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mascot.api.evaluate import evaluate
from mascot.api.train import train_on_pooled_base
from mascot.errors import UserError, suggest
from mascot.evaluation.scores import METRICS
from mascot.experiments.base_pool import base_pool
from mascot.experiments.executors import make_executor
from mascot.experiments.leaderboard import Leaderboard, MetricValues, metric_values
from mascot.experiments.search_space import Choices
from mascot.experiments.sweep import sweep_recipes
from mascot.generation.knob_grid import plan_settings, sweep_knobs
from mascot.generation.knobs import ImageRequest, settings_text
from mascot.generation.loading import open_generator, plan_requests, recommended_knobs, resolve_adapter
from mascot.generation.prompt_sets import KNOBS_PROMPT
from mascot.progress import OnEvent, ignore
from mascot.protocols import Family
from mascot.recipe.recipe import Recipe
from mascot.storage.atomic_write import is_writable
from mascot.storage.image_files import write_image
from mascot.storage.run_folder import Run


def sweep(
    recipe: Recipe | Mapping[str, Any], over: Mapping[str, Choices], *, out: str | Path, by: str = "identity", trials: int | None = None,
    images: int = 1, prompt: str = KNOBS_PROMPT, engine: str = "local", address: str | None = None, on_event: OnEvent = ignore,
) -> Leaderboard:  # fmt: skip
    """Train and evaluate a recipe over some settings, and rank the runs by one metric; what was done is never done again.

    `over` has dotted keys (see `parse_over`); `by` is a metric of `evaluate`, which draws `images` of each prompt. With `trials` so many
    settings are searched instead of all. `engine` is local or ray, the latter with the `address` of a cluster or on this machine.

    Raises:
        UserError: see `mascot.sweep.sweep`.
    """
    if by not in METRICS:
        raise UserError(f"unknown metric {by!r}{suggest(by, METRICS)}")
    pool = base_pool()

    def score_run(run: Run) -> MetricValues:
        with pool.lend(Recipe.read(run.recipe)) as family:
            return metric_values(evaluate(run, images=images, family=family))

    def draw_one(run: Run, request: ImageRequest, path: Path) -> None:
        with pool.lend(Recipe.read(run.recipe)) as family:
            draw_with_run(run, request, path, family)

    return sweep_recipes(
        recipe, over, out=Path(out), run_one=train_on_pooled_base, score=score_run, by=by,
        lowest=METRICS[by].good == "low", scored_by=f"pictures of each prompt: {images}", trials=trials, request=ImageRequest(prompt, 0),
        generate=draw_one, engine=make_executor(engine, address), on_event=on_event,
    )  # fmt: skip


def draw_with_run(run: Run, request: ImageRequest, path: Path, family: Family) -> None:
    """Draw one picture with a run's adapter on its base, which comes back as it was; `{subject}` is what this run calls its subject."""
    generator, adapter, name = open_generator(run, family=family)
    knobs = generator.with_defaults(recommended_knobs(adapter))
    [filled] = plan_requests(adapter, [request.prompt], count=1, seed=request.seed)
    image = next(generator.generate([filled], knobs))
    write_image(image, path, settings_text(filled, knobs, generator.size(knobs), name, run.folder.name))
    generator.remove_adapter()


def draw_knob_grid(
    where: str | Path | Run, over: Mapping[str, Sequence[Any]], *, out: str | Path, prompt: str = KNOBS_PROMPT
) -> Path:
    """Draw one prompt and seed with an adapter over up to three inference knobs, as one labelled grid; returns its file."""
    adapter, _ = resolve_adapter(where)
    request, knobs, target = plan_requests(adapter, [prompt], count=1, seed=0)[0], recommended_knobs(adapter), Path(out)
    plan_settings(
        over, prompt=request.prompt, seed=request.seed, knobs=knobs
    )  # mistakes are found before the base is loaded
    if target.is_dir() or not is_writable(target.parent):
        raise UserError(f"{target} cannot be written; give another --out, a file such as knobs.png.")
    generator, _, name = open_generator(where)
    return sweep_knobs(
        generator, over, prompt=request.prompt, knobs=knobs, out=target, base=name, adapter=Path(str(where)).name
    )
