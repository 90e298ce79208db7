"""How far a mean can be trusted: percentile bootstraps over rows, and what may be called different.

A row is a subject, with its pictures averaged before: pictures of one subject are alike, and to resample them would promise a precision
that the next subject breaks. Only where there is one subject may a row be a prompt, and the table has to say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
"""Times that the rows are drawn again."""


_AT_ONCE = 2**22  # numbers in memory for one block of resamples: 32 MiB


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over rows and the interval of its bootstrapped values; without bounds where there is only one row."""

    mean: float
    low: float | None = None
    high: float | None = None

    def describe(self, digits: int = 3) -> str:
        """Write it as a table has it: `0.612 (0.580 to 0.640)`, or `0.612 (one row: no interval)`."""
        mean = f"{self.mean:.{digits}f}"
        if self.low is None or self.high is None:
            return f"{mean} (one row: no interval)"
        return f"{mean} ({self.low:.{digits}f} to {self.high:.{digits}f})"

    @property
    def nonzero(self) -> bool:
        """Whether 0 lies outside the bounds: what a difference needs to be called one. False without bounds."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def bootstrap(values: Sequence[float], *, seed: int | np.random.Generator, level: float = 0.95) -> Interval | None:
    """Average the rows, and bound the mean by its percentile bootstrap (Efron 1979) of 10,000 resamples: the same for the same seed.

    A bound is a quantile of the resampled means, of which `level` lie between both. One row has no bounds; no row has no mean, and gives
    None. Rows are given as they are: one whose score could not be computed is left out by the caller, who says so.

    Raises:
        ValueError: a value is not finite, or `level` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"a level of {level} is not between 0 and 1")
    rows = np.asarray(values, dtype=np.float64)
    if not np.isfinite(rows).all():
        raise ValueError("a row is not a finite number; leave it out, and say so")
    if not len(rows):
        return None
    if len(rows) == 1:
        return Interval(float(rows[0]))
    low, high = np.quantile(_means(rows, np.random.default_rng(seed)), ((1 - level) / 2, (1 + level) / 2))
    return Interval(float(rows.mean()), float(low), float(high))


def paired(
    one: Sequence[float], other: Sequence[float], *, seed: int | np.random.Generator, level: float = 0.95
) -> Interval | None:
    """Average one - other row by row, with the interval of that difference: what both have in common, such as a hard subject, cancels.

    Row i of both belongs together. Like `bootstrap`, one row has no bounds, and none gives None.

    Raises:
        ValueError: the numbers of rows differ, a value is not finite, or `level` is not between 0 and 1.
    """
    if len(one) != len(other):
        raise ValueError(f"{len(one)} and {len(other)} rows are not pairs")
    return bootstrap([a - b for a, b in zip(one, other, strict=True)], seed=seed, level=level)


def overlap(one: Interval, other: Interval) -> bool:
    """Whether two intervals share a value, so that the two may not be called different. True where one has no bounds: nothing is known.

    It is stricter than `paired`, which is to be preferred where the rows are the same subjects.
    """
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return True
    return one.low <= other.high and other.low <= one.high


def _means(rows: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The means of all resamples, in blocks, so that thousands of rows fit into memory."""
    block = max(1, _AT_ONCE // len(rows))
    counts = [min(block, RESAMPLES - start) for start in range(0, RESAMPLES, block)]
    return np.concatenate(
        [rows[generator.integers(len(rows), size=(count, len(rows)))].mean(axis=1) for count in counts]
    )
