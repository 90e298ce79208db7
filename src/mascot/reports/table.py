"""TODO reports.table."""

from __future__ import annotations

from dataclasses import dataclass

NO_VALUE = "-"
"""In place of a number that cannot be computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Words in rows; each row is as long as the head."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    """What has to be read with it."""


def digits(value: float | None) -> str:
    """Write a score with three digits."""
    return NO_VALUE if value is None else f"{value:.3f}".replace("-0.000", "0.000")
