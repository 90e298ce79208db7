"""The leaderboard of a sweep: scores with intervals, and ranks that respect the intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from mascot.errors import UserError, suggest
from mascot.evaluation.bootstrap import Interval, bootstrap, intervals_overlap
from mascot.evaluation.scores import METRICS, PER_PROMPT, SEED, Scores, prompt_values
from mascot.generation.image_grid import format_value
from mascot.storage.json_record import JsonRecord

MetricValues = Mapping[str, float | Sequence[float] | None]
"""Metric to a number, to one number for each prompt that has it, or to None if not computed."""


def metric_values(scores: Scores) -> MetricValues:
    """Collect the metrics of an evaluation, by prompt if a metric has that, without references."""
    return {
        metric: prompt_values(scores, metric) if metric in PER_PROMPT else scores.values[metric].value
        for metric in METRICS
    }


class Measurement(BaseModel):
    """One metric of one run: the mean and its interval; all None if it could not be computed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float | None = None
    low: float | None = None
    high: float | None = None
    rows: int = 0
    """Prompts that the mean is over; 0 for a metric that has no prompts."""

    @classmethod
    def of(cls, values: float | Sequence[float] | None) -> Self:
        """Average the finite values, and bootstrap the mean's interval.

        All intervals are bootstrapped with the same seed, so equal values have equal intervals.
        """
        if values is None:
            return cls()
        if not isinstance(values, Sequence):
            return cls(mean=float(values)) if math.isfinite(values) else cls()
        rows = [float(row) for row in values if math.isfinite(row)]
        interval = bootstrap(rows, seed=SEED)
        return cls(mean=interval.mean, low=interval.low, high=interval.high, rows=len(rows)) if interval else cls()

    @property
    def interval(self) -> Interval | None:
        """The mean with its bounds; None if there is no mean."""
        return None if self.mean is None else Interval(self.mean, self.low, self.high)

    def describe(self) -> str:
        """Write the cell of a table: `0.612 (0.580 to 0.640)`, `0.612`, or `not computed`."""
        if self.interval is None:
            return "not computed"
        return self.interval.describe() if self.rows else f"{self.interval.mean:.3f}"


class Entry(BaseModel):
    """One run of a sweep: what was changed, its scores and its rank."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Name of its folder."""
    changes: dict[str, Any]
    """Dotted key to the value that this run has."""
    rank: int | None = None
    """Rank from 1; None if the ranking metric is missing."""
    behind: tuple[str, ...] = ()
    """Names of runs that are clearly better: their whole interval is better than this one's."""
    scores: dict[str, Measurement] = {}
    failure: str | None = None
    """Why the run failed, in one sentence."""

    @property
    def label(self) -> str:
        """The changes, as `key=value, key=value`."""
        return ", ".join(f"{key}={format_value(value)}" for key, value in self.changes.items())


class Leaderboard(JsonRecord):
    """The runs of a sweep, best first; then those without the metric, then those that failed.

    Runs whose intervals overlap share a rank, and so do runs that are tied through others. Within a
    rank, `behind` still names the runs that are clearly better.
    """

    damaged = "{path} is no leaderboard of this version of mascot; run the sweep again: finished runs are kept."

    version: Literal[1] = 1
    by: str
    """Name of the ranking metric."""
    lowest: bool = False
    """Whether low values are better."""
    scored_by: str = ""
    """Description of what scored the runs."""
    keys: tuple[str, ...]
    """The settings that were varied."""
    entries: tuple[Entry, ...]

    @classmethod
    def of(
        cls, entries: Sequence[Entry], *, by: str, keys: Sequence[str], lowest: bool = False, scored_by: str = ""
    ) -> Self:
        """Rank runs; those with equal means stay in their order.

        Raises:
            UserError: runs were scored, but none of them by this metric.
        """
        known = dict.fromkeys(metric for entry in entries for metric in entry.scores)
        if known and by not in known:
            raise UserError(f"nothing was scored by {by!r}{suggest(by, known)}")
        sign = -1 if lowest else 1
        scored = [
            entry
            for entry in entries
            if entry.failure is None and by in entry.scores and entry.scores[by].mean is not None
        ]
        scored.sort(key=lambda entry: -sign * (entry.scores[by].mean or 0.0))
        others = [entry for entry in entries if entry not in scored]
        others.sort(key=lambda entry: entry.failure is not None)
        return cls(
            by=by, lowest=lowest, scored_by=scored_by, keys=tuple(keys), entries=(*rank_entries(scored, by), *others)
        )

    @property
    def best(self) -> tuple[Entry, ...]:
        """The runs of rank 1, which their scores do not tell apart."""
        return tuple(entry for entry in self.entries if entry.rank == 1)

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics, the ranking one first."""
        return tuple(dict.fromkeys([self.by, *(metric for entry in self.entries for metric in entry.scores)]))


def rank_entries(entries: Sequence[Entry], by: str) -> list[Entry]:
    """Give entries their ranks, from the best on.

    A new rank begins only where no later interval overlaps with any earlier one.
    """
    intervals = [entry.scores[by].interval for entry in entries]
    tied = [
        [one is not None and other is not None and intervals_overlap(one, other) for other in intervals]
        for one in intervals
    ]
    ranked: list[Entry] = []
    rank = 1
    for i, entry in enumerate(entries):
        # A wide interval further down may tie those in between.
        if i and not any(tied[before][after] for before in range(i) for after in range(i, len(entries))):
            rank = i + 1
        behind = tuple(entries[before].name for before in range(i) if not tied[before][i])
        ranked.append(entry.model_copy(update={"rank": rank, "behind": behind}))
    return ranked
