"""One table of a sweep's runs: their scores with intervals, and ranks that claim no more than the intervals allow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from mascot.errors import UserError, suggest
from mascot.evaluation.bootstrap import Interval, bootstrap, overlap
from mascot.evaluation.scores import METRICS, PER_PROMPT, SEED, Scores, prompt_values
from mascot.generation.image_grid import written
from mascot.storage.json_record import JsonRecord

MetricValues = Mapping[str, float | Sequence[float] | None]
"""Metric -> a number, one number for each prompt that has it, or None where it could not be computed."""


def metric_values(scores: Scores) -> MetricValues:
    """What `mascot evaluate` found, prompt by prompt where a metric has that; the untouched base and the real photos stay out."""
    return {
        metric: prompt_values(scores, metric) if metric in PER_PROMPT else scores.values[metric].value
        for metric in METRICS
    }


class Measurement(BaseModel):
    """One metric of one run: the mean, and its interval where it has rows; all None where it could not be computed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float | None = None
    low: float | None = None
    high: float | None = None
    rows: int = 0
    """Prompts that it is the mean of; 0 for a number that came as one."""

    @classmethod
    def of(cls, values: float | Sequence[float] | None) -> Self:
        """Sum up what was measured; rows that are not finite are left out, and `rows` says how many are left.

        Every interval is bootstrapped from the same seed, so that equal rows have equal intervals.
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
        """The mean with its bounds."""
        return None if self.mean is None else Interval(self.mean, self.low, self.high)

    def describe(self) -> str:
        """Write it as a table has it: `0.612 (0.580 to 0.640)`, `0.612`, or `not computed`."""
        if self.interval is None:
            return "not computed"
        return self.interval.describe() if self.rows else f"{self.interval.mean:.3f}"


class Entry(BaseModel):
    """One run of a sweep."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Of its folder."""
    changes: dict[str, Any]
    """Dotted key -> the value that this run has."""
    rank: int | None = None
    """From 1; None where the metric is missing."""
    behind: tuple[str, ...] = ()
    """Runs that are clearly better: their interval lies wholly on the better side of this one's."""
    scores: dict[str, Measurement] = {}
    failure: str | None = None
    """Why the run came to nothing, in one sentence."""

    @property
    def label(self) -> str:
        """What is different about it."""
        return ", ".join(f"{key}={written(value)}" for key, value in self.changes.items())


class Leaderboard(JsonRecord):
    """A sweep's runs, best first; those without the metric come after, and those that failed last.

    Runs whose intervals overlap are not called different: they share a rank, and so do runs that are tied through others. A run's
    `behind` tells what is clear all the same.
    """

    damaged = "{path} is no leaderboard of this version of mascot; run the sweep again: finished runs are kept."

    version: Literal[1] = 1
    by: str
    """The metric that ranks."""
    lowest: bool = False
    """Whether a low value is the good one."""
    scored_by: str = ""
    """What measured."""
    keys: tuple[str, ...]
    """What was varied."""
    entries: tuple[Entry, ...]

    @classmethod
    def of(
        cls, entries: Sequence[Entry], *, by: str, keys: Sequence[str], lowest: bool = False, scored_by: str = ""
    ) -> Self:
        """Rank runs, given in the order in which equals are listed.

        Raises:
            UserError: runs were scored, and none of them by this metric.
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
        return cls(by=by, lowest=lowest, scored_by=scored_by, keys=tuple(keys), entries=(*ranked(scored, by), *others))

    @property
    def best(self) -> tuple[Entry, ...]:
        """The runs of rank 1: no number here tells them apart."""
        return tuple(entry for entry in self.entries if entry.rank == 1)

    @property
    def metrics(self) -> tuple[str, ...]:
        """All that was measured, the ranking metric first."""
        return tuple(dict.fromkeys([self.by, *(metric for entry in self.entries for metric in entry.scores)]))


def ranked(entries: Sequence[Entry], by: str) -> list[Entry]:
    """Give entries, best first, their ranks: a new rank begins where nothing after it overlaps with anything before it."""
    intervals = [entry.scores[by].interval for entry in entries]
    tied = [[one is not None and other is not None and overlap(one, other) for other in intervals] for one in intervals]
    done: list[Entry] = []
    rank = 1
    for i, entry in enumerate(entries):
        # A wide interval further down may tie what lies between: only a gap that nothing bridges parts two ranks.
        if i and not any(tied[before][after] for before in range(i) for after in range(i, len(entries))):
            rank = i + 1
        behind = tuple(entries[before].name for before in range(i) if not tied[before][i])
        done.append(entry.model_copy(update={"rank": rank, "behind": behind}))
    return done
