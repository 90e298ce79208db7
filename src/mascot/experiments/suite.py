"""The paper's protocol over a collection of subjects: every subject is taught in every way, drawn, scored, and averaged in one table.

An arm is one way to teach: a method, or anything else that turns a subject into a recipe. What is finished is never done again, and a
subject that fails does not stop the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from filelock import FileLock
from pydantic import BaseModel, ConfigDict

from mascot.errors import UserError
from mascot.evaluation.bootstrap import Interval
from mascot.evaluation.metrics.default_encoders import EncoderPair
from mascot.evaluation.scores import METRICS, REFERENCES, Scores, over_subjects
from mascot.experiments.executors import Executor, attempt, first_line, in_turn
from mascot.experiments.subject_collection import CollectionSubject
from mascot.progress import OnEvent, RunFinished, RunsPlanned, ignore
from mascot.recipe.recipe import Recipe
from mascot.storage.json_record import JsonRecord
from mascot.storage.run_folder import Run

TrainRun = Callable[[Recipe, Path], Run]
"""Trains a recipe into a folder, or goes on with a run that was begun there."""


ScoreRun = Callable[[Run, "EvaluationRequest"], Scores]
"""Draws and scores what a question asks of a run, and writes it into the run's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRequest:
    """What is asked of one run."""

    templates: tuple[str, ...]
    live: bool
    images: int
    seed: int
    photos: Path
    """The folder of photos that likeness is measured on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to teach every subject."""

    name: str
    """What its folder and its row are called."""
    recipe: Callable[[CollectionSubject], Recipe]


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteRun:
    """One subject taught in one way."""

    variant: str
    subject: str
    recipe: Recipe
    request: EvaluationRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedRun:
    """A cell that came to nothing, and why, in one sentence."""

    variant: str
    subject: str
    sentence: str


class SubjectMean(BaseModel):
    """A metric over subjects, with its bootstrap interval; no bounds with one subject."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float
    low: float | None
    high: float | None
    subjects: int
    """That have the metric."""


class SuiteSummary(JsonRecord):
    """What an evaluated suite came to, as `suite.json` keeps it."""

    damaged = "{path} is damaged or was written by another version of mascot; run the suite again."
    absent = "{path} does not exist; run the suite first."

    version: Literal[1] = 1
    images: int
    seed: int
    prompts: int
    """Asked of each subject at most."""
    encoders: dict[str, str]
    subjects: tuple[str, ...]
    """That the means are over: those that every arm has."""
    variants: dict[str, dict[str, SubjectMean]]
    """Arm -> metric -> mean over the subjects; the references (real photos, untouched base) are among the metrics."""
    failures: dict[str, str]
    """`variant/subject` -> why there is nothing."""


@dataclass(kw_only=True)
class SuiteScores:
    """Every cell's scores so far."""

    suite_runs: tuple[SuiteRun, ...]
    scores: dict[tuple[str, str], Scores] = field(default_factory=dict[tuple[str, str], Scores])
    """By arm and subject."""
    failures: list[FailedRun] = field(default_factory=list[FailedRun])

    @property
    def variants(self) -> tuple[str, ...]:
        """In the order that they were given in."""
        return tuple(dict.fromkeys(suite_run.variant for suite_run in self.suite_runs))

    @property
    def subjects(self) -> tuple[str, ...]:
        """Those that every arm has been scored on: means of different subjects would not be of the same thing."""
        named = dict.fromkeys(suite_run.subject for suite_run in self.suite_runs)
        return tuple(
            subject for subject in named if all((variant, subject) in self.scores for variant in self.variants)
        )

    def of(self, variant: str) -> list[Scores]:
        """An arm's scores, subject by subject."""
        return [self.scores[variant, subject] for subject in self.subjects]

    def mean(self, variant: str, name: str) -> Interval | None:
        """Average one number over the subjects, with its interval; None where no subject has it."""
        return over_subjects(self.of(variant), name)

    def summary(self) -> SuiteSummary:
        """All means, to be kept."""
        request = self.suite_runs[0].request
        known = [*METRICS, *(name for row in REFERENCES.values() for name in row.values())]
        return SuiteSummary(
            images=request.images,
            seed=request.seed,
            prompts=max(len(suite_run.request.templates) for suite_run in self.suite_runs),
            encoders=next((dict(scores.encoders) for scores in self.scores.values()), {}),
            subjects=self.subjects,
            variants={
                variant: {name: mean for name in known if (mean := self._kept(variant, name)) is not None}
                for variant in self.variants
            },
            failures={f"{failure.variant}/{failure.subject}": failure.sentence for failure in self.failures},
        )

    def _kept(self, variant: str, name: str) -> SubjectMean | None:
        found, count = self.mean(variant, name), sum(one.values[name].value is not None for one in self.of(variant))
        return None if found is None else SubjectMean(mean=found.mean, low=found.low, high=found.high, subjects=count)


@dataclass(frozen=True, slots=True)
class SuiteFolder:
    """Where a suite keeps its files."""

    folder: Path

    def run(self, suite_run: SuiteRun) -> Run:
        """A cell's run."""
        return Run(self.folder / suite_run.variant / suite_run.subject)

    def traceback(self, suite_run: SuiteRun) -> Path:
        """Where in the code a cell failed."""
        return self.folder / suite_run.variant / f"{suite_run.subject}.failure.txt"

    @property
    def summary(self) -> Path:
        """All means."""
        return self.folder / "suite.json"

    @property
    def page(self) -> Path:
        """Tables and pictures."""
        return self.folder / "suite.html"


def plan_runs(
    subjects: Sequence[CollectionSubject],
    variants: Sequence[Variant],
    *,
    prompts: Mapping[bool, tuple[str, ...]],
    images: int,
    seed: int,
) -> tuple[SuiteRun, ...]:
    """Every subject in every way, subject by subject, so that a suite that was stopped early has whole rows; `prompts` by liveness.

    Raises:
        UserError: a recipe has mistakes, or two arms share a name.
    """
    if len({variant.name for variant in variants}) < len(variants):
        raise UserError("a method is named twice; name each once.")
    return tuple(
        SuiteRun(
            variant=variant.name,
            subject=subject.name,
            recipe=variant.recipe(subject),
            request=EvaluationRequest(
                templates=prompts[subject.live], live=subject.live, images=images, seed=seed, photos=subject.photos
            ),
        )
        for subject in subjects
        for variant in variants
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteJob:
    """All that is done for a cell, each only where it is not done yet."""

    place: SuiteFolder
    train_run: TrainRun
    score_run: ScoreRun
    encoders: Mapping[str, str]
    """The encoders that scores must be by, as they describe themselves."""

    def __call__(self, suite_run: SuiteRun) -> Scores | str:
        """Bring a cell to its end, or say why that cannot be."""
        return attempt(lambda: self.finish(suite_run), self.place.traceback(suite_run))

    def finish(self, suite_run: SuiteRun) -> Scores:
        """Train and score what is not trained and scored."""
        run = self.place.run(suite_run)
        if run.recipe.exists() and not suite_run.recipe.fits(Recipe.read(run.recipe)):
            raise UserError(f"{run.folder} was made with other settings; give another --out, or the settings of then.")
        if not (run.adapter.exists() and run.recipe.exists()):
            self.train_run(suite_run.recipe, run.folder)
        kept = self.recall(suite_run)
        return kept if kept is not None else self.score_run(run, suite_run.request)

    def recall(self, suite_run: SuiteRun) -> Scores | None:
        """The scores that are kept, None where they do not answer this question."""
        run, request = self.place.run(suite_run), suite_run.request
        if not run.scores.exists():
            return None
        kept = Scores.read(run.scores)
        asked = tuple(prompt.template for prompt in kept.prompts), kept.live, kept.images, kept.seed
        same = asked == (request.templates, request.live, request.images, request.seed)
        return kept if same and all(kept.encoders.get(name) == line for name, line in self.encoders.items()) else None


def run_suite(
    suite_runs: Sequence[SuiteRun],
    *,
    out: Path,
    train_run: TrainRun,
    score_run: ScoreRun,
    encoders: EncoderPair,
    engine: Executor = in_turn,
    on_event: OnEvent = ignore,
) -> SuiteScores:
    """Bring every cell to its end, and keep the means of what there is after each.

    A suite that was stopped in any way goes on when it is called again, and ends in the same scores. Several processes may work on
    different subjects of one folder. Events: `RunsPlanned`, `RunFinished`.

    Raises:
        UserError: nothing could be scored at all.
    """
    place = SuiteFolder(out)
    work = SuiteJob(place=place, train_run=train_run, score_run=score_run, encoders=encoders.describe())
    found = SuiteScores(suite_runs=tuple(suite_runs))
    on_event(RunsPlanned(runs=len(suite_runs)))
    for suite_run, outcome in engine(work, suite_runs):
        if isinstance(outcome, Scores):
            found.scores[suite_run.variant, suite_run.subject] = outcome
            on_event(RunFinished(name=f"{suite_run.subject}, {suite_run.variant}", scores={}))
        else:
            sentence = outcome if isinstance(outcome, str) else f"its worker was lost: {first_line(outcome)}"
            found.failures.append(FailedRun(variant=suite_run.variant, subject=suite_run.subject, sentence=sentence))
            on_event(RunFinished(name=f"{suite_run.subject}, {suite_run.variant}", scores={}, failure=sentence))
        if found.scores:  # else nothing is left behind
            with FileLock(place.folder / "lock"):  # several processes may work on one folder
                found.summary().write(place.summary)
    if not found.scores:
        raise UserError(f"nothing could be scored: {found.failures[0].sentence}")
    return found
