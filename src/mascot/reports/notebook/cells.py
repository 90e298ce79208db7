"""Results as HTML for a notebook's cell: sentences, tables and images, under one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL.Image import Image, Resampling

from mascot.reports.html import fill_template
from mascot.reports.table import Table

WIDEST_IMAGE = 1024
"""Side in pixels to which larger images are reduced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellImage:
    """An image with the text below it, which also describes it to those who cannot see it."""

    image: Image
    caption: str
    alone: bool = False
    """Whether it is shown at its own size; else as one of several small ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellLine:
    """A sentence, with a word that says what kind it is."""

    text: str
    badge: str = ""
    """Such as `warning`; empty for none."""


CellPart = CellLine | Table | tuple[CellImage, ...]
"""A part of a cell's output: a sentence, a table, or images side by side."""


def render_cells(parts: Sequence[CellPart]) -> str:
    """Render parts to a fragment of HTML, in order; all text is escaped."""
    sorted_parts = tuple(
        (
            part if isinstance(part, CellLine) else None,
            part if isinstance(part, Table) else None,
            part if isinstance(part, tuple) else None,
        )
        for part in parts
    )
    return fill_template("notebook/cells.html.jinja", parts=sorted_parts)


def cell_image(image: Image, caption: str, *, alone: bool = False) -> CellImage:
    """Prepare an image for a cell: a copy, at most `WIDEST_IMAGE` pixels wide and high."""
    shown = image.copy()
    shown.thumbnail((WIDEST_IMAGE, WIDEST_IMAGE), Resampling.LANCZOS)
    return CellImage(image=shown, caption=caption, alone=alone)
