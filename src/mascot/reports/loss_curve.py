"""The loss curve of the training report: SVG path data and axis ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A tick of an axis."""

    at: float
    """Its coordinate along the axis, in units of the SVG drawing."""
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A loss curve as SVG path data inside `PLOT`, with the ticks of both axes.

    Every loss is in either `dots` or `not_finite`.
    """

    dots: str
    """Path of the finite losses, one dot each (a move `M`)."""
    line: str
    """Path of the smoothed losses."""
    not_finite: tuple[float, ...]
    """The x coordinate of each loss that is NaN or infinite."""
    steps: tuple[Tick, ...]
    """Ticks of the x axis, at optimizer steps."""
    values: tuple[Tick, ...]
    """Ticks of the y axis, at loss values."""
    window: int
    """Number of neighboring losses that the smoothed line averages over."""
    summary: str
    """The curve in a few words, for those who cannot see it."""


PLOT = (52, 12, 462, 232)
"""Left, top, right and bottom of the plot, in units of the SVG drawing (480 x 276)."""

LONGEST_REACH = 100
"""Most neighbors on either side in one smoothing pass; it keeps smoothing linear in the losses."""


def format_number(value: float) -> str:
    """Write a number with up to six significant digits."""
    return f"{value:.6g}"


def draw_curve(losses: Sequence[tuple[int, float]]) -> Curve | None:
    """Draw losses as dots with a smoothed line through the finite ones.

    `losses` holds (step, loss), at least one of them for a curve; without any, None is returned.
    The line is a moving average applied twice, of up to 4 % of the losses on either side.
    """
    if not losses:
        return None
    left, top, right, bottom = PLOT
    finite = [(step, loss) for step, loss in losses if math.isfinite(loss)]
    reach = min(len(finite) // 25, LONGEST_REACH)
    smoothed = smooth(smooth([loss for _, loss in finite], reach), reach)
    first, last = _widen(*_span(losses))
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
        not_finite=tuple(x(step) for step, loss in losses if not math.isfinite(loss)),
        steps=tuple(Tick(at=x(step), label=format_number(step)) for step in step_ticks(*_span(losses))),
        values=tuple(Tick(at=y(value), label=format_number(value)) for value in values),
        window=4 * reach + 1,
        summary=_summary(len(losses), smoothed),
    )


def smooth(values: Sequence[float], reach: int) -> list[float]:
    """Average each value with its `reach` neighbors on either side, or with fewer at the ends."""
    spans = (values[max(k - reach, 0) : k + reach + 1] for k in range(len(values)))
    return [math.fsum(span) / len(span) for span in spans]


def _summary(count: int, smoothed: Sequence[float]) -> str:
    """Describe the curve in a few words."""
    if not smoothed:
        return f"No finite loss among {count}"
    if count == 1:
        return f"One loss: {smoothed[0]:.3g}"
    return f"{count} losses; smoothed, they go from {smoothed[0]:.3g} to {smoothed[-1]:.3g}"


def _value_axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Return lowest and highest value of the y axis, and its ticks: round, enclosing all values."""
    low, high = _widen(min(values), max(values))
    interval = _round_interval(high - low)
    ticks = [k * interval for k in range(math.floor(low / interval), math.ceil(high / interval) + 1)]
    return ticks[0], ticks[-1], ticks


def _span(losses: Sequence[tuple[int, float]]) -> tuple[int, int]:
    """Return the first and the last step."""
    return min(step for step, _ in losses), max(step for step, _ in losses)


def step_ticks(first: int, last: int) -> list[int]:
    """Return ticks of an axis of steps: round steps between the first and the last."""
    interval = max(round(_round_interval(last - first)), 1) if last > first else 1
    return list(range(-(-first // interval) * interval, last + 1, interval))


def _widen(low: float, high: float) -> tuple[float, float]:
    """Widen a range that is (nearly) empty, so that it can be divided by."""
    margin = max(abs(low), abs(high), 1e-6) / 2
    return (low, high) if high - low > margin * 1e-6 else (low - margin, high + margin)


def _round_interval(span: float) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that cuts the span into 5 or fewer."""
    power = 10.0 ** math.floor(math.log10(span / 5))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor * 5 >= span * (1 - 1e-9))
