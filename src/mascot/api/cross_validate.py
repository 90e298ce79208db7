"""`cross_validate`: evaluate a run with each of its photos held out in turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mascot.api.evaluate import evaluate
from mascot.api.train import train
from mascot.errors import UserError
from mascot.evaluation.evaluation_task import EvaluationTask
from mascot.evaluation.evaluator import Scorers
from mascot.evaluation.samples import Samples
from mascot.evaluation.scores import Scores
from mascot.experiments.base_pool import base_pool
from mascot.experiments.cross_validation import FoldEvaluator, evaluate_folds, plan_folds
from mascot.generation.loading import resolve_adapter
from mascot.progress import Event, OnEvent, StepTrained, ignore
from mascot.recipe.recipe import Recipe
from mascot.storage.run_folder import Run


def cross_validate(
    where: str | Path | Run, *, folds: int | None = None, on_event: OnEvent = ignore, **options: Any
) -> Scores:
    """Evaluate a run like `evaluate`, with a copy score that needs no photos besides the run's own.

    Each of its photos, or the first `folds` of them, is held out in turn. A run on the other photos is trained by the run's recipe,
    inside the run's folder, and generates one image of each prompt. Its copy score against the photo held out counts
    (see `memorization.copy_score`), less that of the base model's images. Finished work is kept, so a call that was stopped goes on.
    Where no photo can be held out, the score says why. `options` are those of `evaluate`.

    Events: those of `evaluate`, and `FoldStarted` and `StepTrained`.

    Raises:
        UserError: see `evaluate`; or there are fewer photos than `folds`, or photos are given besides the run's own.
    """
    if options.get("photos"):
        raise UserError("the photos to hold out are the run's own; give --cross-validate without --photos.")
    pool = base_pool()

    def train_fold(recipe: Recipe, folder: Path, step: int, on_event: OnEvent) -> None:
        def steps_only(event: Event) -> None:
            if isinstance(event, StepTrained):
                on_event(event)

        with pool.lend(recipe) as family:
            resume = Run(folder).recipe.exists()
            train(recipe, out=folder, resume=resume, report=False, family=family, until=step, on_event=steps_only)

    adapter, path = resolve_adapter(where)
    plan = plan_folds(adapter, path, base=options.get("base"), count=folds)

    def refine(task: EvaluationTask, samples: Samples, scorers: Scorers, scores: Scores) -> Scores:
        evaluator = FoldEvaluator(task=task, samples=samples, scorers=scorers, train_run=train_fold, lend=pool.lend)
        return evaluate_folds(plan, evaluator, scores, on_event)

    return evaluate(where, refine=refine, on_event=on_event, **options)
