"""Image grids with labeled axes: columns, rows, and blocks of both.

A grid shows what a knob or a setting does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

MOST_AXES = 3

SMALLEST_CELL = 128
"""Smallest shorter side of a cell, in pixels.

Smaller images are enlarged by a whole factor, so that labels fit and every pixel stays a square.
"""

MOST_PIXELS = 64_000_000
"""Limit for a whole grid; its images are reduced where they would exceed it."""

GAP = 6
"""Pixels between cells."""

LINES = 4
"""Limit for the lines of one label; the rest is cut off."""

INK, PAPER, PALE = "#1a1a1a", "#ffffff", "#e8e8e8"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

GridPosition = tuple[int, ...]
"""Position of a cell along each axis, from 0."""


@dataclass(frozen=True, slots=True)
class GridAxis:
    """One axis of a grid: the name of what changes, and a label for each position."""

    name: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GridLayout:
    """Sizes of a grid's parts, in pixels."""

    font: Font
    line: int
    """Height of a line of text."""
    cell: tuple[int, int]
    """Width and height of an image."""
    left: int
    """Width of the rows' labels."""
    heading: int
    """Height of the columns' labels."""

    def block(self, columns: int, rows: int) -> tuple[int, int]:
        """Return the width and height of one block with its labels."""
        return self.left + columns * (self.cell[0] + GAP), self.heading + rows * (self.cell[1] + GAP)


def compose(
    axes: Sequence[GridAxis], cells: Mapping[GridPosition, Image.Image | str], *, title: str = ""
) -> Image.Image:
    """Compose an RGB grid of images: columns (first axis), rows (second) and blocks (third).

    A cell holds an image, or a sentence that says why there is none. All images get the size of the
    largest.

    Raises:
        ValueError: there is no axis, or there are more than three.
    """
    if not 1 <= len(axes) <= MOST_AXES:
        raise ValueError(f"a grid has 1 to {MOST_AXES} axes, not {len(axes)}")
    columns, rows, blocks = [*axes, *[GridAxis("", ("",))] * (MOST_AXES - len(axes))]
    images = [cell for cell in cells.values() if isinstance(cell, Image.Image)]
    layout = plan_layout(columns, rows, len(blocks.labels), images)
    width, height = layout.block(len(columns.labels), len(rows.labels))
    width += 2 * GAP
    above = len(wrap(title, layout.font, width - 2 * GAP)) * layout.line + GAP if title else GAP
    between = 2 * layout.line if blocks.name else 0
    grid = Image.new("RGB", (width, above + len(blocks.labels) * (height + between)), PAPER)
    pen = ImageDraw.Draw(grid)
    write(pen, layout, title, (GAP, GAP), width - 2 * GAP)
    padded = {(*position, 0, 0)[:MOST_AXES]: cell for position, cell in cells.items()}
    for number, label in enumerate(blocks.labels):
        top = above + number * (height + between)
        if blocks.name:
            write(pen, layout, f"{blocks.name} = {label}", (GAP, top + layout.line // 2), width - 2 * GAP)
        own = {(column, row): cell for (column, row, block), cell in padded.items() if block == number}
        draw_block(grid, layout, (columns, rows), own, (GAP, top + between))
    return grid


def plan_layout(columns: GridAxis, rows: GridAxis, blocks: int, images: Sequence[Image.Image]) -> GridLayout:
    """Choose the size of the cells by the images, and the size of the text by the cells."""
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
    grid: Image.Image,
    layout: GridLayout,
    axes: tuple[GridAxis, GridAxis],
    cells: Mapping[GridPosition, Image.Image | str],
    corner: tuple[int, int],
) -> None:
    """Draw one block of columns and rows with its labels."""
    pen, (columns, rows), (x0, y0) = ImageDraw.Draw(grid), axes, corner
    wide, high = layout.cell
    write(pen, layout, columns.name, (x0 + layout.left, y0), grid.width - x0 - layout.left)
    write(pen, layout, rows.name, (x0, y0 + layout.heading - layout.line - GAP), layout.left - GAP)
    for column, label in enumerate(columns.labels):
        write(pen, layout, label, (x0 + layout.left + column * (wide + GAP), y0 + layout.line), wide)
    for row, label in enumerate(rows.labels):
        top = y0 + layout.heading + row * (high + GAP)
        write(pen, layout, label, (x0, top + GAP), layout.left - GAP)
        for column in range(len(columns.labels)):
            left = x0 + layout.left + column * (wide + GAP)
            cell = cells.get((column, row), "no image")
            if isinstance(cell, str):
                pen.rectangle((left, top, left + wide - 1, top + high - 1), fill=PALE)
                write(pen, layout, cell, (left + GAP, top + GAP), wide - 2 * GAP)
            else:
                fitted = fit_to_cell(cell, layout.cell)
                grid.paste(fitted, (left + (wide - fitted.width) // 2, top + (high - fitted.height) // 2))


def fit_to_cell(image: Image.Image, cell: tuple[int, int]) -> Image.Image:
    """Resize an image to its cell, and keep its proportions.

    It is enlarged by a whole factor without smoothing, or reduced with smoothing.
    """
    factor = min(cell[0] / image.width, cell[1] / image.height)
    if factor >= 1:
        return image.convert("RGB").resize(
            (image.width * int(factor), image.height * int(factor)), Image.Resampling.NEAREST
        )
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def write(pen: ImageDraw.ImageDraw, layout: GridLayout, text: str, corner: tuple[int, int], width: int) -> None:
    """Write text within a width, from its upper left corner."""
    for number, line in enumerate(wrap(text, layout.font, width)):
        pen.text((corner[0], corner[1] + number * layout.line), line, fill=INK, font=layout.font)


def wrap(text: str, font: Font, width: int) -> list[str]:
    """Break text into lines of at most `width` pixels.

    Words that are too long are broken too. Text beyond `LINES` lines is cut off and ends in dots.
    """
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
    """Format the axes as A1111's web UI writes its x/y/z plots into an image."""
    facts = ["Script: X/Y/Z plot"]
    for letter, axis in zip("XYZ", axes, strict=False):
        values = ", ".join(label.replace('"', "'") for label in axis.labels)
        facts += [f"{letter} Type: {axis.name}", f'{letter} Values: "{values}"']
    return ", ".join(facts)


def grid_positions(sizes: Sequence[int]) -> Iterator[GridPosition]:
    """Yield all positions of a grid with such sizes; the first coordinate changes fastest."""
    for number in range(math.prod(sizes)):
        position: list[int] = []
        rest = number
        for size in sizes:
            rest, coordinate = divmod(rest, size)
            position.append(coordinate)
        yield tuple(position)


def format_value(value: object) -> str:
    """Format a setting's value as a recipe has it."""
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
