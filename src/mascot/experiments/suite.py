"""Suites: the protocol of DreamBooth (Ruiz et al. 2023) over a collection of subjects.

Every subject is trained with every variant and scored; the scores are averaged over subjects. A
variant is a method, or anything else that turns a subject into a recipe. Finished work is never
redone, and a subject that fails does not stop the others.
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
from mascot.evaluation.scores import METRICS, REFERENCES, Scores, over_subjects
from mascot.experiments.executors import Executor, first_line, result_or_failure, run_serially
from mascot.experiments.subject_collection import CollectionSubject
from mascot.progress import OnEvent, RunFinished, RunsPlanned, ignore
from mascot.recipe.recipe import Recipe
from mascot.storage.json_record import JsonRecord
from mascot.storage.run_folder import Run

TrainSuiteRun = Callable[[Recipe, Path], Run]
"""Trains a recipe into a folder, or resumes a run that was started there."""

ScoreSuiteRun = Callable[[Run, "EvaluationRequest"], Scores]
"""Scores a run as a request says, and writes the scores into the run's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRequest:
    """How one run is scored."""

    templates: tuple[str, ...]
    live: bool
    images: int
    seed: int
    photos: Path
    """Folder of the photos that subject fidelity is measured on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to train every subject."""

    name: str
    """Name of its folder and of its row."""
    recipe: Callable[[CollectionSubject], Recipe]


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteRun:
    """One subject with one variant: what is trained, and how it is scored."""

    variant: str
    subject: str
    recipe: Recipe
    request: EvaluationRequest

    @property
    def label(self) -> str:
        """Name of the run in the terminal."""
        return f"{self.subject}, {self.variant}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedRun:
    """A run of a suite that failed, and why, in one sentence."""

    variant: str
    subject: str
    reason: str


class SubjectMean(BaseModel):
    """A metric's mean over subjects, with its bootstrap interval; one subject has no interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float
    low: float | None
    high: float | None
    subjects: int
    """Number of subjects that have the metric."""


class SuiteSummary(JsonRecord):
    """The means of a suite, as `suite.json` keeps them."""

    damaged = "{path} is damaged or was written by another version of mascot; run the suite again."
    absent = "{path} does not exist; run the suite first."

    version: Literal[1] = 1
    images: int
    seed: int
    prompts: int
    """Largest number of prompts of a subject."""
    encoders: dict[str, str]
    subjects: tuple[str, ...]
    """Subjects that the means are over: those that every variant has."""
    variants: dict[str, dict[str, SubjectMean]]
    """Variant to metric to mean; the metrics include the references (real photos, base model)."""
    failures: dict[str, str]
    """`variant/subject` to the reason of the failure."""


@dataclass(kw_only=True)
class SuiteScores:
    """The scores of all finished runs of a suite."""

    suite_runs: tuple[SuiteRun, ...]
    scores: dict[tuple[str, str], Scores] = field(default_factory=dict[tuple[str, str], Scores])
    """Variant and subject to scores."""
    failures: list[FailedRun] = field(default_factory=list[FailedRun])

    @property
    def variants(self) -> tuple[str, ...]:
        """The names of the variants, in their given order."""
        return tuple(dict.fromkeys(suite_run.variant for suite_run in self.suite_runs))

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subjects that every variant is scored on; only their means are comparable."""
        names = dict.fromkeys(suite_run.subject for suite_run in self.suite_runs)
        return tuple(name for name in names if all((variant, name) in self.scores for variant in self.variants))

    def of(self, variant: str) -> list[Scores]:
        """Return a variant's scores, subject by subject."""
        return [self.scores[variant, subject] for subject in self.subjects]

    def mean(self, variant: str, name: str) -> Interval | None:
        """Average a metric over the subjects, with its interval; None if no subject has it."""
        return over_subjects(self.of(variant), name)

    def summary(self) -> SuiteSummary:
        """Collect all means."""
        request = self.suite_runs[0].request
        names = [*METRICS, *(name for row in REFERENCES.values() for name in row.values())]
        means = {variant: {name: self._subject_mean(variant, name) for name in names} for variant in self.variants}
        return SuiteSummary(
            images=request.images,
            seed=request.seed,
            prompts=max(len(suite_run.request.templates) for suite_run in self.suite_runs),
            encoders=next((dict(scores.encoders) for scores in self.scores.values()), {}),
            subjects=self.subjects,
            variants={
                variant: {name: mean for name, mean in row.items() if mean is not None}
                for variant, row in means.items()
            },
            failures={f"{failure.variant}/{failure.subject}": failure.reason for failure in self.failures},
        )

    def _subject_mean(self, variant: str, name: str) -> SubjectMean | None:
        mean = self.mean(variant, name)
        count = sum(scores.values[name].value is not None for scores in self.of(variant))
        return None if mean is None else SubjectMean(mean=mean.mean, low=mean.low, high=mean.high, subjects=count)


@dataclass(frozen=True, slots=True)
class SuiteFolder:
    """Names the files of a suite."""

    folder: Path

    def run(self, suite_run: SuiteRun) -> Run:
        """The folder of one run."""
        return Run(self.folder / suite_run.variant / suite_run.subject)

    def traceback(self, suite_run: SuiteRun) -> Path:
        """The traceback of a run that failed in the code."""
        return self.folder / suite_run.variant / f"{suite_run.subject}.failure.txt"

    @property
    def summary(self) -> Path:
        """All means: see `SuiteSummary`."""
        return self.folder / "suite.json"

    @property
    def page(self) -> Path:
        """The page of tables and images."""
        return self.folder / "suite.html"


def plan_runs(
    subjects: Sequence[CollectionSubject],
    variants: Sequence[Variant],
    *,
    prompts: Mapping[bool, tuple[str, ...]],
    images: int,
    seed: int,
) -> tuple[SuiteRun, ...]:
    """Plan every subject with every variant.

    The order is subject by subject, so that a suite that is interrupted has whole rows. `prompts`
    maps liveness to the prompts.

    Raises:
        UserError: a recipe has mistakes, or two variants share a name.
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
    """Trains and scores one run of a suite, each only if it is not done yet."""

    files: SuiteFolder
    train_run: TrainSuiteRun
    score_run: ScoreSuiteRun
    encoders: Mapping[str, str]
    """Descriptions of the encoders; scores by other encoders are redone."""

    def __call__(self, suite_run: SuiteRun) -> Scores | str:
        """Complete a run and return its scores, or why that failed."""
        return result_or_failure(lambda: self.complete(suite_run), self.files.traceback(suite_run))

    def complete(self, suite_run: SuiteRun) -> Scores:
        """Train and score a run where that is not done.

        Raises:
            UserError: the folder holds a run of another recipe.
        """
        run = self.files.run(suite_run)
        if run.recipe.exists() and not suite_run.recipe.fits(Recipe.read(run.recipe)):
            raise UserError(
                f"{run.folder} was trained with other settings; give another --out, or the same settings as then."
            )
        if not (run.adapter.exists() and run.recipe.exists()):
            self.train_run(suite_run.recipe, run.folder)
        kept = self.read_scores(suite_run)
        return kept if kept is not None else self.score_run(run, suite_run.request)

    def read_scores(self, suite_run: SuiteRun) -> Scores | None:
        """Read the scores of a run; None if there are none for this request and these encoders."""
        run, request = self.files.run(suite_run), suite_run.request
        if not run.scores.exists():
            return None
        kept = Scores.read(run.scores)
        asked = tuple(prompt.template for prompt in kept.prompts), kept.live, kept.images, kept.seed
        same = asked == (request.templates, request.live, request.images, request.seed)
        return kept if same and all(kept.encoders.get(name) == line for name, line in self.encoders.items()) else None


def run_suite(
    suite_runs: Sequence[SuiteRun], job: SuiteJob, *, executor: Executor = run_serially, on_event: OnEvent = ignore
) -> SuiteScores:
    """Complete every run of a suite, and write the means of what is finished after each.

    Called again, an interrupted suite goes on and ends with the same scores. Several processes may
    work on different subjects in one folder. Events: `RunsPlanned`, `RunFinished`.

    Raises:
        UserError: no run could be scored.
    """
    suite = SuiteScores(suite_runs=tuple(suite_runs))
    on_event(RunsPlanned(runs=len(suite_runs)))
    for suite_run, result in executor(job, suite_runs):
        failure = ""
        if isinstance(result, Scores):
            suite.scores[suite_run.variant, suite_run.subject] = result
        else:
            failure = result if isinstance(result, str) else f"its worker was lost: {first_line(result)}"
            suite.failures.append(FailedRun(variant=suite_run.variant, subject=suite_run.subject, reason=failure))
        on_event(RunFinished(name=suite_run.label, scores={}, failure=failure))
        if suite.scores:  # a suite without any score leaves no file behind
            with FileLock(job.files.folder / "lock"):  # several processes may work in one folder
                suite.summary().write(job.files.summary)
    if not suite.scores:
        raise UserError(f"nothing could be scored: {suite.failures[0].reason}")
    return suite
