"""Pages of tables and image strips, and how they are rendered to HTML."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image, Resampling

from mascot.reports.html import fill_template, write_html
from mascot.reports.table import Table
from mascot.storage.image_files import open_image

THUMBNAIL_SIDE = 256
"""Longest side of a page's images, in pixels, since a page holds hundreds of them.

The full-size images lie beside the scores.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTile:
    """One image of a page, with its alternative text and its caption."""

    image: Image
    alt: str
    """Describes the image to those who cannot see it."""
    caption: str
    """Text below the image; empty for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageStrip:
    """Images side by side under a name."""

    name: str
    tiles: tuple[ImageTile, ...]
    full_width: bool = False
    """Whether images are shown at their own width; else as small tiles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRow:
    """One row of a section: the image strips of one prompt, run or finding."""

    title: str
    about: str
    """A sentence below the title; empty for none."""
    strips: tuple[ImageStrip, ...]
    link: str = ""
    """Address of a page with details, relative to this page's folder; empty for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSection:
    """One section of a page: tables, then rows of images."""

    id: str
    """The section's anchor on the page."""
    title: str
    lead: str = ""
    """A sentence below the title; empty for none."""
    tables: tuple[Table, ...] = ()
    rows: tuple[PageRow, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of tables and images."""

    title: str
    about: str
    """What the page shows, in one sentence."""
    sections: tuple[PageSection, ...]


def write_page(page: Page, path: Path) -> None:
    """Write a page atomically, as one HTML file that contains all its images.

    Raises:
        UserError: the file cannot be written.
    """
    write_html(render(page), path)


def render(page: Page) -> str:
    """Render a page to HTML; all text is escaped."""
    return fill_template("page.html.jinja", page=page)


def read_thumbnail(file: Path) -> Image:
    """Read an image file as a thumbnail.

    Raises:
        UserError: the file is missing or damaged.
    """
    return thumbnail(open_image(file))


def thumbnail(image: Image) -> Image:
    """Return a copy of an image, at most `THUMBNAIL_SIDE` pixels wide and high."""
    image = image.copy()
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Resampling.LANCZOS)
    return image
