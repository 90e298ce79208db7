"""Small charts as SVG, in the colors of the page: the loss, and what was measured at each look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from mascot.api.library.curves import Look, smooth

Points = Sequence[tuple[float, float]]
WIDTH: Final = 480
HEIGHT: Final = 190
LEFT, TOP, RIGHT, BOTTOM = 40, 10, 470, 160
"""The plot inside the drawing."""
MOST_POINTS: Final = 240


def loss_chart(losses: Sequence[tuple[int, float]], steps: int, title: str) -> str:
    """Draw the loss of each step pale, and the smoothed loss over it."""
    if not losses:
        return ""
    shown = thin(losses)
    line = thin(smooth(losses))
    ordered = sorted(loss for _, loss in losses)
    highest = 1.05 * max(ordered[int(0.98 * (len(ordered) - 1))], *(value for _, value in line))
    x_end = max(steps, losses[-1][0], 1)
    curves = path_of(shown, x_end, highest, "single") + path_of(line, x_end, highest, "smooth")
    said = f"{title}: {line[-1][1]:.3f}"
    return drawing(curves + axes(x_end, [(0.0, "0"), (highest, f"{highest:.2g}")], highest), said, title)


def looks_chart(looks: Sequence[Look], steps: int, names: Mapping[str, str], title: str) -> str:
    """Draw likeness, prompt and copying at each look, from 0 to 1, each named at its end."""
    if not looks:
        return ""
    x_end = max(steps, looks[-1].step, 1)
    curves = "".join(
        path_of([(look.step, getattr(look, part)) for look in looks], x_end, 1.0, part, dots=True) for part in names
    )
    said = ", ".join(f"{name} {getattr(looks[-1], part):.0%}" for part, name in names.items())
    legend = "".join(f'<li class="{part}">{escape(name)}</li>' for part, name in names.items())
    ticks = [(0.0, "0"), (0.5, "50 %"), (1.0, "100 %")]
    return drawing(curves + axes(x_end, ticks, 1.0), f"{title}: {said}", title, f'<ul class="legend">{legend}</ul>')


def thin(points: Points) -> list[tuple[float, float]]:
    """Take up to `MOST_POINTS` of some points, the last one among them."""
    every = max(1, -(-len(points) // MOST_POINTS))
    return [points[i] for i in range(len(points) - 1, -1, -every)][::-1]


def path_of(points: Points, x_end: float, y_end: float, kind: str, *, dots: bool = False) -> str:
    """Draw points as a line, and as dots where there are few of them."""
    places = [
        (LEFT + (RIGHT - LEFT) * x / x_end, BOTTOM - (BOTTOM - TOP) * min(max(y, 0.0), y_end) / y_end)
        for x, y in points
    ]
    line = f'<polyline class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'
    marks = "".join(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places)
    return line + (marks if dots or len(places) == 1 else "")


def axes(x_end: float, ticks: Sequence[tuple[float, str]], y_end: float) -> str:
    """Draw the lines at some values, and the steps at both ends."""
    drawn: list[str] = []
    for value, label in ticks:
        y = BOTTOM - (BOTTOM - TOP) * value / y_end
        drawn.append(f'<line class="axis" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(label)}</text>')
    drawn.append(f'<text x="{LEFT}" y="{BOTTOM + 20}">0</text>')
    drawn.append(f'<text x="{RIGHT}" y="{BOTTOM + 20}" text-anchor="end">{x_end:.0f}</text>')
    return "".join(drawn)


def drawing(content: str, said: str, title: str, legend: str = "") -> str:
    """Frame a chart; `said` is what a screen reader says of it."""
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(said)}">{content}</svg>{legend}</figure>'
    )
