"""The rules that choose a checkpoint, beside the package's own: pure arithmetic on losses, steps and scores."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mascot.evaluation.selection.criterion import SelectionScore, ValidationResult
from mascot.generation.knobs import Knobs

STUDY: Mapping[str, float] = {"guidance": 9.0, "unet_scale": 0.7, "text_scale": 0.15}
"""The knobs of the study that this project grew from: the middle of what its author turned them to by eye."""
LOWER = 3.0
"""The guidance that a search finds for most subjects, known only afterwards: how much a better default alone would be worth."""
RULES = (
    "fixed steps, study's knobs",
    "fixed steps",
    "fixed steps, guidance 3",
    "DVAR",
    "ours, checkpoint alone",
    "ours",
    "oracle, checkpoint alone",
    "oracle",
)


def dvar(losses: Sequence[float], *, window: int, threshold: float) -> int | None:
    """Find the place where DVAR stops (Voronov et al. 2023, arXiv 2302.04841), or None where it does not.

    The losses are those of one fixed batch with fixed noise at fixed levels, one evaluation after the other. It stops at the first place
    where the last `window` losses vary less than `threshold` times as much as all losses so far (population variances); losses that
    never moved are flat.

    Raises:
        ValueError: the window holds fewer than two losses, or the threshold is not between 0 and 1.
    """
    if window < 2 or not 0 < threshold < 1:
        raise ValueError(f"a window of {window} and a threshold of {threshold} decide nothing")
    for end in range(window, len(losses) + 1):
        recent, all_so_far = statistics.pvariance(losses[end - window : end]), statistics.pvariance(losses[:end])
        if recent < threshold * all_so_far or all_so_far == 0:
            return end - 1
    return None


def kept_from(step: int | None, marks: Sequence[int]) -> int:
    """The first kept step at or after one that a rule stopped at; the last where it never stopped, or later."""
    return next((mark for mark in sorted(marks) if step is not None and mark >= step), max(marks))


def even_marks(steps: int, count: int, fixed: int) -> tuple[int, ...]:
    """Steps at which an adapter is kept: evenly up to the last, and the fixed one where training comes to it."""
    evenly = {max(1, round(steps * (i + 1) / count)) for i in range(count)}
    return tuple(sorted(evenly | ({fixed} if fixed <= steps else set())))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a rule decides."""

    step: int
    knobs: Knobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What an answer comes to on the report's prompts."""

    answer: Answer
    measured: ValidationResult
    score: SelectionScore


def best_of(worths: Sequence[Worth]) -> Worth:
    """The oracle's choice: the highest score; of equal ones the first."""
    return max(worths, key=lambda worth: worth.score.total)
