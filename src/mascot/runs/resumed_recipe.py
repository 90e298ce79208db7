"""The recipe of a resumed run: what it was trained with, and which changes it accepts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

from mascot.errors import UserError
from mascot.models.base_files.base_reading import BaseReading
from mascot.protocols import Method
from mascot.recipe.changes import STEPS_KEY, Change, effect_of, list_changes, override, show
from mascot.recipe.optimizer_needs import check_optimizer
from mascot.recipe.overrides import merge, parse_overrides, read_toml, write_none
from mascot.recipe.recipe import Recipe
from mascot.recipe.starting_point import check_start
from mascot.recipe.unused_settings import check_used, unused_settings
from mascot.runs.phase_schedule import PhaseSpan, plan_spans
from mascot.storage.run_folder import Run, kept_steps, open_run, step_of
from mascot.storage.untrusted_files import UnreadableFile, read_json_object
from mascot.training.checkpoint import unreadable


def resumed_recipe(folder: Path, given: Mapping[str, object]) -> Recipe:
    """Read the recipe with which a run goes on: its own, with what is given now on top.

    Raises:
        UserError: the folder holds no run, a setting changed that may not, or a value is wrong.
    """
    files = open_run(folder)
    values = merge(read_toml(files.recipe), given)
    check_changes(files, list(list_changes(trained_values(files), write_none(values))), values)
    return Recipe.parse(values)


def trained_values(files: Run) -> dict[str, Any]:
    """Read the recipe that a run was trained with so far, as nested values.

    The last checkpoint says it, or else the recipe of the run itself.

    Raises:
        UserError: the recipe or the checkpoint cannot be read.
    """
    checkpoint = files.last_checkpoint()
    if checkpoint is None or not Run(checkpoint).recipe.exists():
        return read_start_recipe(files) or read_toml(files.recipe)
    try:
        return read_toml(Run(checkpoint).recipe)
    except UserError as error:
        raise unreadable(checkpoint) from error


def read_start_recipe(files: Run) -> dict[str, Any]:
    """Read the recipe from a run's effective settings; empty where they do not hold it."""
    try:
        recipe = read_json_object(files.effective).get("recipe")
    except UnreadableFile:  # `StartFacts.read` refuses a damaged file
        return {}
    return recipe if isinstance(recipe, dict) else {}


def changes_since(files: Run, recipe: Recipe) -> list[Change]:
    """List what a recipe changes in a run that has begun, after checking that it may.

    Raises:
        UserError: a setting changed that may not change.
    """
    values = write_none(recipe.model_dump(mode="json"))
    changes = list(list_changes(trained_values(files), values))
    check_changes(files, changes, values)
    return changes


def check_changes(files: Run, changes: Sequence[Change], values: Mapping[str, object]) -> None:
    """Refuse changes of settings that the steps so far depend on, each by its name.

    `values` is the changed recipe. The error offers a new run, which starts from this one where
    that is possible.

    Raises:
        UserError: there is one.
    """
    wrong = [change for change in changes if not change.allowed]
    if not wrong:
        return
    fine = [change.key for change in changes if change.allowed]
    resume = ["mascot", "train", "--resume", "--out", str(files.folder), *options(wrong, before=True)]
    start = new_run_options(files, changes, values)
    anew = f" (`{shlex.join(['mascot', 'train', *start, '--out', 'NEW'])}`)" if start else " in another --out"
    raise UserError(
        f"{files.folder} cannot be resumed with {' and '.join(change.describe() for change in wrong)}"
        + (f", only {' and '.join(fine)} may change" if fine else "")
        + f"; put back what it was trained with (`{shlex.join(resume)}`), or start a new run{anew}."
    )


def new_run_options(files: Run, changes: Sequence[Change], values: Mapping[str, object]) -> list[str]:
    """Write the options of a new run with a changed recipe; empty where they would be refused.

    Changes without effect are left out. The new run starts from this one where it can.
    """
    origin = next((change.now for change in changes if change.key == "start_from"), "none")
    same_base = not any(change.key in {"base", "start_from", *BaseReading.model_fields} for change in changes)
    start = start_options(files, values) if same_base else ["--from", str(origin)] * (origin not in {None, "none"})
    try:
        unused = {"start_from": "", **unused_settings(Recipe.parse(values))}
        chosen = options([change for change in changes if change.key not in unused], before=False)
        given, source = chosen[1::2], start[1] if start else None
        recipe = Recipe.preset(file=files.recipe, overrides=given, start_from=source)
        check_optimizer(recipe.training, recipe.method)
        check_used([recipe], overrides=parse_overrides(given), in_file=read_toml(files.recipe))
    except UserError:
        return []
    return ["--recipe", str(files.recipe), *start, *chosen]


def start_options(files: Run, values: Mapping[str, object]) -> list[str]:
    """Write the option that starts a recipe from a run; empty where that would be refused."""
    kept = kept_steps(files)
    source = f"{files.folder}@{kept[-1]}" if kept and not files.adapter.exists() else str(files.folder)
    try:
        recipe = Recipe.parse(values)
        check_start(source, cast("Method", recipe.method), recipe.subject)
    except UserError:
        return []
    return ["--from", source]


def options(changes: Sequence[Change], *, before: bool) -> list[str]:
    """Write changes as options, with the values before them or after them."""
    settings = [override(change.key, change.before if before else change.now) for change in changes]
    return [word for setting in settings for word in ("--set", setting)]


def check_length(files: Run, before: Mapping[str, Any], recipe: Recipe, stages: int) -> None:
    """Check that a run can end at the recipe's number of steps from where it is.

    It must not be past that step, and the phases that it has finished must keep their steps.

    Raises:
        UserError: it cannot.
    """
    checkpoint = files.last_checkpoint()
    steps, old = recipe.training.steps, int(before.get("training", {}).get("steps", recipe.training.steps))
    if checkpoint is None or steps == old:
        return
    done, method = step_of(checkpoint), cast("Method", recipe.method)
    plan = partial(plan_spans, stages, method, started=recipe.start_from is not None)
    was, now = plan(old), plan(steps)
    begun = len(list(takewhile(lambda span: span.last < done, was)))
    resume = ["mascot", "train", "--resume", "--out", str(files.folder)]
    start = start_options(files, recipe.model_dump())
    anew = ["mascot", "train", "--recipe", str(files.recipe), *start, "--steps", str(steps), "--out", "NEW"]
    if starts(was, begun) != starts(now, begun):
        raise UserError(
            f"{files.folder} is past step {was[begun].first}, where a phase or stage of training ended that shares "
            f"{STEPS_KEY}, so {old} cannot become {steps}; go on with {old} "
            f"(`{shlex.join([*resume, '--steps', str(old)])}`), "
            f"or start a new run (`{shlex.join(anew)}`)."
        )
    if done > now[begun].last:
        least = next(n for n in range(1, old + 1) if plan(n)[begun].last >= done)
        raise UserError(
            f"{files.folder} is trained up to step {done} already, so {STEPS_KEY} cannot be {steps}; "
            f"give {least} or more (`{shlex.join([*resume, '--steps', str(least)])}`)."
        )


def starts(spans: Sequence[PhaseSpan], begun: int) -> list[int]:
    """List the first steps of the spans that have begun, `begun` of which have ended."""
    return [span.first for span in spans[: begun + 1]]


def describe_change(change: Change, done: int, recipe: Recipe) -> tuple[str, str]:
    """Describe a change of a resumed run for its effective settings, as name and value."""
    text = f"{show(change.before)} to {show(change.now)}: {effect_of(change.key)}"
    if change.key == STEPS_KEY and recipe.training.lr_schedule != "constant":
        text += f"; its {recipe.training.lr_schedule} schedule follows the new length from there on"
    return f"{change.key}, changed at step {done}", text
