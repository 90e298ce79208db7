"""The report of a training run, as one HTML file.

This file holds the report's contents and renders them; `training.html.jinja` beside it decides how
the page looks. `api.training_report` collects the contents.
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
from mascot.reports.loss_curve import PLOT, draw_curve, format_number

HERO = 6
"""Number of images in the strip at the top of the page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoEntry:
    """A training photo, with its file name and its caption."""

    image: Image
    name: str
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportNote:
    """A finding of the photo audit, with its remedy."""

    severity: Literal["note", "warning"]
    message: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """Preview images of one step, one per `Report.preview_prompts`; step 0 is the base model."""

    step: int
    images: tuple[Image, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextRow:
    """Images of one prompt, and those of the base model with the class noun alone."""

    prompt: str
    images: tuple[Image, ...]
    base: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextGroup:
    """Rows of one kind of prompt: recontextualization, style, property or view."""

    name: str
    rows: tuple[ContextRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobCell:
    """One image and its knobs; a scale of 0 is the base model, 1 the trained strength."""

    guidance: float
    """Guidance scale."""
    unet_scale: float
    text_scale: float
    image: Image


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobGrid:
    """Images of one prompt over guidance scale x UNet scale x text-encoder scale.

    Cells are in any order, and combinations may be missing.
    """

    prompt: str
    cells: tuple[KnobCell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFinding:
    """A failure mode that the diagnosis found, with remedies and example images."""

    severity: Literal["serious", "warning", "note"]
    title: str
    message: str
    """What was measured."""
    remedies: tuple[tuple[str, str], ...]
    """Pairs of an option to change (may be empty) and the reason."""
    strips: tuple[tuple[str, tuple[tuple[Image, str], ...]], ...]
    """Named strips of pairs of an image and its alternative text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The contents of a training report; empty parts are left out of the page."""

    title: str
    subject: str
    """The subject in prompts: token and class noun."""
    base: str
    """What diffusers loads the base model from, or `starter`."""
    adapter: str
    """File name of the adapter."""
    photos: tuple[PhotoEntry, ...] = ()
    notes: tuple[ReportNote, ...] = ()
    health: str = ""
    """The diagnosis in one sentence."""
    findings: tuple[ReportFinding, ...] = ()
    effective: tuple[tuple[str, str], ...] = ()
    """Name and value of each effective setting."""
    losses: tuple[tuple[int, float], ...] = ()
    """Pairs of step and loss; a loss may be NaN or infinite."""
    preview_prompts: tuple[str, ...] = ()
    previews: tuple[Preview, ...] = ()
    """Each has one image per preview prompt."""
    contexts: tuple[ContextGroup, ...] = ()
    knobs: KnobGrid | None = None
    adapter_facts: tuple[tuple[str, str], ...] = ()
    """Name and value of each fact about the adapter."""
    recipe: str = ""
    """The recipe as TOML."""
    commands: tuple[str, ...] = ()
    """Command lines that repeat the run or use its adapter."""


def write_report(report: Report, path: Path) -> None:
    """Write a report atomically, as one HTML file that contains all its images.

    Raises:
        UserError: the file cannot be written; an older report is unchanged.
    """
    write_html(render(report), path)


def render(report: Report) -> str:
    """Render a report to HTML; all text is escaped."""
    for preview in report.previews:
        assert len(preview.images) == len(report.preview_prompts), (
            f"step {preview.step} needs one image per preview prompt"
        )
    shown = replace(report, contexts=_without_empty_rows(report.contexts))
    return fill_template(
        "training.html.jinja",
        {"number": format_number, "digest": digest},
        report=shown,
        hero=hero(shown.contexts),
        curve=draw_curve(report.losses),
        plot=PLOT,
        snippet=snippet(report),
    )


def _without_empty_rows(contexts: Sequence[ContextGroup]) -> tuple[ContextGroup, ...]:
    """Drop rows without images, and groups without rows."""
    groups = (replace(group, rows=tuple(row for row in group.rows if row.images or row.base)) for group in contexts)
    return tuple(group for group in groups if group.rows)


def hero(contexts: Sequence[ContextGroup]) -> tuple[tuple[str, Image], ...]:
    """Choose up to six pairs of prompt and image for the top of the page.

    They are the first images of the rows, one group after the other in turns.
    """
    turns = zip_longest(*([(row.prompt, row.images[0]) for row in group.rows if row.images] for group in contexts))
    return tuple(islice((chosen for chosen in chain.from_iterable(turns) if chosen is not None), HERO))


def snippet(report: Report) -> str:
    """Write the Python code that generates with the adapter in diffusers.

    Names are quoted, so that the code is valid for any file name.
    """
    base, adapter, prompt = (
        json.dumps(text, ensure_ascii=False) for text in (report.base, report.adapter, f"a photo of {report.subject}")
    )
    imports, source = (
        ("\nfrom mascot.models import starter", "starter.folder()") if report.base == "starter" else ("", base)
    )
    return f"""\
import torch
from diffusers import DiffusionPipeline{imports}

pipe = DiffusionPipeline.from_pretrained({source}, dtype=torch.float32)
pipe.load_lora_weights({adapter}, adapter_name="subject")
# 1 is the trained strength, 0 the base model; lower the scales where
# the subject crowds out the rest of the prompt
pipe.set_adapters("subject", {{"unet": 1.0, "text_encoder": 1.0}})
pipe({prompt}).images[0].save("generated.png")"""


def digest(script: str) -> str:
    """Hash a script as a content security policy names it; the page allows no other script."""
    return f"sha256-{b64encode(sha256(script.encode()).digest()).decode()}"
