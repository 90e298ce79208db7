"""Confidence intervals of means: percentile bootstraps over rows, and paired differences.

A row is a subject whose images were averaged first. Images of one subject resemble each other, so
resampling images would give intervals that are too narrow for the next subject. A row may be a
prompt only where there is one subject, and the table has to say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
"""Number of bootstrap resamples."""

_NUMBERS_IN_MEMORY = 2**22  # of one block of resamples: 32 MiB


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over rows with the bounds of its bootstrap interval; one row alone has no bounds."""

    mean: float
    low: float | None = None
    high: float | None = None

    def describe(self, digits: int = 3) -> str:
        """Format it for a table: `0.612 (0.580 to 0.640)`, or `0.612 (one row: no interval)`."""
        mean = f"{self.mean:.{digits}f}"
        if self.low is None or self.high is None:
            return f"{mean} (one row: no interval)"
        return f"{mean} ({self.low:.{digits}f} to {self.high:.{digits}f})"

    @property
    def nonzero(self) -> bool:
        """Whether 0 lies outside the bounds, so that a difference is significant.

        It is False where there are no bounds.
        """
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def bootstrap(values: Sequence[float], *, seed: int | np.random.Generator, confidence: float = 0.95) -> Interval | None:
    """Average the rows and bound the mean by a percentile bootstrap (Efron 1979).

    There are 10,000 resamples, and the same seed gives the same interval. The bounds are quantiles
    of the resampled means; the share `confidence` of them lies between both. One row has no bounds.
    Without rows the result is None. The caller leaves out rows whose score could not be computed,
    and says so.

    Raises:
        ValueError: a value is not finite, or `confidence` is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence of {confidence} is not between 0 and 1")
    rows = np.asarray(values, dtype=np.float64)
    if not np.isfinite(rows).all():
        raise ValueError("a row is not a finite number; leave it out, and say so")
    if not len(rows):
        return None
    if len(rows) == 1:
        return Interval(float(rows[0]))
    tails = (1 - confidence) / 2, (1 + confidence) / 2
    low, high = np.quantile(_resampled_means(rows, np.random.default_rng(seed)), tails)
    return Interval(float(rows.mean()), float(low), float(high))


def paired_bootstrap(
    one: Sequence[float],
    other: Sequence[float],
    *,
    seed: int | np.random.Generator,
    confidence: float = 0.95,
) -> Interval | None:
    """Average `one` - `other` row by row, with the bootstrap interval of that mean difference.

    Row i of both belongs together. What both rows share, such as a hard subject, cancels. As in
    `bootstrap`, one row has no bounds, and no row gives None.

    Raises:
        ValueError: the numbers of rows differ, a value is not finite, or `confidence` is not
            between 0 and 1.
    """
    if len(one) != len(other):
        raise ValueError(f"{len(one)} and {len(other)} rows are not pairs")
    differences = [a - b for a, b in zip(one, other, strict=True)]
    return bootstrap(differences, seed=seed, confidence=confidence)


def intervals_overlap(one: Interval, other: Interval) -> bool:
    """Whether two intervals share a value, so that the two means do not differ significantly.

    It is True where one has no bounds. This test is stricter than `paired_bootstrap`, which is
    preferable where the rows of both are the same subjects.
    """
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return True
    return one.low <= other.high and other.low <= one.high


def _resampled_means(rows: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Compute the means of all resamples, in blocks, so that thousands of rows fit into memory."""
    block = max(1, _NUMBERS_IN_MEMORY // len(rows))
    counts = [min(block, RESAMPLES - start) for start in range(0, RESAMPLES, block)]
    return np.concatenate(
        [rows[generator.integers(len(rows), size=(count, len(rows)))].mean(axis=1) for count in counts]
    )
