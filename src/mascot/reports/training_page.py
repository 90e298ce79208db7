"""The page that tells a run: one HTML file with everything inside, written whole or not at all.

This file decides what is said and draws the loss curve's geometry; `report.html.jinja` beside it decides how it looks.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Literal

from PIL.Image import Image

from mascot.reports.html import fill_template, write_html
from mascot.reports.loss_curve import PLOT, draw_curve, number

HERO = 6
"""Pictures in the strip under the title."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoEntry:
    """A photo that the run learned from, with the name of its file and the caption that it was taught under."""

    image: Image
    name: str
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportNote:
    """One thing found about the photos, and what to do about it."""

    severity: Literal["note", "warning"]
    message: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """Pictures drawn at one step, in the order of the report's preview prompts; step 0 is the untouched base."""

    step: int
    images: tuple[Image, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextRow:
    """Pictures of the subject for one prompt, and what the untouched base draws for it with the token left out."""

    prompt: str
    images: tuple[Image, ...]
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
    image: Image


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobGrid:
    """One prompt drawn over guidance x UNet scale x text-encoder scale; cells in any order, combinations may be missing."""

    prompt: str
    cells: tuple[KnobCell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFinding:
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
    notes: tuple[ReportNote, ...] = ()
    health: str = ""
    findings: tuple[ReportFinding, ...] = ()
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
        assert len(preview.images) == len(report.preview_prompts), (
            f"step {preview.step} needs one picture per preview prompt"
        )
    shown = replace(report, contexts=_drawn(report.contexts))
    return fill_template(
        "training.html.jinja", {"number": number, "digest": digest}, report=shown, hero=hero(shown.contexts),
        curve=draw_curve(report.losses), plot=PLOT, snippet=snippet(report),
    )  # fmt: skip


def _drawn(contexts: Sequence[ContextGroup]) -> tuple[ContextGroup, ...]:
    """The groups that have something to show, without their empty rows."""
    groups = (replace(group, rows=tuple(row for row in group.rows if row.images or row.base)) for group in contexts)
    return tuple(group for group in groups if group.rows)


def hero(contexts: Sequence[ContextGroup]) -> tuple[tuple[str, Image], ...]:
    """Choose up to six (prompt, picture) for the strip on top: the first picture of each row, the groups taking turns."""
    turns = zip_longest(*([(row.prompt, row.images[0]) for row in group.rows if row.images] for group in contexts))
    return tuple(islice((chosen for chosen in chain.from_iterable(turns) if chosen is not None), HERO))


def snippet(report: Report) -> str:
    """The Python that draws with the adapter in diffusers; names are quoted, so that any file name gives valid code."""
    base, adapter, prompt = (
        json.dumps(text, ensure_ascii=False) for text in (report.base, report.adapter, f"a photo of {report.subject}")
    )
    more, place = ("\nfrom mascot import starter", "starter.folder()") if report.base == "starter" else ("", base)
    return f"""\
from diffusers import DiffusionPipeline{more}

pipe = DiffusionPipeline.from_pretrained({place})
pipe.load_lora_weights({adapter}, adapter_name="subject")
# 1 is what was trained, 0 the untouched base; lower them where the
# subject crowds out the rest of the prompt
pipe.set_adapters("subject", {{"unet": 1.0, "text_encoder": 1.0}})
pipe({prompt}).images[0].save("drawn.png")"""


def digest(script: str) -> str:
    """The script's hash as a content security policy names it: the page allows this script and no other."""
    return f"sha256-{b64encode(sha256(script.encode()).digest()).decode()}"
