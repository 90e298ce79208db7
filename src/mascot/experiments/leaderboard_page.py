"""A sweep in words and pictures: its leaderboard as a table, and a page with the grid, each run's picture and the way to its scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mascot.evaluation.scores import METRICS, title_of
from mascot.experiments.leaderboard import Entry, Leaderboard
from mascot.generation.image_grid import written
from mascot.reports.page import ImageStrip, ImageTile, Page, PageRow, PageSection, shown
from mascot.reports.table import Table
from mascot.storage.image_files import open_image

SHARED = (
    "runs share a rank where their 95 % intervals overlap, or are tied through others: no number here tells them apart"
)


def leaderboard_table(board: Leaderboard, metrics: Sequence[str] | None = None) -> Table:
    """A row for each run, best first: rank, what was varied, the metrics (all, the ranking one first), the run's folder."""
    metrics = board.metrics if metrics is None else metrics
    good = "low" if board.lowest else "high"
    return Table(
        title=f"ranked by {title_of(board.by)} ({good} is good)",
        head=("rank", *board.keys, *map(title_of, metrics), "run"),
        rows=tuple(
            (rank_of(entry), *values_of(entry, board.keys), *scores_of(entry, metrics), entry.name)
            for entry in board.entries
        ),
        notes=(
            *notes_of(board),
            *(f"{entry.label} failed: {entry.failure}" for entry in board.entries if entry.failure),
        ),
    )


def rank_of(entry: Entry) -> str:
    """A run's rank, or that it has none."""
    return "failed" if entry.failure else "none" if entry.rank is None else str(entry.rank)


def values_of(entry: Entry, keys: Sequence[str]) -> list[str]:
    """A run's values of what was varied."""
    return [written(entry.changes[key]) if key in entry.changes else "" for key in keys]


def scores_of(entry: Entry, metrics: Sequence[str]) -> list[str]:
    """A run's scores with their intervals."""
    return [entry.scores[metric].describe() if metric in entry.scores else "" for metric in metrics]


def notes_of(board: Leaderboard) -> list[str]:
    """What has to be read with a leaderboard."""
    ranked = [entry for entry in board.entries if entry.rank is not None]
    notes = [board.scored_by] * bool(board.scored_by)
    if board.by in METRICS:
        notes.append(f"{title_of(board.by)}: {METRICS[board.by].means}")
    if len({entry.rank for entry in ranked}) < len(ranked):
        notes.append(SHARED)
    if any(score.mean is None for entry in ranked for score in entry.scores.values()):
        notes.append("why a number could not be computed is said in the scores of the run itself")
    labels = {entry.name: entry.label for entry in ranked}
    first = {entry.name for entry in board.best}
    for entry in board.best:
        if tied := [labels[name] for name in entry.behind if name in first]:
            notes.append(f"{entry.label} is clearly behind {', '.join(tied)} all the same")
    return notes


def leaderboard_page(
    board: Leaderboard, *, grid: Path | None, images: Mapping[str, Path], links: Mapping[str, str]
) -> Page:
    """Show a sweep; `images` are what runs drew of one prompt and seed, and `links` lead to their scores, both by the runs' names.

    Raises:
        UserError: a picture cannot be read.
    """
    sections = [PageSection(id="leaderboard", title="Leaderboard", tables=(leaderboard_table(board),))]
    if grid is not None:
        words = f"one picture of each run, by {' and '.join(board.keys)}"
        whole = ImageStrip(name="", tiles=(ImageTile(image=open_image(grid), words=words, below=""),), whole=True)
        sections.append(
            PageSection(
                id="grid",
                title="One prompt, one seed",
                rows=(PageRow(title=", ".join(board.keys), about="", strips=(whole,)),),
            )
        )
    rows = tuple(run_row(board, entry, images.get(entry.name), links.get(entry.name, "")) for entry in board.entries)
    lead = (
        "A name leads to all pictures and scores of its run, as long as this page lies in the sweep's folder."
        if links
        else ""
    )
    return Page(
        title=f"A sweep over {', '.join(board.keys)}",
        about=f"{len(board.entries)} runs, best first.",
        sections=(*sections, PageSection(id="runs", title="Runs", lead=lead, rows=rows)),
    )


def run_row(board: Leaderboard, entry: Entry, image: Path | None, link: str) -> PageRow:
    """One run: what it drew, its rank and score, or why it came to nothing."""
    about = f"failed: {entry.failure}" if entry.failure else ""
    if not entry.failure:
        score = (
            f"{title_of(board.by)} {entry.scores[board.by].describe()}" if board.by in entry.scores else "not scored"
        )
        about = score if entry.rank is None else f"rank {entry.rank}, {score}"
    tiles = () if image is None else (ImageTile(image=shown(image), words=entry.label, below=""),)
    return PageRow(
        title=entry.label or entry.name,
        about=about,
        strips=(ImageStrip(name="", tiles=tiles),) * bool(tiles),
        link=link,
    )
