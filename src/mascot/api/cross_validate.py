"""TODO api.cross_validate."""

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
from mascot.progress import Progress, silent
from mascot.recipe.recipe import Recipe
from mascot.storage.run_folder import Run


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
    pool = base_pool()

    def train_run(point: Recipe, folder: Path, step: int, tell: Progress) -> None:
        tell("steps", step)
        with pool.lend(point) as family:
            train(
                point, out=folder, resume=Run(folder).recipe.exists(), report=False, family=family, until=step,
                progress=lambda phase, facts: tell(phase, facts) if phase == "step" else None,
            )  # fmt: skip

    adapter, path = resolve_adapter(where)
    plan = plan_folds(adapter, path, base=options.get("base"), count=folds)

    def refine(task: EvaluationTask, samples: Samples, scorers: Scorers, scores: Scores) -> Scores:
        return evaluate_folds(plan, FoldEvaluator(task=task, samples=samples, scorers=scorers, train_run=train_run, lend=pool.lend), scores, progress)

    return evaluate(where, refine=refine, progress=progress, **options)
