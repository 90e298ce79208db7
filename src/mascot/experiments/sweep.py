"""Sweeps: train and score a recipe with several settings, and rank the runs.

Finished work is never redone, and a run that fails does not stop the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from PIL import Image

from mascot.data.prompt_templates import fill
from mascot.errors import UserError
from mascot.experiments.executors import Executor, first_line, run_serially
from mascot.experiments.leaderboard import Entry, Leaderboard
from mascot.experiments.leaderboard_page import leaderboard_page
from mascot.experiments.search import Rounds, SweepPoint, grid_search, recipe_values, tpe_search
from mascot.experiments.search_space import Choices, ValueRange, expand_keys
from mascot.experiments.sweep_job import RunResult, SweepFolder, SweepJob
from mascot.generation.image_grid import MOST_AXES, GridAxis, GridPosition, axes_text, compose, format_value
from mascot.generation.knobs import ImageRequest
from mascot.models.devices import choose_device
from mascot.progress import FileWritten, OnEvent, RunFinished, RunsPlanned, ignore
from mascot.recipe.recipe import Recipe
from mascot.recipe.unused_settings import check_axes
from mascot.reports.page import Page, write_page
from mascot.runs.inputs import read_subject
from mascot.storage.atomic_write import check_writable
from mascot.storage.image_files import open_image, write_image
from mascot.storage.run_folder import Run


def sweep_recipes(
    recipe: Recipe | Mapping[str, object],
    over: Mapping[str, Choices],
    job: SweepJob,
    *,
    by: str,
    lowest: bool = False,
    trials: int | None = None,
    executor: Executor = run_serially,
    on_event: OnEvent = ignore,
) -> Leaderboard:
    """Train and score a recipe with several settings, and rank the runs by one metric.

    `recipe` may be the values of a recipe file; presets fill the rest of each point. `over` has
    dotted keys; all combinations are tried, or `trials` that a search proposes. `lowest` says that
    low values of `by` are better. `job` is done for each point; its folder gets leaderboard.json,
    leaderboard.html, and grid.png for up to three settings (not for a search). An interrupted sweep
    goes on: finished points are kept. Events: `RunsPlanned`, `RunFinished`, `FileWritten`.

    Raises:
        UserError: a setting or a photo cannot be used, before anything runs; the folder is in use;
            all runs fail, or none has the metric.
    """
    over = expand_keys(over)
    values = recipe_values(recipe) if isinstance(recipe, Recipe) else dict(recipe)
    rounds = grid_search(values, over) if trials is None else tpe_search(values, over, trials=trials, lowest=lowest)
    points = next(rounds)
    check_axes([point.recipe for point in points if trials is None], list(over))
    check_points(points, job, in_this_process=executor is run_serially)
    progress = SweepProgress(files=job.files, over=over, by=by, lowest=lowest, scored_by=job.scored_by)
    with Run(job.files.folder).locked(), closing(rounds):
        on_event(RunsPlanned(runs=len(points) if trials is None else trials))
        while points:
            run_points(points, job, progress, executor, on_event)
            points = next_points(rounds, {point.name: progress.value(point) for point in points})
        write_results(progress, job, on_event)
    board = progress.board()
    if all(entry.failure for entry in board.entries):
        raise UserError(f"every run failed; the first: {board.entries[0].failure}")
    return board


def next_points(rounds: Rounds, results: Mapping[str, float | None]) -> list[SweepPoint]:
    """Send the results of a round, and return the next round's points; none after the last."""
    try:
        return rounds.send(results)
    except StopIteration:
        return []


def check_points(points: Sequence[SweepPoint], job: SweepJob, *, in_this_process: bool) -> None:
    """Check what every run would fail at: folder, photos, the grid's prompt, device, encoders.

    The device is checked only if runs are trained in this process.
    """
    check_writable(job.files.folder)
    check_one_subject(points[0].recipe)
    read_subject(points[0].recipe)
    for point in points:
        if job.request is not None:
            fill(job.request.prompt, point.recipe.subject)
        if in_this_process:
            choose_device(point.recipe.device)
    if job.check is not None:
        job.check(sorted({point.recipe.base for point in points}))


def check_one_subject(recipe: Recipe) -> None:
    """Refuse recipes of several subjects, whose runs could not be compared.

    Raises:
        UserError: there are several.
    """
    if recipe.subject.others:
        raise UserError(
            f"a sweep compares runs of one subject, and the recipe has {len(recipe.subject.all)}; "
            "sweep on one of them, and train all with what it finds."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepProgress:
    """The results of a sweep so far; they do not depend on the order in which runs finished."""

    files: SweepFolder
    over: Mapping[str, Choices]
    by: str
    lowest: bool
    scored_by: str
    points: dict[str, SweepPoint] = field(default_factory=dict[str, SweepPoint])
    """Points that were started, by name."""
    results: dict[str, RunResult] = field(default_factory=dict[str, RunResult])
    """Results of finished points, by name."""

    def entry(self, point: SweepPoint) -> Entry:
        """Build the leaderboard entry of a finished point."""
        result = self.results[point.name]
        return Entry(name=point.name, changes=dict(point.changes), scores=dict(result.scores), failure=result.failure)

    def value(self, point: SweepPoint) -> float | None:
        """Return the ranking metric of a finished point, for the search; None if it has none."""
        scores = self.results[point.name].scores
        return scores[self.by].mean if self.by in scores else None

    def board(self) -> Leaderboard:
        """Rank all finished points."""
        entries = [self.entry(point) for name, point in self.points.items() if name in self.results]
        return Leaderboard.of(entries, by=self.by, keys=tuple(self.over), lowest=self.lowest, scored_by=self.scored_by)

    @property
    def has_grid(self) -> bool:
        """Whether the points form a grid of up to three axes."""
        return len(self.over) <= MOST_AXES and all(point.position is not None for point in self.points.values())


def run_points(
    points: Sequence[SweepPoint], job: SweepJob, progress: SweepProgress, executor: Executor, on_event: OnEvent
) -> None:
    """Complete the points of a round that are new, and write the leaderboard after each."""
    new = [point for point in points if point.name not in progress.results]
    progress.points.update((point.name, point) for point in new)
    for point, result in executor(job, new):
        lost = isinstance(result, Exception)
        progress.results[point.name] = RunResult({}, f"its worker was lost: {first_line(result)}") if lost else result
        entry = progress.entry(point)
        scores = {name: score.mean for name, score in entry.scores.items() if score.mean is not None}
        on_event(RunFinished(name=entry.label, scores=scores, failure=entry.failure or ""))
        progress.board().write(progress.files.leaderboard)


def write_results(progress: SweepProgress, job: SweepJob, on_event: OnEvent) -> None:
    """Write the image grid, if the sweep has one, and the page; report all files."""
    files, request = progress.files, job.request if job.generate is not None else None
    on_event(FileWritten(kind="leaderboard", path=files.leaderboard))
    if request is not None and progress.has_grid:
        write_grid(progress, request)
        on_event(FileWritten(kind="grid", path=files.grid))
    write_page(sweep_page(progress, request), files.page)
    on_event(FileWritten(kind="page", path=files.page))


def write_grid(progress: SweepProgress, request: ImageRequest) -> None:
    """Arrange the runs' images of one prompt and seed in one grid."""
    axes = [
        GridAxis(key, tuple(map(format_value, values)))
        for key, values in progress.over.items()
        if not isinstance(values, ValueRange)
    ]
    cells: dict[GridPosition, Image.Image | str] = {}
    for point in progress.points.values():
        if point.position is not None:
            failure = progress.results[point.name].failure
            cells[point.position] = failure or open_image(progress.files.image(point, request))
    text = f"{request.prompt}\nSeed: {request.seed}, {axes_text(axes)}"
    write_image(compose(axes, cells, title=f"{request.prompt} (seed {request.seed})"), progress.files.grid, text)


def sweep_page(progress: SweepProgress, request: ImageRequest | None) -> Page:
    """Build the page of a sweep, with each run's image of the request, if there is one."""
    files, points = progress.files, progress.points.items()
    images = {} if request is None else {name: files.image(point, request) for name, point in points}
    scores = {name: files.run(point).scores_page for name, point in points}
    return leaderboard_page(
        progress.board(),
        grid=files.grid if request is not None and progress.has_grid else None,
        images={name: path for name, path in images.items() if path.exists()},
        links={name: path.relative_to(files.folder).as_posix() for name, path in scores.items() if path.exists()},
    )
