"""TODO api.compare."""

from __future__ import annotations

import os
from pathlib import Path

from mascot.errors import UserError
from mascot.evaluation import comparison
from mascot.evaluation.comparison import Comparison
from mascot.evaluation.scores import Scores
from mascot.evaluation.scores_page import comparison_page
from mascot.progress import FileWritten, OnEvent, ignore
from mascot.reports.page import write_page
from mascot.storage.run_folder import Run, open_run, scores_folder


def read_scores(where: str | Path | Run) -> tuple[Scores, Run]:
    """Read what `evaluate` wrote of a run or an adapter file, called as it is called here; returns the scores and where they lie.

    Raises:
        UserError: it is not there, is no run, or was not evaluated yet.
    """
    path = where.folder if isinstance(where, Run) else Path(where)
    if not path.exists():
        raise UserError(f"{path} does not exist; give a run's folder or an adapter file.")
    place = Run(path) if path.is_dir() else scores_folder(path)
    if path.is_dir() and not place.scores.exists():
        open_run(path)
    if not place.scores.exists():
        raise UserError(f"{path} was not evaluated yet; run `mascot evaluate {path}` first.")
    return Scores.read(place.scores).model_copy(update={"name": str(path)}), place


def compare(
    one: str | Path | Run, other: str | Path | Run, *, out: str | Path | None = None, on_event: OnEvent = ignore
) -> Comparison:
    """Compare two evaluated runs, prompt by prompt and seed by seed; writes a page with their pictures side by side.

    The page is written to `out`, by default into the first run's folder. Event: `FileWritten`.

    Raises:
        UserError: a run was not evaluated, or they were not asked and judged alike.
    """
    first, place = read_scores(one)
    second, there = read_scores(other)
    found = comparison.compare_scores([first], [second])
    page = Path(out) if out is not None else place.comparison(Path(os.path.realpath(there.folder)).name)
    folders = {id(first): place.folder, id(second): there.folder}
    write_page(comparison_page(found, lambda scores: folders[id(scores)]), page)
    on_event(FileWritten(kind="report", path=page))
    return found
