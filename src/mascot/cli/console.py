"""The commands as a person sees them: tables, a progress bar with time left, where things were put."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mascot.data.photos import PhotoSet
from mascot.errors import printable
from mascot.evaluation.diagnosis.findings import Diagnosis
from mascot.reports.table import NO_VALUE
from mascot.reports.table import Table as Scored


def quiet_libraries() -> None:
    """Keep libraries' notices off the terminal; they say nothing that a user could act on."""
    warnings.filterwarnings("ignore")
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def show_rows(console: Console, title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values."""
    table = Table(title=title, show_header=False, title_justify="left", box=None, padding=(0, 2))
    for name, value in rows:
        table.add_row(name, value, style=None)
    console.print(table, markup=False)


def show_photos(console: Console, photos: PhotoSet) -> None:
    """Print which photos are used and which files are not."""
    console.print(f"{len(photos.photos)} photos: {', '.join(printable(photo.path) for photo in photos.photos)}", markup=False)
    for refusal in photos.refused:
        console.print(f"not used: {refusal.reason}", style="yellow", markup=False)
    for note in photos.notes:
        console.print(f"note: {note}", markup=False)


def show_findings(console: Console, found: Diagnosis) -> None:
    """Print the verdict, and a line for each finding."""
    console.print(found.verdict, markup=False, highlight=False)
    for finding in found.findings:
        tried = finding.remedies[0].words if finding.remedies else ""
        style = None if finding.severity == "note" else "yellow"
        console.print(f"{finding.severity}: {finding.failure_mode}: {tried}", style=style, markup=False, highlight=False)


def show_table(console: Console, table: Scored) -> None:
    """Print a table of scores and what has to be read with it."""
    shown = Table(title=escape(table.title), title_justify="left", box=None, padding=(0, 2, 0, 0))
    for number, name in enumerate(table.head):
        numeric = all(row[number][-1:] in {*"0123456789)", NO_VALUE} for row in table.rows)
        shown.add_column(escape(name), overflow="fold", justify="right" if numeric else "left")
    for row in table.rows:
        shown.add_row(*map(escape, row))
    console.print(shown)
    for note in table.notes:
        console.print(f"- {note}", markup=False, highlight=False)
    console.print()
