"""What long jobs report while they run: one frozen dataclass for each event.

The terminal, a notebook or a web page subscribes with one callable. Events hold plain values alone (numbers, text, paths),
so that they can cross a process or become JSON. Who emits an event is said in its docstring.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events; it is never emitted itself."""


OnEvent = Callable[[Event], None]
"""A subscriber: it is called with each event, in order, in the process that works."""


def ignore(event: Event) -> None:
    """Subscribe without doing anything."""
    del event


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotosRead(Event):
    """Training has read the photos."""

    used: tuple[str, ...]
    """Printable paths of the photos, in order."""
    refused: tuple[str, ...]
    """For each file that is not used, a sentence that says why."""
    notes: tuple[str, ...]
    """What was done to photos, such as turning them upright."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSearchStarted(Event):
    """Training searches an identifier token in a base for the first time."""

    images: int
    """Images that the search generates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassImagesStarted(Event):
    """Training is about to read or generate class images; not emitted where none are needed."""

    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsResolved(Event):
    """Training knows its effective settings and its length; the next events are steps."""

    rows: tuple[tuple[str, str], ...]
    """Name and value of each effective setting."""
    steps: int
    """Optimizer steps of the whole run."""
    selection_images: int
    """Images that checkpoint selection and knob search generate at most; 0 where neither runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTrained(Event):
    """Training has finished one optimizer step."""

    step: int
    """Steps done so far, from 1."""
    loss: float
    """Weighted loss of the step."""
    subject_loss: float
    """Mean squared error on the subject's examples alone, unweighted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointChosen(Event):
    """Training has kept a checkpoint."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobsChosen(Event):
    """Training recommends inference knobs."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationStarted(Event):
    """Evaluation, diagnosis or a token search is about to generate images, or to find them in a cache."""

    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageGenerated(Event):
    """One image of the last `GenerationStarted` is there."""

    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringStarted(Event):
    """Evaluation is about to score images."""

    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingSummary:
    """One failure mode of a diagnosis, with its first remedy."""

    severity: Literal["serious", "warning", "note"]
    failure_mode: str
    remedy: str
    """The remedy that is likeliest to help; empty where none is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnosisFinished(Event):
    """A diagnosis is written."""

    verdict: str
    """The diagnosis in one sentence."""
    findings: tuple[FindingSummary, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldStarted(Event):
    """Cross-validation holds out the next photo."""

    photo: str
    """Name of the photo that is held out."""
    number: int
    """Position of the fold, from 1."""
    folds: int
    steps: int
    """Optimizer steps that training the fold takes; 0 where it is trained already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsPlanned(Event):
    """A sweep or a suite knows how many runs it consists of."""

    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(Event):
    """One run of a sweep or a suite has ended."""

    name: str
    """What the run is called in tables."""
    scores: Mapping[str, float]
    """Metric to mean; empty where the run failed, and in a suite, which averages at the end."""
    failure: str = ""
    """Why it failed, in one sentence; empty where it did not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileWritten(Event):
    """A result is on disk."""

    kind: Literal["report", "leaderboard", "grid", "page"]
    path: Path
