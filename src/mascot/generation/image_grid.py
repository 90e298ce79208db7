"""Picture grids with labelled axes: what a knob or a setting does, seen at one glance. Columns, rows, and blocks of both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

MOST_AXES = 3


SMALLEST_CELL = 128
"""Pixels of a cell's shorter side: smaller pictures are enlarged by a whole factor, so that labels fit and every pixel stays one."""


MOST_PIXELS = 64_000_000
"""Of a whole grid; its pictures are reduced where they would make more."""


GAP = 6


LINES = 4
"""Of one label at most; the rest is cut."""


INK, PAPER, PALE = "#1a1a1a", "#ffffff", "#e8e8e8"


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


Place = tuple[int, ...]
"""A cell's position along each axis, from 0."""


@dataclass(frozen=True, slots=True)
class GridAxis:
    """What changes along one direction of a grid: a name, and a label for each position."""

    name: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GridLayout:
    """Where everything lies on a grid, in pixels."""

    font: Font
    line: int
    """Height of a line of text."""
    cell: tuple[int, int]
    """Width and height of a picture."""
    left: int
    """Width of the rows' labels."""
    heading: int
    """Height of the columns' labels."""

    def block(self, columns: int, rows: int) -> tuple[int, int]:
        """Width and height of one block with its labels."""
        return self.left + columns * (self.cell[0] + GAP), self.heading + rows * (self.cell[1] + GAP)


def compose(axes: Sequence[GridAxis], cells: Mapping[Place, Image.Image | str], *, title: str = "") -> Image.Image:
    """Lay pictures out in columns (first axis), rows (second axis) and blocks one below the other (third axis), all labelled. RGB.

    A cell holds a picture, or a sentence that says why there is none; all pictures get one size, that of the largest.

    Raises:
        ValueError: there is no axis, or more than three.
    """
    if not 1 <= len(axes) <= MOST_AXES:
        raise ValueError(f"a grid has 1 to {MOST_AXES} axes, not {len(axes)}")
    columns, rows, blocks = [*axes, *[GridAxis("", ("",))] * (MOST_AXES - len(axes))]
    sheet = plan_sheet(
        columns, rows, len(blocks.labels), [cell for cell in cells.values() if isinstance(cell, Image.Image)]
    )
    width, height = sheet.block(len(columns.labels), len(rows.labels))
    width += 2 * GAP
    above = len(wrap(title, sheet.font, width - 2 * GAP)) * sheet.line + GAP if title else GAP
    between = 2 * sheet.line if blocks.name else 0
    image = Image.new("RGB", (width, above + len(blocks.labels) * (height + between)), PAPER)
    pen = ImageDraw.Draw(image)
    write(pen, sheet, title, (GAP, GAP), width - 2 * GAP)
    for number, label in enumerate(blocks.labels):
        top = above + number * (height + between)
        if blocks.name:
            write(pen, sheet, f"{blocks.name} = {label}", (GAP, top + sheet.line // 2), width - 2 * GAP)
        own = {
            place[:2]: cell
            for place, cell in (((*key, 0, 0)[:3], cell) for key, cell in cells.items())
            if place[2] == number
        }
        draw_block(image, sheet, (columns, rows), own, (GAP, top + between))
    return image


def plan_sheet(columns: GridAxis, rows: GridAxis, blocks: int, images: Sequence[Image.Image]) -> GridLayout:
    """Choose sizes: of the cells after the pictures, of the text after the cells."""
    width = max((image.width for image in images), default=SMALLEST_CELL)
    height = max((image.height for image in images), default=SMALLEST_CELL)
    factor = float(max(1, math.ceil(SMALLEST_CELL / min(width, height))))
    pixels = width * height * len(columns.labels) * len(rows.labels) * blocks
    factor = min(factor, math.sqrt(MOST_PIXELS / pixels))
    cell = max(1, round(width * factor)), max(1, round(height * factor))
    size = min(28, max(12, cell[0] // 14))
    font = ImageFont.load_default(size)
    line = round(size * 1.35)
    longest = max((font.getlength(text) for text in (rows.name, *rows.labels)), default=0)
    left = min(round(longest), 2 * SMALLEST_CELL) + 2 * GAP if rows.name else 0
    tallest = max(len(wrap(label, font, cell[0])) for label in columns.labels)
    return GridLayout(font=font, line=line, cell=cell, left=left, heading=(1 + tallest) * line + GAP)


def draw_block(
    image: Image.Image,
    sheet: GridLayout,
    axes: tuple[GridAxis, GridAxis],
    cells: Mapping[Place, Image.Image | str],
    corner: tuple[int, int],
) -> None:
    """Draw one block of columns and rows with its labels."""
    pen, (columns, rows), (x0, y0) = ImageDraw.Draw(image), axes, corner
    wide, high = sheet.cell
    write(pen, sheet, columns.name, (x0 + sheet.left, y0), image.width - x0 - sheet.left)
    write(pen, sheet, rows.name, (x0, y0 + sheet.heading - sheet.line - GAP), sheet.left - GAP)
    for column, label in enumerate(columns.labels):
        write(pen, sheet, label, (x0 + sheet.left + column * (wide + GAP), y0 + sheet.line), wide)
    for row, label in enumerate(rows.labels):
        top = y0 + sheet.heading + row * (high + GAP)
        write(pen, sheet, label, (x0, top + GAP), sheet.left - GAP)
        for column in range(len(columns.labels)):
            left = x0 + sheet.left + column * (wide + GAP)
            cell = cells.get((column, row), "no picture")
            if isinstance(cell, str):
                pen.rectangle((left, top, left + wide - 1, top + high - 1), fill=PALE)
                write(pen, sheet, cell, (left + GAP, top + GAP), wide - 2 * GAP)
            else:
                shown = fitted(cell, sheet.cell)
                image.paste(shown, (left + (wide - shown.width) // 2, top + (high - shown.height) // 2))


def fitted(image: Image.Image, cell: tuple[int, int]) -> Image.Image:
    """A picture as large as its cell allows: enlarged by a whole factor without smoothing, or reduced with it."""
    factor = min(cell[0] / image.width, cell[1] / image.height)
    if factor >= 1:
        return image.convert("RGB").resize(
            (image.width * int(factor), image.height * int(factor)), Image.Resampling.NEAREST
        )
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def write(pen: ImageDraw.ImageDraw, sheet: GridLayout, text: str, corner: tuple[int, int], width: int) -> None:
    """Write text within a width, from its upper left corner."""
    for number, line in enumerate(wrap(text, sheet.font, width)):
        pen.text((corner[0], corner[1] + number * sheet.line), line, fill=INK, font=sheet.font)


def wrap(text: str, font: Font, width: int) -> list[str]:
    """Break text into lines of at most `width` pixels, words that are too long within; what is too much ends in dots."""
    lines: list[str] = []
    for word in text.split():
        if len(lines) > LINES:
            break
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    if len(lines) <= LINES:
        return lines
    last = lines[LINES - 1]
    while last and font.getlength(f"{last}...") > width:
        last = last[:-1]
    return [*lines[: LINES - 1], f"{last}..."]


def axes_text(axes: Sequence[GridAxis]) -> str:
    """The axes in the form in which A1111's web UI writes its x/y/z plots into a picture."""
    facts = ["Script: X/Y/Z plot"]
    for letter, axis in zip("XYZ", axes, strict=False):
        values = ", ".join(label.replace('"', "'") for label in axis.labels)
        facts += [f"{letter} Type: {axis.name}", f'{letter} Values: "{values}"']
    return ", ".join(facts)


def places(sizes: Sequence[int]) -> Iterator[Place]:
    """All positions in a grid of such sizes, the first coordinate changing fastest."""
    for number in range(math.prod(sizes)):
        place: list[int] = []
        for size in sizes:
            number, along = divmod(number, size)  # noqa: PLW2901 - what is left of it
            place.append(along)
        yield tuple(place)


def written(value: Any) -> str:
    """A setting's value as a recipe has it."""
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
