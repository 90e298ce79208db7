"""Laws of the intervals: exact for known bounds, the same for the same seed, none for one row."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mascot.evaluation import bootstrap as module
from mascot.evaluation.bootstrap import RESAMPLES, Interval, bootstrap, intervals_overlap, paired_bootstrap

numbers = st.floats(-1, 1, allow_nan=False)
rows = st.lists(numbers, min_size=2, max_size=12)


def bounds(interval: Interval | None) -> tuple[float, float]:
    assert interval is not None
    assert interval.low is not None
    assert interval.high is not None
    return interval.low, interval.high


@given(values=rows)
def test_the_mean_lies_between_its_bounds_and_they_among_the_rows(values: list[float]) -> None:
    interval = bootstrap(values, seed=0)
    low, high = bounds(interval)
    assert interval is not None
    assert interval.mean == pytest.approx(math.fsum(values) / len(values), abs=1e-12)
    assert min(values) - 1e-12 <= low <= high <= max(values) + 1e-12


@given(values=rows, shift=numbers)
def test_bounds_move_and_stretch_with_the_rows(values: list[float], shift: float) -> None:
    low, high = bounds(bootstrap(values, seed=0))
    assert bounds(bootstrap([3 * value + shift for value in values], seed=0)) == pytest.approx(
        (3 * low + shift, 3 * high + shift), abs=1e-9
    )


def test_two_rows_are_bounded_by_themselves() -> None:
    assert bounds(bootstrap([0.2, 0.6], seed=0)) == (0.2, 0.6)  # a quarter of the resamples is one row twice
    assert bounds(bootstrap([0.2, 0.6], seed=0, confidence=0.4)) == pytest.approx((0.4, 0.4))  # half of them is both


def test_bounds_are_quantiles_of_all_resamples_there_are() -> None:
    values = [0.1, 0.2, 0.4, 0.8, 0.9]
    every = np.array([np.mean(resample) for resample in itertools.product(values, repeat=len(values))])
    assert bounds(bootstrap(values, seed=0)) == pytest.approx(tuple(np.quantile(every, (0.025, 0.975))), abs=0.015)
    assert bounds(bootstrap(values, seed=0, confidence=0.5)) == pytest.approx(
        tuple(np.quantile(every, (0.25, 0.75))), abs=0.015
    )


def test_an_interval_holds_the_true_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    found = [bounds(bootstrap(generator.normal(size=30).tolist(), seed=n)) for n in range(300)]
    assert (
        0.90 <= np.mean([low <= 0 <= high for low, high in found]) <= 0.98
    )  # percentile bootstraps of 30 rows hold 94 %


def test_the_seed_decides() -> None:
    values = [0.1, 0.5, 0.2, 0.9, 0.4, 0.41]
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1) == bootstrap(values, seed=np.random.default_rng(1))
    assert bootstrap(values, seed=1) != bootstrap(values, seed=2)


def test_blocks_change_nothing_but_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=50).tolist()
    whole = bounds(bootstrap(values, seed=0))
    monkeypatch.setattr(module, "_NUMBERS_IN_MEMORY", 333 * 50)
    sizes: list[int] = []
    quantile = np.quantile

    def count(means: np.ndarray, at: tuple[float, float]) -> np.ndarray:
        sizes.append(len(means))
        return quantile(means, at)

    monkeypatch.setattr(np, "quantile", count)
    assert bounds(bootstrap(values, seed=0)) == pytest.approx(whole, abs=0.02)
    assert sizes == [RESAMPLES]


def test_one_row_has_no_bounds_and_none_has_no_mean() -> None:
    assert bootstrap([0.5], seed=0) == Interval(0.5, None, None)
    assert bootstrap([], seed=0) is None
    assert paired_bootstrap([0.75], [0.25], seed=0) == Interval(0.5, None, None)
    assert paired_bootstrap([], [], seed=0) is None
    assert Interval(0.5).describe() == "0.500 (one row: no interval)"
    assert Interval(0.5, 0.25, 0.75).describe(2) == "0.50 (0.25 to 0.75)"


def test_pairs_cancel_what_both_share() -> None:
    hard = [0.1, 0.9, 0.4, 0.6, 0.2]
    better = [value + 0.05 for value in hard]
    difference = paired_bootstrap(better, hard, seed=0)
    assert difference is not None
    assert (difference.mean, *bounds(difference)) == pytest.approx((0.05,) * 3)
    assert difference.nonzero
    one, other = bootstrap(better, seed=0), bootstrap(hard, seed=0)
    assert one is not None
    assert other is not None
    assert intervals_overlap(one, other)


@given(one=st.lists(numbers, min_size=5, max_size=5), other=st.lists(numbers, min_size=5, max_size=5))
def test_pairs_have_a_direction(one: list[float], other: list[float]) -> None:
    forth, back = paired_bootstrap(one, other, seed=0), paired_bootstrap(other, one, seed=0)
    assert forth is not None
    assert back is not None
    assert forth.mean == pytest.approx(-back.mean, abs=1e-12)
    low, high = bounds(back)
    assert bounds(forth) == pytest.approx((-high, -low), abs=1e-9)


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        (Interval(0.2, 0.1, 0.3), Interval(0.4, 0.3, 0.5), True),
        (Interval(0.2, 0.1, 0.3), Interval(0.4, 0.31, 0.5), False),
        (Interval(0.2, 0.0, 0.9), Interval(0.4, 0.3, 0.5), True),
        (Interval(0.2), Interval(0.9, 0.8, 1.0), True),
        (Interval(0.2), Interval(0.9), True),
    ],
)
def test_intervals_without_bounds_overlap(one: Interval, other: Interval, *, shared: bool) -> None:
    assert intervals_overlap(one, other) is intervals_overlap(other, one) is shared


@pytest.mark.parametrize(
    ("interval", "nonzero"),
    [
        (Interval(0.2, 0.1, 0.3), True),
        (Interval(-0.2, -0.3, -0.1), True),
        (Interval(0.2, -0.1, 0.3), False),
        (Interval(0.2, 0.0, 0.3), False),
        (Interval(0.2), False),
    ],
)
def test_a_difference_is_significant_where_its_interval_excludes_zero(interval: Interval, *, nonzero: bool) -> None:
    assert interval.nonzero is nonzero


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="not a finite number"):
        bootstrap([0.1, bad], seed=0)
    with pytest.raises(ValueError, match="not a finite number"):
        bootstrap([bad], seed=0)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_a_confidence_is_a_share(confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        bootstrap([0.1, 0.2], seed=0, confidence=confidence)


def test_unequal_rows_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="2 and 3 rows"):
        paired_bootstrap([0.1, 0.2], [0.1, 0.2, 0.3], seed=0)
