"""`cross_validate`: evaluate a run, with each of its photos held out in turn."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Unpack

from mascot.api.evaluate import EvaluateOptions, evaluate
from mascot.api.train import train
from mascot.errors import UserError
from mascot.evaluation.evaluation_task import EvaluationTask
from mascot.evaluation.evaluator import Scorers
from mascot.evaluation.samples import Samples
from mascot.evaluation.scores import Scores
from mascot.experiments.base_pool import base_pool
from mascot.experiments.cross_validation import FoldEvaluator, FoldPlan, evaluate_folds, plan_folds
from mascot.generation.loading import resolve_adapter
from mascot.progress import Event, OnEvent, StepTrained, ignore
from mascot.recipe.recipe import Recipe
from mascot.storage.run_folder import Run


def cross_validate(
    run: str | Path | Run, *, folds: int | None = None, on_event: OnEvent = ignore, **options: Unpack[EvaluateOptions]
) -> Scores:
    """Evaluate a run like `evaluate`, with a copy score that needs no photos besides the run's own.

    Each photo of the run, or the first `folds` of them, is held out in turn. The run's recipe is
    trained on the other photos, inside the run's folder, and generates one image of each prompt.
    The fold's copy score compares its images with the held-out photo (see
    `memorization.copy_score`), minus the same score of the base model. Finished folds are kept, so
    an interrupted call goes on. Where no photo can be held out, the score says why.

    Events: those of `evaluate`, and `FoldStarted` and `StepTrained`.

    Raises:
        UserError: see `evaluate`; there are fewer photos than `folds`, or `photos` is given too.
    """
    if options.get("photos"):
        raise UserError("the photos to hold out are the run's own; give --cross-validate without --photos.")
    adapter, path = resolve_adapter(run)
    plan = plan_folds(adapter, path, base=options.get("base"), count=folds)
    return evaluate(run, refine=partial(add_folds, plan, on_event), on_event=on_event, **options)


def add_folds(  # noqa: PLR0917 - the first two are bound, the rest is `Refine`
    plan: FoldPlan, on_event: OnEvent, task: EvaluationTask, samples: Samples, scorers: Scorers, scores: Scores
) -> Scores:
    """Train and score the planned folds, and add them to a run's scores."""
    lend = base_pool().lend
    evaluator = FoldEvaluator(task=task, samples=samples, scorers=scorers, train_run=train_fold, lend=lend)
    return evaluate_folds(plan, evaluator, scores, on_event)


def train_fold(recipe: Recipe, folder: Path, step: int, on_event: OnEvent) -> None:
    """Train one fold up to a step, or resume it, without a report; only its steps are reported."""

    def steps_only(event: Event) -> None:
        if isinstance(event, StepTrained):
            on_event(event)

    with base_pool().lend(recipe) as family:
        resume = Run(folder).recipe.exists()
        train(recipe, out=folder, resume=resume, report=False, family=family, until=step, on_event=steps_only)
