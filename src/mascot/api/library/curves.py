"""What a run measured while it trained: the loss of each step, and each look at a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mascot.errors import UserError
from mascot.evaluation.selection.validation import read_selector
from mascot.progress import Event, StepTrained
from mascot.storage.run_folder import Run

REACH = 0.04
"""The smoothed loss averages over this share of the steps on either side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The validation of one checkpoint, by parts of its score in 0..1."""

    step: int
    likeness: float
    """0 as the base model, 1 as real photos."""
    prompt: float
    """Prompt fidelity: 0 as noise, 1 as the base model."""
    copying: float
    """How much nearer images are to a training photo than photos are to each other."""
    total: float


def looks_of(run: Run) -> list[Look]:
    """Read the validations of a run so far; there may be none, even of a run that trains."""
    if not run.selection.exists():
        return []
    try:
        results = read_selector(run.selection).results
    except UserError:
        return []
    return [
        Look(
            step=one.step,
            likeness=one.score.likeness_gain,
            prompt=one.score.prompt_kept,
            copying=one.score.copying,
            total=one.score.total,
        )
        for one in results
    ]


def losses_of(run: Run, events: Sequence[Event] = ()) -> list[tuple[int, float]]:
    """Return step and loss on the subject of each step, in order.

    A step that was trained twice, after a crash, counts as it was trained last. The step log is
    written in blocks, so the events of a job add what it does not hold yet.
    """
    losses = {int(row["step"]): float(row["subject_loss"]) for row in run.read_steps()}
    losses |= {event.step: event.subject_loss for event in events if isinstance(event, StepTrained)}
    return [(step, loss) for step, loss in sorted(losses.items()) if math.isfinite(loss)]


def smooth(losses: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Average each loss with its neighbors, up to `REACH` of all on either side."""
    reach = max(1, round(REACH * len(losses)))
    sums = [0.0]
    for _, loss in losses:
        sums.append(sums[-1] + loss)
    spans = [(max(0, i - reach), min(len(losses), i + reach + 1)) for i in range(len(losses))]
    return [
        (step, (sums[last] - sums[first]) / (last - first))
        for (step, _), (first, last) in zip(losses, spans, strict=True)
    ]
