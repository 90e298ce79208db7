"""The table and the page of a leaderboard: ranks, image grid, and each run's image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mascot.evaluation.scores import METRICS, metric_title
from mascot.experiments.leaderboard import Entry, Leaderboard
from mascot.generation.image_grid import format_value
from mascot.reports.page import ImageStrip, ImageTile, Page, PageRow, PageSection, read_thumbnail
from mascot.reports.table import Table
from mascot.storage.image_files import open_image

SHARED_RANKS = "runs share a rank if their 95 % intervals overlap, or if other runs tie them"


def leaderboard_table(board: Leaderboard, metrics: Sequence[str] | None = None) -> Table:
    """Build the table of a leaderboard, one row for each run, the best first.

    Columns are rank, varied settings, `metrics` (by default all, the ranking one first) and folder.
    """
    metrics = board.metrics if metrics is None else metrics
    better = "low" if board.lowest else "high"
    return Table(
        title=f"ranked by {metric_title(board.by)} ({better} is better)",
        head=("rank", *board.keys, *map(metric_title, metrics), "run"),
        rows=tuple(
            (rank_cell(entry), *setting_cells(entry, board.keys), *score_cells(entry, metrics), entry.name)
            for entry in board.entries
        ),
        notes=(
            *leaderboard_notes(board),
            *(f"{entry.label} failed: {entry.failure}" for entry in board.entries if entry.failure),
        ),
    )


def rank_cell(entry: Entry) -> str:
    """Write a run's rank, `failed`, or `none`."""
    return "failed" if entry.failure else "none" if entry.rank is None else str(entry.rank)


def setting_cells(entry: Entry, keys: Sequence[str]) -> list[str]:
    """Write a run's values of the varied settings."""
    return [format_value(entry.changes[key]) if key in entry.changes else "" for key in keys]


def score_cells(entry: Entry, metrics: Sequence[str]) -> list[str]:
    """Write a run's scores with their intervals."""
    return [entry.scores[metric].describe() if metric in entry.scores else "" for metric in metrics]


def leaderboard_notes(board: Leaderboard) -> list[str]:
    """List what a reader of a leaderboard has to know."""
    ranked = [entry for entry in board.entries if entry.rank is not None]
    notes = [board.scored_by] * bool(board.scored_by)
    if board.by in METRICS:
        notes.append(f"{metric_title(board.by)}: {METRICS[board.by].description}")
    if len({entry.rank for entry in ranked}) < len(ranked):
        notes.append(SHARED_RANKS)
    if any(score.mean is None for entry in ranked for score in entry.scores.values()):
        notes.append("the scores of a run say why a number of it could not be computed")
    labels = {entry.name: entry.label for entry in ranked}
    first = {entry.name for entry in board.best}
    for entry in board.best:
        if better := [labels[name] for name in entry.behind if name in first]:
            notes.append(f"{entry.label} is clearly worse than {', '.join(better)}, though they share a rank")
    return notes


def leaderboard_page(
    board: Leaderboard, *, grid: Path | None, images: Mapping[str, Path], links: Mapping[str, str]
) -> Page:
    """Build the page of a sweep.

    `images` are the runs' images of one prompt and seed, and `links` the paths of their scores,
    both by the runs' names. `grid` is the file of the image grid.

    Raises:
        UserError: an image cannot be read.
    """
    sections = [PageSection(id="leaderboard", title="Leaderboard", tables=(leaderboard_table(board),))]
    if grid is not None:
        words = f"one image of each run, by {' and '.join(board.keys)}"
        whole = ImageStrip(name="", tiles=(ImageTile(image=open_image(grid), alt=words, caption=""),), full_width=True)
        sections.append(
            PageSection(
                id="grid",
                title="One prompt, one seed",
                rows=(PageRow(title=", ".join(board.keys), about="", strips=(whole,)),),
            )
        )
    rows = tuple(run_row(board, entry, images.get(entry.name), links.get(entry.name, "")) for entry in board.entries)
    lead = (
        "Each name links to the run's images and scores, as long as this page is in the sweep's folder."
        if links
        else ""
    )
    return Page(
        title=f"A sweep over {', '.join(board.keys)}",
        about=f"{len(board.entries)} runs, best first.",
        sections=(*sections, PageSection(id="runs", title="Runs", lead=lead, rows=rows)),
    )


def run_row(board: Leaderboard, entry: Entry, image: Path | None, link: str) -> PageRow:
    """Build the row of one run: its image, its rank and score, or why it failed."""
    about = f"failed: {entry.failure}" if entry.failure else ""
    if not entry.failure:
        score = (
            f"{metric_title(board.by)} {entry.scores[board.by].describe()}"
            if board.by in entry.scores
            else "not scored"
        )
        about = score if entry.rank is None else f"rank {entry.rank}, {score}"
    tiles = () if image is None else (ImageTile(image=read_thumbnail(image), alt=entry.label, caption=""),)
    return PageRow(
        title=entry.label or entry.name,
        about=about,
        strips=(ImageStrip(name="", tiles=tiles),) * bool(tiles),
        link=link,
    )
