"""All work for one point of a sweep: train, score and generate, each only if it is not done yet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from mascot.experiments.executors import result_or_failure
from mascot.experiments.leaderboard import Measurement, MetricValues
from mascot.experiments.search import SweepPoint
from mascot.generation.knobs import ImageRequest
from mascot.recipe.recipe import Recipe
from mascot.storage.image_files import is_png, warn_of_unsealed
from mascot.storage.json_record import CachedRecord
from mascot.storage.run_folder import Run

TrainRun = Callable[[Recipe, Path], Run]
"""Trains a recipe into a folder, or resumes a run that was started there."""

ScoreRun = Callable[[Run], MetricValues]
"""Scores a trained run; a metric with one value for each prompt gets an interval."""

GenerateImage = Callable[[Run, ImageRequest, Path], None]
"""Generates one image with a trained run, into a PNG file."""


@dataclass(frozen=True, slots=True)
class SweepFolder:
    """Names the files of a sweep; several sweeps of one recipe may share a folder and its runs."""

    folder: Path

    def run(self, point: SweepPoint) -> Run:
        """The run of a point."""
        return Run(self.folder / "runs" / point.name)

    def record(self, point: SweepPoint) -> Path:
        """The record of a point: see `RunRecord`."""
        return self.folder / "records" / f"{point.name}.json"

    def traceback(self, point: SweepPoint) -> Path:
        """The traceback of a point that failed in the code."""
        return self.folder / "records" / f"{point.name}.failure.txt"

    def image(self, point: SweepPoint, request: ImageRequest) -> Path:
        """A point's image of a prompt and seed."""
        key = hashlib.sha256(f"{request.seed}\0{request.prompt}".encode()).hexdigest()[:8]
        return self.folder / "pictures" / f"{point.name}_{key}.png"

    @property
    def leaderboard(self) -> Path:
        """The leaderboard of the last sweep."""
        return self.folder / "leaderboard.json"

    @property
    def page(self) -> Path:
        """The leaderboard's page, with images and links to each run's scores."""
        return self.folder / "leaderboard.html"

    @property
    def grid(self) -> Path:
        """The image grid."""
        return self.folder / "grid.png"


class RunRecord(CachedRecord):
    """Scores of a trained point, and what computed them."""

    version: Literal[1] = 1
    scored_by: str | None = None
    """Description of what scored the run; None if nothing has yet."""
    scores: dict[str, Measurement] = Field(default_factory=dict[str, Measurement])


@dataclass(frozen=True, slots=True)
class RunResult:
    """The scores of a point, or the sentence that says why there are none."""

    scores: Mapping[str, Measurement]
    failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepJob:
    """Trains, scores and generates for one point; it may be called on another machine."""

    files: SweepFolder
    check: Callable[[Sequence[str]], None] | None = None
    """Checks, for the bases of all runs, what scoring would fail at; called before any training."""
    train_run: TrainRun
    score_run: ScoreRun
    scored_by: str = ""
    """Description of what `score_run` measures with; scores with another description are redone."""
    generate: GenerateImage | None = None
    request: ImageRequest | None = None
    """The prompt and seed of each run's image; `{subject}` stands for the run's subject."""

    def __call__(self, point: SweepPoint) -> RunResult:
        """Complete a point, or return why that failed."""
        result = result_or_failure(lambda: self.complete(point), self.files.traceback(point))
        return RunResult({}, result) if isinstance(result, str) else RunResult(result)

    def complete(self, point: SweepPoint) -> Mapping[str, Measurement]:
        """Do what is missing for a point, and return its scores."""
        run, record = self.files.run(point), self.read_record(point)
        if record is None:
            run = self.train_run(point.recipe, run.folder)
            record = self.write_record(point, RunRecord())
        if record.scored_by != self.scored_by:
            scores = {metric: Measurement.of(value) for metric, value in self.score_run(run).items()}
            record = self.write_record(point, RunRecord(scored_by=self.scored_by, scores=scores))
        if self.generate is not None and self.request is not None:
            image = self.files.image(point, self.request)
            if not is_png(image):
                warn_of_unsealed(image.parent, [image])
                self.generate(run, self.request, image)
        return record.scores

    def read_record(self, point: SweepPoint) -> RunRecord | None:
        """Read the record of a point.

        None if its run is unfinished or has another recipe, or the record is damaged.
        """
        path, run = self.files.record(point), self.files.run(point)
        if not (path.exists() and run.adapter.exists() and run.recipe.exists()):
            return None
        if not point.recipe.fits(Recipe.read(run.recipe)):
            return None
        return RunRecord.recall(path)

    def write_record(self, point: SweepPoint, record: RunRecord) -> RunRecord:
        """Write the record of a point, and return it."""
        record.write(self.files.record(point))
        return record
