"""A run while it trains, as HTML: a bar, the loss, the curves of validation, and the previews."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL.Image import Image, Resampling

from mascot.reports.html import fill_template
from mascot.reports.loss_curve import PLOT, Curve, Tick, draw_curve, step_ticks

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Ticks of the y axis of the validation curves."""


PREVIEW_SIDE = 296
"""Longest side of a preview, in pixels: twice that on the page, for dense screens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """What one validation measured; all three are shares, 0..1."""

    step: int
    likeness: float
    """0 as the base model, 1 as real photos."""
    prompt: float
    """Prompt fidelity: 0 as noise, 1 as the base model."""
    copying: float
    """0: no nearer to a photo than photos are to each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveView:
    """What is known of a job at one moment."""

    title: str
    """What it does now."""
    done: int
    total: int
    """Number of steps or images; 0 where it is not known yet."""
    times: str
    """How long it has taken, and what is left."""
    losses: tuple[tuple[int, float], ...]
    """(step, loss) of each step so far."""
    steps: int
    """Number of steps of the whole run."""
    validated: tuple[Validated, ...]
    settings: tuple[tuple[str, str], ...]
    """Name and value of each effective setting."""
    notes: tuple[str, ...]
    """What was found and decided, in order, in one sentence each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareCurve:
    """One line of the validation plot."""

    name: str
    style: str
    """Its class in the template."""
    line: str
    """Path of the line."""
    dots: str
    """Path of its points."""
    last: float
    """Its newest value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewRow:
    """The previews of one step."""

    step: int
    images: tuple[Image, ...]

    @classmethod
    def of(cls, step: int, images: Sequence[Image]) -> PreviewRow:
        """Make a row of copies, at most `PREVIEW_SIDE` pixels wide and high."""
        copies = [image.copy() for image in images]
        for image in copies:
            image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Resampling.LANCZOS)
        return cls(step=step, images=tuple(copies))


def render_live_view(view: LiveView) -> str:
    """Render a job at one moment to a fragment of HTML; all text is escaped."""
    curve: Curve | None = draw_curve(view.losses)
    return fill_template(
        "notebook/live_view.html.jinja",
        view=view,
        curve=curve,
        plot=PLOT,
        shares=draw_shares(view.validated, view.steps),
        share_ticks=tuple(Tick(at=height(value), label=f"{value:.0%}") for value in SHARES),
        share_steps=tuple(Tick(at=across(step, view.steps), label=str(step)) for step in step_ticks(0, view.steps)),
        rows=(),
        prompts=(),
    )


def render_previews(rows: Sequence[PreviewRow], prompts: Sequence[str]) -> str:
    """Render previews, a row for each step and a column for each prompt."""
    return fill_template("notebook/live_view.html.jinja", view=None, rows=tuple(rows), prompts=tuple(prompts))


def draw_shares(validated: Sequence[Validated], steps: int) -> tuple[ShareCurve, ...]:
    """Draw the three lines of the validations so far; none before the first."""
    if not validated:
        return ()
    lines = {
        "likeness": [one.likeness for one in validated],
        "prompt": [one.prompt for one in validated],
        "copying": [one.copying for one in validated],
    }
    drawn: list[ShareCurve] = []
    for name, values in lines.items():
        points = [(across(one.step, steps), height(value)) for one, value in zip(validated, values, strict=True)]
        drawn.append(
            ShareCurve(
                name=name,
                style=name,
                line="".join(f"{'L' if k else 'M'}{x} {y}" for k, (x, y) in enumerate(points)),
                dots="".join(f"M{x} {y}h0" for x, y in points),
                last=values[-1],
            )
        )
    return tuple(drawn)


def across(step: int, steps: int) -> float:
    """Place a step on the x axis, which goes from 0 to the run's last step."""
    return round(PLOT[0] + (PLOT[2] - PLOT[0]) * min(1.0, step / max(steps, 1)), 1)


def height(share: float) -> float:
    """Place a share on the y axis, which goes from 0 to 1."""
    return round(PLOT[3] - (PLOT[3] - PLOT[1]) * min(1.0, max(0.0, share)), 1)
