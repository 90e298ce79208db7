"""Recipes -> runs -> one leaderboard: finished work is never redone, and a run that fails does not stop the rest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from mascot.data.prompt_templates import fill
from mascot.errors import UserError
from mascot.experiments.executors import Executor, attempt, first_line, in_turn
from mascot.experiments.leaderboard import Entry, Leaderboard, Measurement, MetricValues
from mascot.experiments.leaderboard_page import leaderboard_page
from mascot.experiments.search import SweepPoint, grid, search, values_of
from mascot.experiments.search_space import Choices, ValueRange, full_keys
from mascot.generation.image_grid import MOST_AXES, GridAxis, Place, axes_text, compose, written
from mascot.generation.knobs import ImageRequest
from mascot.models.devices import choose_device
from mascot.progress import FileWritten, OnEvent, RunFinished, RunsPlanned, ignore
from mascot.recipe.recipe import Recipe
from mascot.reports.page import Page, write_page
from mascot.runs.inputs import read_subject
from mascot.storage.atomic_write import atomic_write, check_writable
from mascot.storage.image_files import open_image, write_image
from mascot.storage.run_folder import Run

TrainRun = Callable[[Recipe, Path], Run]
"""Trains a recipe into a folder, or goes on with a run that was begun there."""


ScoreRun = Callable[[Run], MetricValues]
"""Measures a trained run."""


DrawRun = Callable[[Run, ImageRequest, Path], None]
"""Draws one picture with a trained run into a PNG file."""


@dataclass(frozen=True, slots=True)
class SweepFolder:
    """Where a sweep keeps its files; several sweeps over the same recipe may share one, and with it their runs."""

    folder: Path

    def run(self, point: SweepPoint) -> Run:
        """A point's run."""
        return Run(self.folder / "runs" / point.name)

    def record(self, point: SweepPoint) -> Path:
        """What is known of a point so far."""
        return self.folder / "records" / f"{point.name}.json"

    def traceback(self, point: SweepPoint) -> Path:
        """Where in the code a point failed."""
        return self.folder / "records" / f"{point.name}.failure.txt"

    def image(self, point: SweepPoint, request: ImageRequest) -> Path:
        """What a point draws of a prompt and seed."""
        key = hashlib.sha256(f"{request.seed}\0{request.prompt}".encode()).hexdigest()[:8]
        return self.folder / "pictures" / f"{point.name}_{key}.png"

    @property
    def leaderboard(self) -> Path:
        """All runs of the last sweep."""
        return self.folder / "leaderboard.json"

    @property
    def page(self) -> Path:
        """The same to look at, with pictures and the way to each run's scores."""
        return self.folder / "leaderboard.html"

    @property
    def grid(self) -> Path:
        """Their pictures."""
        return self.folder / "grid.png"


class RunRecord(BaseModel):
    """What is known of a point that is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    scored_by: str | None = None
    """What measured it; None where nothing has yet."""
    scores: dict[str, Measurement] = {}


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came of a point: scores, or the sentence that says why there are none."""

    scores: Mapping[str, Measurement]
    failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepJob:
    """All that is done for a point, wherever it runs: train, measure, draw; each only where it is not done yet."""

    place: SweepFolder
    train_run: TrainRun
    score_run: ScoreRun
    scored_by: str
    generate: DrawRun | None
    request: ImageRequest | None

    def __call__(self, point: SweepPoint) -> RunResult:
        """Bring a point to its end, or say why that cannot be."""
        outcome = attempt(lambda: self.finish(point), self.place.traceback(point))
        return RunResult({}, outcome) if isinstance(outcome, str) else RunResult(outcome)

    def finish(self, point: SweepPoint) -> Mapping[str, Measurement]:
        """Do what is missing of a point, and return its scores."""
        run, record = self.place.run(point), self.recall(point)
        if record is None:
            run = self.train_run(point.recipe, run.folder)
            record = self.keep(point, RunRecord())
        if record.scored_by != self.scored_by:
            scores = {metric: Measurement.of(value) for metric, value in self.score_run(run).items()}
            record = self.keep(point, RunRecord(scored_by=self.scored_by, scores=scores))
        if self.generate is not None and self.request is not None:
            image = self.place.image(point, self.request)
            if not image.exists():
                self.generate(run, self.request, image)
        return record.scores

    def recall(self, point: SweepPoint) -> RunRecord | None:
        """What is known of a point, None where its run is not trained to the end; a record counts only beside the run it tells of."""
        path, run = self.place.record(point), self.place.run(point)
        if not (
            path.exists()
            and run.adapter.exists()
            and run.recipe.exists()
            and point.recipe.fits(Recipe.read(run.recipe))
        ):
            return None
        try:
            return RunRecord.model_validate_json(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, ValidationError) as error:
            raise UserError(f"{path} is damaged; delete it, and the run is scored again.") from error

    def keep(self, point: SweepPoint, record: RunRecord) -> RunRecord:
        """Write down what is known of a point."""
        with atomic_write(self.place.record(point)) as temporary:
            temporary.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return record


def sweep_recipes(
    recipe: Recipe | Mapping[str, Any], over: Mapping[str, Choices], *, out: Path, run_one: TrainRun, score: ScoreRun, by: str,
    lowest: bool = False, scored_by: str = "", trials: int | None = None, together: int = 1, request: ImageRequest | None = None,
    generate: DrawRun | None = None, engine: Executor = in_turn, on_event: OnEvent = ignore,
) -> Leaderboard:  # fmt: skip
    """Train and score a recipe with every combination of some settings, or with `trials` of them, and rank them by one metric.

    `recipe` is a whole one, or the values that a recipe file holds: what they leave open comes from the preset of each point's own base
    and method. `over` has dotted keys; a `ValueRange` needs `trials`. `score` measures a run; values with rows (one a prompt) get intervals.
    `scored_by` says what measures: scores by another text are measured again, and a `lowest` metric is good when it is low. `generate` draws
    `request` with each run, for a grid of pictures over up to three settings (a search has none).

    A sweep that was stopped in any way goes on when it is called again: finished runs stay as they are, half-trained ones are given to
    `run_one` as they are, failed ones are tried again. Everything lies in `out`: leaderboard.json, leaderboard.html, grid.png, and each
    run's folder.

    Raises:
        UserError: a setting is unknown, a value is wrong or the photos cannot be used, all before anything runs; the folder is in use;
            no run comes to its end, or nothing is scored by the metric `by`.
    """
    over = full_keys(over)
    values = values_of(recipe) if isinstance(recipe, Recipe) else dict(recipe)
    rounds = (
        grid(values, over) if trials is None else search(values, over, trials=trials, together=together, lowest=lowest)
    )
    points = next(rounds)
    check(points, out, request, here=engine is in_turn)
    progressed = SweepProgress(place=SweepFolder(out), keys=tuple(over), by=by, lowest=lowest, scored_by=scored_by)
    work = SweepJob(
        place=progressed.place,
        train_run=run_one,
        score_run=score,
        scored_by=scored_by,
        generate=generate,
        request=request,
    )
    with Run(out).locked(), closing(rounds):
        on_event(RunsPlanned(runs=len(points) if trials is None else trials))
        while points:
            do_round(points, work, progressed, engine, on_event)
            try:
                points = rounds.send({point.name: progressed.value(point) for point in points})
            except StopIteration:
                break
        on_event(FileWritten(kind="leaderboard", path=progressed.place.leaderboard))
        generated = request if generate is not None else None
        gridded = generated is not None and trials is None and len(over) <= MOST_AXES
        if generated is not None and gridded:
            write_grid(progressed, over, generated)
            on_event(FileWritten(kind="grid", path=progressed.place.grid))
        write_page(progressed.page(generated, gridded=gridded), progressed.place.page)
        on_event(FileWritten(kind="page", path=progressed.place.page))
    board = progressed.board()
    if all(entry.failure for entry in board.entries):
        raise UserError(f"no run came to an end; the first: {board.entries[0].failure}")
    return board


def check(points: Sequence[SweepPoint], out: Path, request: ImageRequest | None, *, here: bool) -> None:
    """Refuse now what would be refused after hours, or by every run: the folder, the photos, the grid's prompt; `here`, the device."""
    check_writable(out)
    read_subject(points[0].recipe)
    for point in points:
        if request is not None:
            fill(request.prompt, point.recipe.subject)
        if here:
            choose_device(point.recipe.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepProgress:
    """What came of a sweep so far; the order in which runs were finished does not show."""

    place: SweepFolder
    keys: tuple[str, ...]
    by: str
    lowest: bool
    scored_by: str
    tried: dict[str, SweepPoint] = field(default_factory=dict[str, SweepPoint])
    results: dict[str, RunResult] = field(default_factory=dict[str, RunResult])

    def entry(self, point: SweepPoint) -> Entry:
        """A finished point's line."""
        result = self.results[point.name]
        return Entry(name=point.name, changes=dict(point.changes), scores=dict(result.scores), failure=result.failure)

    def value(self, point: SweepPoint) -> float | None:
        """What a search learns from a finished point."""
        scores = self.results[point.name].scores
        return scores[self.by].mean if self.by in scores else None

    def board(self) -> Leaderboard:
        """The leaderboard of what is done."""
        entries = [self.entry(point) for name, point in self.tried.items() if name in self.results]
        return Leaderboard.of(entries, by=self.by, keys=self.keys, lowest=self.lowest, scored_by=self.scored_by)

    def page(self, request: ImageRequest | None, *, gridded: bool) -> Page:
        """What is done, to look at; with what each run drew of a prompt and seed, where it drew any."""
        generated = (
            {name: self.place.image(point, request) for name, point in self.tried.items()}
            if request is not None
            else {}
        )
        links = {name: self.place.run(point).scores_page for name, point in self.tried.items()}
        return leaderboard_page(
            self.board(),
            grid=self.place.grid if gridded else None,
            images={name: path for name, path in generated.items() if path.exists()},
            links={
                name: path.relative_to(self.place.folder).as_posix() for name, path in links.items() if path.exists()
            },
        )


def do_round(
    points: Sequence[SweepPoint], work: SweepJob, progressed: SweepProgress, engine: Executor, on_event: OnEvent
) -> None:
    """Bring points to their end, but those that came up before, and write the leaderboard after each."""
    new = [point for point in points if point.name not in progressed.results]
    progressed.tried.update((point.name, point) for point in new)
    for point, outcome in engine(work, new):
        lost = isinstance(outcome, Exception)
        progressed.results[point.name] = (
            RunResult({}, f"its worker was lost: {first_line(outcome)}") if lost else outcome
        )
        entry = progressed.entry(point)
        scores = {name: score.mean for name, score in entry.scores.items() if score.mean is not None}
        on_event(RunFinished(name=entry.label, scores=scores, failure=entry.failure or ""))
        progressed.board().write(progressed.place.leaderboard)


def write_grid(progressed: SweepProgress, over: Mapping[str, Choices], request: ImageRequest) -> None:
    """Put the runs' pictures of one prompt and seed into one grid."""
    axes = [
        GridAxis(key, tuple(map(written, values))) for key, values in over.items() if not isinstance(values, ValueRange)
    ]
    cells: dict[Place, Image.Image | str] = {}
    for point in progressed.tried.values():
        if point.place is not None:
            cells[point.place] = progressed.results[point.name].failure or open_image(
                progressed.place.image(point, request)
            )
    text = f"{request.prompt}\nSeed: {request.seed}, {axes_text(axes)}"
    write_image(compose(axes, cells, title=f"{request.prompt} (seed {request.seed})"), progressed.place.grid, text)
