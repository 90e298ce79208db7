"""`show`: what a verb returned, as the output of a notebook's cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar, cast

from PIL.Image import Image

from mascot.api.doctor import DoctorReport
from mascot.errors import UserError
from mascot.evaluation.comparison import Comparison
from mascot.evaluation.diagnosis.diagnosis_page import checks_table
from mascot.evaluation.diagnosis.findings import Diagnosis
from mascot.evaluation.score_tables import comparison_table, prompts_table, runs_table
from mascot.evaluation.scores import Scores
from mascot.experiments.leaderboard import Leaderboard
from mascot.experiments.leaderboard_page import leaderboard_table
from mascot.reports.notebook.cells import CellImage, CellLine, CellPart, cell_image, render_cells
from mascot.reports.notebook.fragment import Fragment
from mascot.reports.notebook.live_view import PreviewRow, render_previews
from mascot.reports.table import Table
from mascot.storage.image_files import read_png
from mascot.storage.run_folder import Run

Value = TypeVar("Value")

Result = DoctorReport | Scores | Diagnosis | Comparison | Leaderboard | Image | Path
"""What a cell can show, alone or in a sequence."""


def show(result: Result | Run | Sequence[Result], *, captions: Sequence[str] = ()) -> Fragment:
    """Lay out what a verb returned as the output of a notebook's cell.

    Images are shown side by side, a single one or a PNG file at its own size, a run by its previews
    so far, and all else by its tables. `captions` are of images, in order; with fewer captions than
    images, each is of as many images in a row.

    Raises:
        UserError: it is nothing that can be shown, a file is no PNG of ours, or the captions do not
            go into the images.
    """
    if isinstance(result, Run):
        return show_previews(result)
    if isinstance(result, Image | Path) or not isinstance(result, Sequence):
        return Fragment(render_cells(list(parts_of(result, alone=True))))
    results = list(result)
    if results and all(isinstance(one, Scores) for one in results):
        return Fragment(render_cells([runs_table(cast("list[Scores]", results))]))
    if all(isinstance(one, Image) for one in results):
        return Fragment(render_cells([caption_images(cast("list[Image]", results), captions)]))
    return Fragment(render_cells([part for one in results for part in parts_of(one)]))


def show_previews(run: Run) -> Fragment:
    """Lay out the previews that a run has so far, a row for each step.

    Raises:
        UserError: a preview cannot be read, or there is none.
    """
    found = {step: [read_png(path) for path in paths] for step, paths in sorted(run.previews().items())}
    if not found:
        raise UserError(f"{run.folder} has no previews; train with previews.every=100, or another number of steps.")
    rows = [PreviewRow.of(step, [image for image, _ in files]) for step, files in found.items()]
    prompts = [texts.get("parameters", "").partition("\n")[0] for _, texts in next(iter(found.values()))]
    return Fragment(render_previews(rows, prompts))


def caption_images(images: Sequence[Image], captions: Sequence[str]) -> tuple[CellImage, ...]:
    """Put images side by side, each with its caption.

    Raises:
        UserError: there are more captions than images, or each cannot be of as many images.
    """
    if captions and len(images) % len(captions):
        raise UserError(
            f"{len(captions)} captions do not go into {len(images)} images; give one for each image, or for each "
            "prompt."
        )
    each = len(images) // len(captions) if captions else 0
    return tuple(cell_image(image, captions[i // each] if each else "") for i, image in enumerate(images))


def parts_of(result: object, *, alone: bool = False) -> Iterator[CellPart]:
    """Yield the parts of one result.

    Raises:
        UserError: it is nothing that can be shown.
    """
    if isinstance(result, Image):
        yield (cell_image(result, "", alone=alone),)
        return
    if isinstance(result, Path):
        yield (cell_image(read_png(result)[0], result.name, alone=alone),)
        return
    for kind, parts in PARTS.items():
        if isinstance(result, kind):
            yield from parts(result)
            return
    raise UserError(
        f"{type(result).__name__} is nothing that a cell can show; give images, a run, or what a verb of mascot "
        "returned."
    )


def parts_of_doctor(report: DoctorReport) -> Iterator[CellPart]:
    """Yield the photos, what is wrong with them, and the effective settings."""
    photos, refused = report.photos.photos, report.photos.refused
    yield CellLine(text=f"{len(photos)} photos are used: {', '.join(photo.path.name for photo in photos)}")
    yield from (CellLine(badge="warning", text=f"not used: {one.reason}") for one in refused)
    for finding in report.audit.findings:
        yield CellLine(badge=finding.severity, text=f"{finding.message} {finding.remedy}")
    yield Table(title="effective settings", head=(), rows=tuple(report.settings))


def parts_of_scores(scores: Scores) -> Iterator[CellPart]:
    """Yield the table of all metrics, and that of the prompts."""
    yield runs_table([scores])
    yield prompts_table(scores)


def parts_of_diagnosis(diagnosis: Diagnosis) -> Iterator[CellPart]:
    """Yield the verdict, each finding with its remedies, and all checks."""
    yield CellLine(text=diagnosis.verdict)
    for finding in diagnosis.findings:
        yield CellLine(badge=finding.severity, text=f"{finding.title}: {finding.message}")
        yield from (CellLine(text=f"→ {remedy.sentence}") for remedy in finding.remedies)
    yield checks_table(diagnosis)


def parts_for(
    kind: type[Value], parts: Callable[[Value], Iterator[CellPart]]
) -> tuple[type, Callable[[object], Iterator[CellPart]]]:
    """Pair a type with what lays out its values."""
    return kind, cast("Callable[[object], Iterator[CellPart]]", parts)


PARTS: Mapping[type, Callable[[object], Iterator[CellPart]]] = MappingProxyType(
    dict(
        [
            parts_for(DoctorReport, parts_of_doctor),
            parts_for(Scores, parts_of_scores),
            parts_for(Diagnosis, parts_of_diagnosis),
            parts_for(Comparison, lambda comparison: iter([comparison_table(comparison)])),
            parts_for(Leaderboard, lambda board: iter([leaderboard_table(board)])),
        ]
    )
)
"""Type of a result to what lays it out."""
