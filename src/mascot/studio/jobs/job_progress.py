"""How far a job is, from its events: its part, its share, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from mascot.progress import (
    AdapterReadBack,
    CheckpointChosen,
    ClassImagesStarted,
    DiagnosisFinished,
    Event,
    FileWritten,
    GenerationStarted,
    ImageGenerated,
    KnobsChosen,
    PhotosRead,
    SettingsResolved,
    StepTrained,
    TokenSearchStarted,
)
from mascot.storage.event_log import LoggedEvent
from mascot.studio.jobs.job import Job

PARTS: Final[Mapping[type[Event], str]] = {
    PhotosRead: "loading",
    TokenSearchStarted: "token",
    ClassImagesStarted: "class_images",
    SettingsResolved: "training",
    StepTrained: "training",
    CheckpointChosen: "choosing",
    AdapterReadBack: "choosing",
    KnobsChosen: "report",
    GenerationStarted: "diagnosis",
    ImageGenerated: "diagnosis",
    DiagnosisFinished: "report",
    FileWritten: "report",
}
"""Event -> the part of a training that it belongs to or begins."""
RECENT: Final = 40
"""Steps over which the speed is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a job is."""

    part: str
    """A key of the words under `part`."""
    step: int
    steps: int
    """0 where the length is not known yet."""
    left: float | None
    """Seconds of training that are left, as measured; None where nothing is measured."""
    loss: float | None
    events: tuple[Event, ...]

    @property
    def share(self) -> float | None:
        """How much of the steps is done; None where that is not known."""
        return min(1.0, self.step / self.steps) if self.steps and self.part == "training" else None


def progress_of(log: Sequence[LoggedEvent], job: Job) -> Progress:
    """Read a job's progress from its events."""
    events = tuple(logged.event for logged in log)
    part = "waiting" if job.state == "queued" else "starting"
    steps, trained = 0, list[tuple[float, StepTrained]]()
    for logged in log:
        if not (part == "token" and isinstance(logged.event, GenerationStarted | ImageGenerated)):
            part = PARTS.get(type(logged.event), part)
        if isinstance(logged.event, SettingsResolved):
            steps = logged.event.steps
        elif isinstance(logged.event, StepTrained):
            trained.append((logged.at, logged.event))
    last = trained[-1][1] if trained else None
    left = seconds_left(trained, steps) if job.state == "running" and part == "training" else None
    return Progress(
        part=part,
        step=last.step if last else 0,
        steps=steps,
        left=left,
        loss=last.subject_loss if last else None,
        events=events,
    )


def seconds_left(trained: Sequence[tuple[float, StepTrained]], steps: int) -> float | None:
    """Estimate the rest of the training by the speed of the last steps, by their median."""
    recent = trained[-RECENT:]
    gaps = sorted(after[0] - before[0] for before, after in pairwise(recent))
    if not gaps:
        return None
    passed = time.time() - recent[-1][0]
    return max(0.0, gaps[len(gaps) // 2] * (steps - recent[-1][1].step) - min(passed, gaps[-1]))
