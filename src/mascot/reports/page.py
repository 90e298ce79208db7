"""TODO reports.page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image, Resampling

from mascot.reports.html import fill_template, write_html
from mascot.reports.table import Table
from mascot.storage.image_files import open_image

SHOWN_SIDE = 256
"""Longest side of the page's pictures, in pixels: a page holds hundreds. The whole ones lie beside the scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTile:
    """A picture, what it is for those who cannot see it, and what is written below."""

    image: Image
    words: str
    below: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageStrip:
    """Pictures side by side under a name."""

    name: str
    tiles: tuple[ImageTile, ...]
    whole: bool = False
    """Whether its pictures are shown as wide as they are; else small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRow:
    """What was drawn for one question."""

    title: str
    about: str
    strips: tuple[ImageStrip, ...]
    link: str = ""
    """Where there is more of it, from the page's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSection:
    """A part of the page."""

    id: str
    title: str
    lead: str = ""
    tables: tuple[Table, ...] = ()
    rows: tuple[PageRow, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of tables and pictures."""

    title: str
    about: str
    sections: tuple[PageSection, ...]


def write_page(page: Page, path: Path) -> None:
    """Write a page as one HTML file that holds all its pictures; an older one is replaced only at the end.

    Raises:
        UserError: it cannot be written.
    """
    write_html(render(page), path)


def render(page: Page) -> str:
    """Turn a page into HTML; every string of it is escaped."""
    return fill_template("page.html.jinja", page=page)


def shown(file: Path) -> Image:
    """A picture in the size that pages show."""
    return reduced(open_image(file))


def reduced(image: Image) -> Image:
    """A copy in that size."""
    image = image.copy()
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Resampling.LANCZOS)
    return image
