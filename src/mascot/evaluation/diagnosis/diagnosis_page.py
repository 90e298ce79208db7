"""The diagnosis as HTML: a page of its own, and a section of the training and score pages."""

from __future__ import annotations

from pathlib import Path

from mascot.evaluation.diagnosis.findings import Diagnosis, ExampleStrip, Finding
from mascot.reports.page import ImageStrip, ImageTile, Page, PageRow, PageSection, read_thumbnail
from mascot.reports.table import Table
from mascot.reports.training_page import ReportFinding


def diagnosis_page(diagnosis: Diagnosis, folder: Path) -> Page:
    """Lay out the page of a diagnosis whose files lie in `folder`."""
    return Page(
        title=f"{diagnosis.subject} on {diagnosis.base}: diagnosis",
        about="The failure modes of the run: each with its number, the images that show it, and what to change.",
        sections=(diagnosis_section(diagnosis, folder),),
    )


def diagnosis_section(diagnosis: Diagnosis, folder: Path) -> PageSection:
    """Lay out the verdict, the remedies, all checks, and the images of each finding."""
    return PageSection(
        id="diagnosis",
        title="Diagnosis",
        lead=diagnosis.verdict,
        tables=(*([remedies_table(diagnosis)] if diagnosis.findings else []), checks_table(diagnosis)),
        rows=tuple(
            PageRow(
                title=finding_title(finding),
                about=finding.message,
                strips=tuple(image_strip(strip, folder) for strip in finding.example_strips),
            )
            for finding in diagnosis.findings
        ),
    )


def finding_title(finding: Finding) -> str:
    """Join severity and failure mode: `serious: underfitting`."""
    return f"{finding.severity}: {finding.title}"


def image_strip(example_strip: ExampleStrip, folder: Path) -> ImageStrip:
    """Load a strip's images in the size of pages."""
    return ImageStrip(
        name=example_strip.title,
        tiles=tuple(
            ImageTile(image=read_thumbnail(folder / image.file), alt=image.words, caption="")
            for image in example_strip.images
        ),
    )


def remedies_table(diagnosis: Diagnosis) -> Table:
    """Lay out one row for each remedy."""
    return Table(
        title="what to change, one at a time, the likeliest to help first",
        head=("against", "option of mascot train", "why"),
        rows=tuple(
            (finding.title, remedy.option, remedy.why) for finding in diagnosis.findings for remedy in finding.remedies
        ),
    )


def checks_table(diagnosis: Diagnosis) -> Table:
    """Lay out one row for each check, triggered or not; notes below list the unavailable checks."""
    return Table(
        title="checks: shares of the way from the base model to the photos, or of the base model's own value",
        head=("failure mode", "statistic", "value (95 % interval)", "triggered", ""),
        rows=tuple(
            (
                check.title,
                check.statistic,
                f"{check.value:.2f}" + (f" ({check.low:.2f} to {check.high:.2f})" if check.high > check.low else ""),
                f"{'above' if check.above else 'below'} {check.threshold:.2f}",
                "found" if check.triggered else "",
            )
            for check in diagnosis.checks
        ),
        notes=(
            *(f"not checked: {name}: {reason}" for name, reason in diagnosis.unavailable.items()),
            *(f"{name}: {line}" for name, line in diagnosis.encoders.items()),
        ),
    )


def finding_entries(diagnosis: Diagnosis, folder: Path) -> tuple[ReportFinding, ...]:
    """Convert the findings to entries of the training report; files lie in `folder`."""
    return tuple(
        ReportFinding(
            severity=finding.severity,
            title=finding.title,
            message=finding.message,
            remedies=tuple((remedy.option, remedy.why) for remedy in finding.remedies),
            strips=tuple(
                (
                    strip.title,
                    tuple((read_thumbnail(folder / image.file), image.words) for image in strip.images),
                )
                for strip in finding.example_strips
            ),
        )
        for finding in diagnosis.findings
    )
