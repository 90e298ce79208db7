"""`compare`: compare two evaluated runs."""

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
from mascot.storage.run_folder import Run, locate, open_run, scores_folder


def compare(
    one: str | Path | Run, other: str | Path | Run, *, out: str | Path | None = None, on_event: OnEvent = ignore
) -> Comparison:
    """Compare two evaluated runs by prompt and seed; writes a page with their images side by side.

    The page is written to `out`, by default into the first run's folder. Event: `FileWritten`.

    Raises:
        UserError: a run was not evaluated, or the runs were evaluated with different options.
    """
    scores, files = read_scores(one)
    other_scores, other_files = read_scores(other)
    result = comparison.compare_scores([scores], [other_scores])
    page = Path(out) if out is not None else files.comparison(Path(os.path.realpath(other_files.folder)).name)
    folders = {id(scores): files.folder, id(other_scores): other_files.folder}
    write_page(comparison_page(result, lambda scores: folders[id(scores)]), page)
    on_event(FileWritten(kind="report", path=page))
    return result


def read_scores(source: str | Path | Run) -> tuple[Scores, Run]:
    """Read the scores that `evaluate` wrote for a run or an adapter file.

    Returns the scores, named as the source is named here, and the folder that holds them.

    Raises:
        UserError: the source does not exist, is no run, or was not evaluated yet.
    """
    name = source.folder if isinstance(source, Run) else Path(source)
    path = locate(name)
    if not path.exists():
        raise UserError(f"{path} does not exist; give a run's folder or an adapter file.")
    files = Run(path) if path.is_dir() else scores_folder(path)
    if path.is_dir() and not files.scores.exists():
        open_run(path)
    if not files.scores.exists():
        raise UserError(f"{name} was not evaluated yet; run `mascot evaluate {name}` first.")
    return Scores.read(files.scores).model_copy(update={"name": str(name)}), files
