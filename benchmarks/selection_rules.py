"""Rules that choose a checkpoint, to compare with mascot's own."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mascot.evaluation.selection.criterion import SelectionScore, ValidationResult
from mascot.generation.knobs import Knobs

STUDY_KNOBS: Mapping[str, float] = {"guidance": 11.8, "unet_scale": 0.5, "text_scale": 0.1}
"""The knobs of the study that this project grew from, which its author chose by eye.

The scales are those of its good images, with a guidance scale of 11 to 13.8, most often 11.8. Two
of its nine prompts have the scales 0.8 and 0.2, and 0.9 and 0.1.
"""
LOWER_GUIDANCE = 3.0
"""The guidance scale that the search finds for most subjects.

It is known only afterwards; its row shows what a better default alone would be worth.
"""
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
    """Return the index of the loss at which DVAR stops, or None if it does not stop.

    DVAR (Voronov et al. 2023, arXiv 2302.04841) stops at the first loss where the last `window`
    losses vary less than `threshold` times as much as all losses so far, by population variances.
    Losses that never changed count as flat.

    Args:
        losses: losses of one fixed batch with fixed noise and timesteps, one for each evaluation.
        window: number of recent losses, at least 2.
        threshold: share of the variance, between 0 and 1.

    Raises:
        ValueError: the window or the threshold is out of range.
    """
    if window < 2 or not 0 < threshold < 1:
        raise ValueError(f"a window of {window} and a threshold of {threshold} decide nothing")
    for end in range(window, len(losses) + 1):
        recent, all_so_far = statistics.pvariance(losses[end - window : end]), statistics.pvariance(losses[:end])
        if recent < threshold * all_so_far or all_so_far == 0:
            return end - 1
    return None


def kept_from(step: int | None, marks: Sequence[int]) -> int:
    """Return the first kept step at or after the one where a rule stopped; otherwise the last."""
    return next((mark for mark in sorted(marks) if step is not None and mark >= step), max(marks))


def even_marks(steps: int, count: int, fixed: int) -> tuple[int, ...]:
    """Return the steps at which an adapter is kept.

    They are `count` even parts of `steps`, and `fixed` if training reaches it.
    """
    evenly = {max(1, round(steps * (i + 1) / count)) for i in range(count)}
    return tuple(sorted(evenly | ({fixed} if fixed <= steps else set())))


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The checkpoint and knobs that a rule chooses."""

    step: int
    knobs: Knobs


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredChoice:
    """A choice and its score on the report's prompts."""

    choice: Choice
    result: ValidationResult
    score: SelectionScore


def best_of(choices: Sequence[ScoredChoice]) -> ScoredChoice:
    """Return the choice with the highest score, the first of equal ones; this is the oracle's."""
    return max(choices, key=lambda scored: scored.score.total)
