"""Tables of text, for pages and for the terminal."""

from __future__ import annotations

from dataclasses import dataclass

NO_VALUE = "-"
"""Stands for a score that cannot be computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of text under column heads; each row is as long as `head`."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    """Sentences below the table that explain its numbers."""


def format_score(value: float | None) -> str:
    """Write a score with three decimals; None becomes `NO_VALUE`."""
    return NO_VALUE if value is None else f"{value:.3f}".replace("-0.000", "0.000")
