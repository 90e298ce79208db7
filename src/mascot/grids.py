"""Picture grids with labelled axes: what a knob or a setting does, seen at one glance. Columns, rows, and blocks of both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from pydantic import ValidationError

from mascot.errors import UserError, suggest
from mascot.generator import Generator, Knobs, Shot, settings_text, write_picture
from mascot.leaderboard import written

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
class Axis:
    """What changes along one direction of a grid: a name, and a label for each position."""

    name: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
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


def compose(axes: Sequence[Axis], cells: Mapping[Place, Image.Image | str], *, title: str = "") -> Image.Image:
    """Lay pictures out in columns (first axis), rows (second axis) and blocks one below the other (third axis), all labelled. RGB.

    A cell holds a picture, or a sentence that says why there is none; all pictures get one size, that of the largest.

    Raises:
        ValueError: there is no axis, or more than three.
    """
    if not 1 <= len(axes) <= MOST_AXES:
        raise ValueError(f"a grid has 1 to {MOST_AXES} axes, not {len(axes)}")
    columns, rows, blocks = [*axes, *[Axis("", ("",))] * (MOST_AXES - len(axes))]
    sheet = plan_sheet(columns, rows, len(blocks.labels), [cell for cell in cells.values() if isinstance(cell, Image.Image)])
    width, height = sheet.block(len(columns.labels), len(rows.labels))
    width += 2 * GAP
    above = len(wrap(title, sheet.font, width - 2 * GAP)) * sheet.line + GAP if title else GAP
    between = 2 * sheet.line if blocks.name else 0
    picture = Image.new("RGB", (width, above + len(blocks.labels) * (height + between)), PAPER)
    pen = ImageDraw.Draw(picture)
    write(pen, sheet, title, (GAP, GAP), width - 2 * GAP)
    for number, label in enumerate(blocks.labels):
        top = above + number * (height + between)
        if blocks.name:
            write(pen, sheet, f"{blocks.name} = {label}", (GAP, top + sheet.line // 2), width - 2 * GAP)
        own = {place[:2]: cell for place, cell in (((*key, 0, 0)[:3], cell) for key, cell in cells.items()) if place[2] == number}
        draw_block(picture, sheet, (columns, rows), own, (GAP, top + between))
    return picture


def plan_sheet(columns: Axis, rows: Axis, blocks: int, pictures: Sequence[Image.Image]) -> Sheet:
    """Choose sizes: of the cells after the pictures, of the text after the cells."""
    width = max((picture.width for picture in pictures), default=SMALLEST_CELL)
    height = max((picture.height for picture in pictures), default=SMALLEST_CELL)
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
    return Sheet(font=font, line=line, cell=cell, left=left, heading=(1 + tallest) * line + GAP)


def draw_block(
    picture: Image.Image, sheet: Sheet, axes: tuple[Axis, Axis], cells: Mapping[Place, Image.Image | str], corner: tuple[int, int]
) -> None:
    """Draw one block of columns and rows with its labels."""
    pen, (columns, rows), (x0, y0) = ImageDraw.Draw(picture), axes, corner
    wide, high = sheet.cell
    write(pen, sheet, columns.name, (x0 + sheet.left, y0), picture.width - x0 - sheet.left)
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
                picture.paste(shown, (left + (wide - shown.width) // 2, top + (high - shown.height) // 2))


def fitted(picture: Image.Image, cell: tuple[int, int]) -> Image.Image:
    """A picture as large as its cell allows: enlarged by a whole factor without smoothing, or reduced with it."""
    factor = min(cell[0] / picture.width, cell[1] / picture.height)
    if factor >= 1:
        return picture.convert("RGB").resize((picture.width * int(factor), picture.height * int(factor)), Image.Resampling.NEAREST)
    size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def write(pen: ImageDraw.ImageDraw, sheet: Sheet, text: str, corner: tuple[int, int], width: int) -> None:
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


def axes_text(axes: Sequence[Axis]) -> str:
    """The axes in the form in which A1111's web UI writes its x/y/z plots into a picture."""
    facts = ["Script: X/Y/Z plot"]
    for letter, axis in zip("XYZ", axes, strict=False):
        values = ", ".join(label.replace('"', "'") for label in axis.labels)
        facts += [f"{letter} Type: {axis.name}", f'{letter} Values: "{values}"']
    return ", ".join(facts)


@dataclass(frozen=True, slots=True)
class Turn:
    """One cell of a grid over knobs: what is drawn, and how."""

    place: Place
    shot: Shot
    knobs: Knobs


def turns(over: Mapping[str, Sequence[Any]], *, prompt: str, seed: int, knobs: Knobs) -> list[Turn]:
    """Every combination of knobs, the first one turning fastest; `seed` and `prompt` may be turned like knobs.

    Raises:
        UserError: there is no axis or more than three, one is no knob or has no values, or a value is out of its range.
    """
    check_axes(over, [*Knobs.model_fields, "prompt", "seed"])
    made: list[Turn] = []
    for place in places([len(values) for values in over.values()]):
        chosen = {key: values[i] for i, (key, values) in zip(place, over.items(), strict=True)}
        shot = Shot(str(chosen.pop("prompt", prompt)), read_seed(chosen.pop("seed", seed)))
        try:
            made.append(Turn(place, shot, Knobs.model_validate({**knobs.model_dump(), **chosen})))
        except ValidationError as error:
            raise UserError("; ".join(f"{m['loc'][0]}={m['input']}: {m['msg']}" for m in error.errors()) + ".") from None
    return made


def check_axes(over: Mapping[str, Sequence[Any]], known: Sequence[str]) -> None:
    """Refuse axes that no grid can have."""
    if not 1 <= len(over) <= MOST_AXES:
        raise UserError(f"a picture grid has 1 to {MOST_AXES} axes, and {len(over)} are given; give --over once for each.")
    for key, values in over.items():
        if key not in known:
            raise UserError(f"{key} is not a knob{suggest(key, known)}")
        if not values:
            raise UserError(f"{key} has no values; give some, such as {key}=1,2.")


def read_seed(value: Any) -> int:
    """A seed, as the generator takes it."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise UserError(f"seed={value}: a seed is a whole number from 0.")


def places(sizes: Sequence[int]) -> Iterator[Place]:
    """All positions in a grid of such sizes, the first coordinate changing fastest."""
    for number in range(math.prod(sizes)):
        place: list[int] = []
        for size in sizes:
            number, along = divmod(number, size)  # noqa: PLW2901 - what is left of it
            place.append(along)
        yield tuple(place)


def sweep_knobs(
    generator: Generator, over: Mapping[str, Sequence[Any]], *, prompt: str, seed: int = 0, knobs: Knobs | None = None, out: Path,
    base: str, adapter: str | None = None,
) -> Path:  # fmt: skip
    """Draw one prompt and seed over up to three knobs and write the labelled grid as a PNG, which says what made it; returns `out`.

    `base` and `adapter` are what the picture's text calls them. Nothing is drawn before all combinations are known to be drawable sizes
    and values.

    Raises:
        UserError: see `turns`; a size does not suit the base, a solver is unknown, or the picture cannot be written.
    """
    planned = turns(over, prompt=prompt, seed=seed, knobs=knobs or Knobs())
    for turn in planned:
        settled = generator.settle(turn.knobs)
        height, width = generator.size(settled)
        for stage in generator.family.stages:
            stage.solver(str(settled.solver), settled.steps, height, width)
    cells: dict[Place, Image.Image | str] = {turn.place: next(generator.draw([turn.shot], turn.knobs)) for turn in planned}
    axes = [Axis(key, tuple(map(written, values))) for key, values in over.items()]
    first = planned[0]
    settled = generator.settle(first.knobs)
    text = f"{settings_text(first.shot, settled, generator.size(settled), base, adapter)}, {axes_text(axes)}"
    write_picture(compose(axes, cells, title=f"{prompt} (seed {seed})"), out, text)
    return out
