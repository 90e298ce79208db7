"""A table of images over any two of checkpoint, adapter, seed and the three knobs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from mascot.api.library.drawing import Drawer, DrawingRequest, DrawnImage
from mascot.errors import UserError, shorten
from mascot.generation.stack.adapter_sources import AdapterSource

Axis = Literal["checkpoint", "adapter", "guidance", "unet_scale", "text_scale", "seed"]
"""What a table varies."""
AXES: Final[tuple[Axis, ...]] = get_args(Axis)
NAMED: Final[Collection[str]] = frozenset({"checkpoint", "adapter"})
"""Axes whose values are names of adapters."""
MOST_CELLS: Final = 36
Resolve = Callable[[str], AdapterSource]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell: its column and row, and its image or the sentence that says why there is none."""

    column: int
    row: int
    drawn: DrawnImage | None
    sentence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixAxis:
    """One axis, and its values as they were written."""

    axis: Axis
    values: tuple[str, ...]


def read_axis(axis: str, text: str) -> MatrixAxis:
    """Read the values of an axis, which commas separate.

    Raises:
        UserError: the axis is unknown, or a value is no number where one must be.
    """
    if axis not in AXES:
        raise UserError(f"{shorten(axis, 40)!r} is nothing that a table varies; choose one of {', '.join(AXES)}.")
    values = tuple(value.strip() for value in text.split(",") if value.strip())
    if not values:
        raise UserError(f"{axis} has no values; give some, with commas between them.")
    for value in values if axis not in NAMED else ():
        number(axis, value)
    return MatrixAxis(axis=axis, values=values)


def number(axis: str, value: str) -> float | int:
    """Read a number of an axis; seeds are whole.

    Raises:
        UserError: it is none.
    """
    try:
        return int(value) if axis == "seed" else float(value)
    except ValueError:
        kind = "a whole number" if axis == "seed" else "a number"
        raise UserError(f"{axis} {shorten(value, 40)!r} is not {kind}; give some such as 1, 2.") from None


def draw_matrix(
    drawer: Drawer, request: DrawingRequest, columns: MatrixAxis, rows: MatrixAxis, resolve: Resolve
) -> Iterator[Cell]:
    """Generate one image for each cell, those of one adapter after each other.

    A cell that cannot be generated holds the sentence that says why, and the others are still made.

    Raises:
        UserError: both axes are one, or there are too many cells.
    """
    if columns.axis == rows.axis or (columns.axis in NAMED and rows.axis in NAMED):
        raise UserError("Both axes vary the same thing; choose two that do not.")
    if len(columns.values) * len(rows.values) > MOST_CELLS:
        raise UserError(f"The table has more than {MOST_CELLS} images; give fewer values.")
    for column, row in order_of(columns, rows):
        try:
            wanted = request
            for axis, index in ((columns, column), (rows, row)):
                wanted = with_value(wanted, axis.axis, axis.values[index], resolve)
            yield Cell(column=column, row=row, drawn=drawer.draw(wanted)[0])
        except UserError as error:
            yield Cell(column=column, row=row, drawn=None, sentence=str(error))


def order_of(columns: MatrixAxis, rows: MatrixAxis) -> Sequence[tuple[int, int]]:
    """Order the cells so that those of one adapter follow each other."""
    cells = [(column, row) for row in range(len(rows.values)) for column in range(len(columns.values))]
    return sorted(cells) if columns.axis in NAMED else cells


def with_value(request: DrawingRequest, axis: Axis, value: str, resolve: Resolve) -> DrawingRequest:
    """Set what an axis varies.

    Raises:
        UserError: an adapter is not there, or a value is no number.
    """
    if axis in NAMED:
        return replace(request, sources=(resolve(value),))
    if axis == "seed":
        return replace(request, seed=int(number(axis, value)))
    return replace(request, changes={**request.changes, axis: number(axis, value)})
