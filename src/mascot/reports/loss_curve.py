"""TODO reports.loss_curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


def number(value: float) -> str:
    """Write a number without needless digits."""
    return f"{value:.6g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A mark on an axis: where, in units of the drawing, and what it says."""

    at: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A loss curve ready to draw inside `PLOT`: SVG path data and axis ticks.

    `dots` has one move (`M`) per finite loss, `lost` the x of every loss that is not finite; together they are all the losses.
    """

    dots: str
    line: str
    lost: tuple[float, ...]
    steps: tuple[Tick, ...]
    values: tuple[Tick, ...]
    window: int
    summary: str


LONGEST_REACH = 100
"""Neighbours on either side that one pass of smoothing looks at, at most: the work stays linear in the number of losses."""


PLOT = (52, 12, 462, 232)
"""Left, top, right and bottom of the plot, in units of the drawing (480 x 276)."""


def draw_curve(losses: Sequence[tuple[int, float]]) -> Curve | None:
    """Place losses on the drawing: each as a dot, and a smoothed line through the finite ones; None where there are none."""
    if not losses:
        return None
    left, top, right, bottom = PLOT
    finite = [(step, loss) for step, loss in losses if math.isfinite(loss)]
    reach = min(len(finite) // 25, LONGEST_REACH)
    smoothed = smooth(smooth([loss for _, loss in finite], reach), reach)
    first, last = _widened(min(step for step, _ in losses), max(step for step, _ in losses))
    low, high, values = _value_axis([loss for _, loss in finite] or [0.0, 1.0])

    def x(step: float) -> float:
        return round(left + (right - left) * (step - first) / (last - first), 1)

    def y(loss: float) -> float:
        return round(bottom - (bottom - top) * (loss - low) / (high - low), 1)

    return Curve(
        dots="".join(f"M{x(step)} {y(loss)}h0" for step, loss in finite),
        line="".join(
            f"{'L' if k else 'M'}{x(step)} {y(loss)}"
            for k, ((step, _), loss) in enumerate(zip(finite, smoothed, strict=True))
        ),
        lost=tuple(x(step) for step, loss in losses if not math.isfinite(loss)),
        steps=tuple(Tick(at=x(step), label=number(step)) for step in _step_ticks(losses)),
        values=tuple(Tick(at=y(value), label=number(value)) for value in values),
        window=4 * reach + 1,
        summary=_summary(len(losses), smoothed),
    )


def smooth(values: Sequence[float], reach: int) -> list[float]:
    """The mean of each value and its `reach` neighbours on either side; at the ends, of those there are."""
    spans = (values[max(k - reach, 0) : k + reach + 1] for k in range(len(values)))
    return [math.fsum(span) / len(span) for span in spans]


def _summary(count: int, smoothed: Sequence[float]) -> str:
    if not smoothed:
        return f"No finite loss among {count}"
    if count == 1:
        return f"One loss: {smoothed[0]:.3g}"
    return f"{count} losses; smoothed, they go from {smoothed[0]:.3g} to {smoothed[-1]:.3g}"


def _value_axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Lowest and highest value of the axis and its ticks, round numbers that enclose the values."""
    low, high = _widened(min(values), max(values))
    pace = _round_pace(high - low)
    ticks = [k * pace for k in range(math.floor(low / pace), math.ceil(high / pace) + 1)]
    return ticks[0], ticks[-1], ticks


def _step_ticks(losses: Sequence[tuple[int, float]]) -> list[int]:
    """Round steps between the first and the last."""
    first, last = min(step for step, _ in losses), max(step for step, _ in losses)
    pace = max(round(_round_pace(last - first)), 1) if last > first else 1
    return list(range(-(-first // pace) * pace, last + 1, pace))


def _widened(low: float, high: float) -> tuple[float, float]:
    """The range, made wide enough to divide by where all values are (nearly) the same."""
    margin = max(abs(low), abs(high), 1e-6) / 2
    return (low, high) if high - low > margin * 1e-6 else (low - margin, high + margin)


def _round_pace(span: float) -> float:
    """The smallest of 1, 2, 5 x a power of ten that cuts the span into at most 5."""
    power = 10.0 ** math.floor(math.log10(span / 5))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor * 5 >= span * (1 - 1e-9))
