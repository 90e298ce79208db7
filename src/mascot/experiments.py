"""What takes many runs: settings that are searched, photos that are held out in turn, collections that are taught and scored."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mascot import suite
from mascot.bases import bases_of_this_process
from mascot.collection import Collected, read_collection
from mascot.engines import engine_named
from mascot.errors import UserError, suggest
from mascot.evaluation.evaluation_task import Task
from mascot.evaluation.evaluator import Referee
from mascot.evaluation.metrics.default_encoders import judges_for
from mascot.evaluation.samples import Drawn
from mascot.evaluation.scores import METRICS, Scores
from mascot.examination import evaluate
from mascot.folds import Bench, plan_folds, validate
from mascot.generation.knobs import Shot, settings_text
from mascot.generation.loading import BY_OPTION, open_generator, plan_shots, resolve_adapter, usual_knobs
from mascot.generation.prompt_sets import KNOBS_PROMPT
from mascot.leaderboard import Leaderboard, Measured, measured
from mascot.methods.registry import DEFAULT
from mascot.models.devices import choose_device
from mascot.models.starter import EMBEDDED
from mascot.points import Choices
from mascot.progress import Progress, silent
from mascot.protocols import Family
from mascot.recipe.recipe import Recipe
from mascot.reports.page import write_page
from mascot.storage.atomic_write import check_writable
from mascot.storage.image_files import write_picture
from mascot.storage.run_folder import Run
from mascot.suite import Arm, Cell, Question, SuiteFolder, SuiteScores, cells_of
from mascot.suite_report import suite_page
from mascot.sweep import sweep_recipes
from mascot.verbs import train


def cross_validate(where: str | Path | Run, *, folds: int | None = None, progress: Progress = silent, **options: Any) -> Scores:
    """Evaluate a run as `evaluate` does with the `options`, with a copy score that needs no photos besides the run's own.

    Each of its photos, or `folds` of them, is held out in turn: a run on the others is trained as the run's recipe says, in its folder,
    draws one picture of each prompt, and its copy score against that photo counts (see `metrics.memory.copy_score`), less that of the
    untouched base's pictures. What is trained, drawn or embedded is never done again, and a call that was cut off goes on. Where no photo
    can be held out, the score says why. `progress` is called as in `evaluate`, with ('fold', (photo, which, of how many)) before each.

    Raises:
        UserError: see `evaluate`; or there are fewer photos than `folds`, or photos are given besides the run's own.
    """
    if options.get("photos"):
        raise UserError("the photos to hold out are the run's own; give --cross-validate without --photos.")
    lent = bases_of_this_process()

    def teach(point: Recipe, folder: Path, step: int, tell: Progress) -> None:
        tell("steps", step)
        with lent.lend(point) as family:
            train(
                point, out=folder, resume=Run(folder).recipe.exists(), report=False, family=family, until=step,
                progress=lambda phase, facts: tell(phase, facts) if phase == "step" else None,
            )  # fmt: skip

    adapter, path = resolve_adapter(where)
    plan = plan_folds(adapter, path, base=options.get("base"), count=folds)

    def refine(task: Task, drawn: Drawn, referee: Referee, scores: Scores) -> Scores:
        return validate(plan, Bench(task=task, drawn=drawn, referee=referee, teach=teach, lend=lent.lend), scores, progress)

    return evaluate(where, refine=refine, progress=progress, **options)


def sweep(
    recipe: Recipe | Mapping[str, Any], over: Mapping[str, Choices], *, out: str | Path, by: str = "identity", trials: int | None = None,
    images: int = 1, prompt: str = KNOBS_PROMPT, engine: str = "local", address: str | None = None, progress: Progress = silent,
) -> Leaderboard:  # fmt: skip
    """Train and evaluate a recipe over some settings, and rank the runs by one metric; what was done is never done again.

    `over` has dotted keys (see `parse_over`); `by` is a metric of `evaluate`, which draws `images` of each prompt. With `trials` so many
    settings are searched instead of all. `engine` is local or ray, the latter with the `address` of a cluster or on this machine.

    Raises:
        UserError: see `mascot.sweep.sweep`.
    """
    if by not in METRICS:
        raise UserError(f"unknown metric {by!r}{suggest(by, METRICS)}")
    lent = bases_of_this_process()

    def judge(run: Run) -> Measured:
        with lent.lend(Recipe.read(run.recipe)) as family:
            return measured(evaluate(run, images=images, family=family))

    def draw_one(run: Run, shot: Shot, path: Path) -> None:
        with lent.lend(Recipe.read(run.recipe)) as family:
            draw_with(run, shot, path, family)

    return sweep_recipes(
        recipe, over, out=Path(out), run_one=train_quietly, score=judge, by=by,
        lowest=METRICS[by].good == "low", judges=f"pictures of each prompt: {images}", trials=trials, shot=Shot(prompt, 0),
        draw=draw_one, engine=engine_named(engine, address), progress=progress,
    )  # fmt: skip


def train_quietly(recipe: Recipe, folder: Path) -> Run:
    """Train, or go on, on a base that is lent from run to run, and write no report."""
    lent = bases_of_this_process()
    with lent.lend(recipe) as family:
        return train(recipe, out=folder, resume=Run(folder).recipe.exists(), report=False, family=family, encodings=lent.encodings)


def draw_with(run: Run, shot: Shot, path: Path, family: Family) -> None:
    """Draw one picture with a run's adapter on its base, which comes back as it was; `{subject}` is what this run calls its subject."""
    generator, adapter, name = open_generator(run, family=family)
    knobs = generator.settle(usual_knobs(adapter))
    [filled] = plan_shots(adapter, [shot.prompt], count=1, seed=shot.seed)
    picture = next(generator.draw([filled], knobs))
    write_picture(picture, path, settings_text(filled, knobs, generator.size(knobs), name, run.folder.name))
    generator.take_off()


def evaluate_suite(
    folder: str | Path, *, out: str | Path, methods: Sequence[str] = (DEFAULT,), subjects: Sequence[str] = (), prompts: int | None = None,
    images: int = 4, seed: int = 0, base: str = EMBEDDED, overrides: Sequence[str] = (), identity: str | None = None,
    clip: str | None = None, device: str = "auto", engine: str = "local", address: str | None = None, progress: Progress = silent,
) -> SuiteScores:  # fmt: skip
    """Teach a base every subject of a collection by each method, draw and score the collection's prompts; the paper's protocol.

    `folder` is laid out as google/dreambooth is (see `mascot.collection`). `subjects`, `prompts` (so many of each list) and `images` cut it
    down. Recipes are the base's presets with `overrides` and `seed`; pictures are judged as `evaluate` judges them. Everything lies in
    `out`, which a later call goes on with: `suite.json`, `suite.html` and each run's folder.

    Raises:
        UserError: the collection, a method, an override, the base or an encoder cannot be used, or nothing could be scored.
    """
    collection = read_collection(Path(folder)).cut(subjects=subjects, prompts=prompts)
    arms = [Arm(name=method, recipe=partial(recipe_for, method=method, base=base, seed=seed, overrides=overrides)) for method in methods]
    lists = {live: collection.prompts.for_subject(live=live) for live in (False, True)}
    cells = cells_of(collection.subjects, arms, prompts=lists, images=images, seed=seed)
    return evaluate_cells(
        cells, out=out, base=base, identity=identity, clip=clip, device=device, engine=engine, address=address, progress=progress
    )


def recipe_for(subject: Collected, *, method: str, base: str, seed: int, overrides: Sequence[str]) -> Recipe:
    """What a subject of a collection is taught by; previews, which nobody would look at, are left out unless asked for."""
    return Recipe.preset(
        base=base, photos=(str(subject.photos),), class_noun=subject.class_noun, seed=seed,
        overrides=["previews.every=0", f"method.name={json.dumps(method)}", *overrides],
    )  # fmt: skip


def evaluate_cells(
    cells: Sequence[Cell], *, out: str | Path, base: str = EMBEDDED, identity: str | None = None, clip: str | None = None,
    device: str = "auto", engine: str = "local", address: str | None = None, progress: Progress = silent,
) -> SuiteScores:  # fmt: skip
    """Train, draw and score the cells of a suite, and write its page; see `evaluate_suite`."""
    place = SuiteFolder(Path(out))
    check_writable(place.folder)
    judges = judges_for(base, identity, clip, choose_device(device, BY_OPTION))

    def judge(run: Run, question: Question) -> Scores:
        with bases_of_this_process().lend(Recipe.read(run.recipe)) as family:
            return evaluate(
                run, prompts=question.templates, images=question.images, seed=question.seed, live=question.live, photos=[question.photos],
                identity=identity, clip=clip, device=device, family=family,
            )  # fmt: skip

    found = suite.run_suite(
        cells, out=place.folder, teach=train_quietly, judge=judge, judges=judges, engine=engine_named(engine, address), progress=progress
    )
    write_page(suite_page(found, place), place.page)
    progress("report", place.page)
    return found
