"""The page that tells a run: one HTML file with everything inside, written whole or not at all.

This file decides what is said and draws the loss curve's geometry; `report.html.jinja` beside it decides how it looks.
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain, islice, zip_longest
from typing import TYPE_CHECKING, Literal

from mascot.pages import fill_template, write_html

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL.Image import Image

HERO = 6
"""Pictures in the strip under the title."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoEntry:
    """A photo that the run learned from, with the name of its file and the caption that it was taught under."""

    picture: Image
    name: str
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One thing found about the photos, and what to do about it."""

    severity: Literal["note", "warning"]
    message: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """Pictures drawn at one step, in the order of the report's preview prompts; step 0 is the untouched base."""

    step: int
    pictures: tuple[Image, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextRow:
    """Pictures of the subject for one prompt, and what the untouched base draws for it with the token left out."""

    prompt: str
    pictures: tuple[Image, ...]
    base: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextGroup:
    """Rows that ask one kind of thing: recontextualization, style, property, view."""

    name: str
    rows: tuple[ContextRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobCell:
    """One picture and where the three knobs stood when it was drawn; both scales are 1 as trained and 0 for the base."""

    guidance: float
    unet_scale: float
    text_scale: float
    picture: Image


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobGrid:
    """One prompt drawn over guidance x UNet scale x text-encoder scale; cells in any order, combinations may be missing."""

    prompt: str
    cells: tuple[KnobCell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingEntry:
    """An ailment: what was measured, what to change as (option, why), and named strips of (picture, words) that show it."""

    severity: Literal["serious", "warning", "note"]
    title: str
    message: str
    remedies: tuple[tuple[str, str], ...]
    strips: tuple[tuple[str, tuple[tuple[Image, str], ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything the page shows; parts left empty leave no trace on it.

    `subject` is what prompts call the subject (token and class noun), `base` what diffusers loads it from, `adapter` the file's
    name, `recipe` the TOML text, `commands` the command lines that repeat the run or use its result. `losses` holds (step, loss);
    a loss may be NaN or infinite. `effective` and `adapter_facts` hold (name, value). Each preview has a picture per preview prompt.
    `health` is the diagnosis in a sentence, `findings` what it found.
    """

    title: str
    subject: str
    base: str
    adapter: str
    photos: tuple[PhotoEntry, ...] = ()
    notes: tuple[Note, ...] = ()
    health: str = ""
    findings: tuple[FindingEntry, ...] = ()
    effective: tuple[tuple[str, str], ...] = ()
    losses: tuple[tuple[int, float], ...] = ()
    preview_prompts: tuple[str, ...] = ()
    previews: tuple[Preview, ...] = ()
    contexts: tuple[ContextGroup, ...] = ()
    knobs: KnobGrid | None = None
    adapter_facts: tuple[tuple[str, str], ...] = ()
    recipe: str = ""
    commands: tuple[str, ...] = ()


def write_report(report: Report, path: Path) -> None:
    """Write the report as one HTML file that opens offline and holds all its pictures; an older one is replaced only at the end.

    Raises:
        UserError: the file cannot be written; what stood there still does.
    """
    write_html(render(report), path)


def render(report: Report) -> str:
    """Turn a report into the text of its page; every string of the report is escaped."""
    for preview in report.previews:
        assert len(preview.pictures) == len(report.preview_prompts), f"step {preview.step} needs one picture per preview prompt"
    shown = replace(report, contexts=_drawn(report.contexts))
    return fill_template(
        "report.html.jinja", {"number": number, "digest": digest}, report=shown, hero=hero(shown.contexts),
        curve=draw_curve(report.losses), plot=PLOT, snippet=snippet(report),
    )  # fmt: skip


def _drawn(contexts: Sequence[ContextGroup]) -> tuple[ContextGroup, ...]:
    """The groups that have something to show, without their empty rows."""
    groups = (replace(group, rows=tuple(row for row in group.rows if row.pictures or row.base)) for group in contexts)
    return tuple(group for group in groups if group.rows)


def hero(contexts: Sequence[ContextGroup]) -> tuple[tuple[str, Image], ...]:
    """Choose up to six (prompt, picture) for the strip on top: the first picture of each row, the groups taking turns."""
    turns = zip_longest(*([(row.prompt, row.pictures[0]) for row in group.rows if row.pictures] for group in contexts))
    return tuple(islice((chosen for chosen in chain.from_iterable(turns) if chosen is not None), HERO))


def snippet(report: Report) -> str:
    """The Python that draws with the adapter in diffusers; names are quoted, so that any file name gives valid code."""
    base, adapter, prompt = (json.dumps(text, ensure_ascii=False) for text in (report.base, report.adapter, f"a photo of {report.subject}"))
    more, place = ("\nfrom mascot import starter", "starter.folder()") if report.base == "starter" else ("", base)
    return f"""\
from diffusers import DiffusionPipeline{more}

pipe = DiffusionPipeline.from_pretrained({place})
pipe.load_lora_weights({adapter}, adapter_name="subject")
# 1 is what was trained, 0 the untouched base; lower them where the
# subject crowds out the rest of the prompt
pipe.set_adapters("subject", {{"unet": 1.0, "text_encoder": 1.0}})
pipe({prompt}).images[0].save("drawn.png")"""


def number(value: float) -> str:
    """Write a number without needless digits."""
    return f"{value:.6g}"


def digest(script: str) -> str:
    """The script's hash as a content security policy names it: the page allows this script and no other."""
    return f"sha256-{b64encode(sha256(script.encode()).digest()).decode()}"


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
        line="".join(f"{'L' if k else 'M'}{x(step)} {y(loss)}" for k, ((step, _), loss) in enumerate(zip(finite, smoothed, strict=True))),
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
