"""What ails a run, as a page shows it: on a page of its own, and as a part of the pages of training and of scores."""

from __future__ import annotations

from pathlib import Path

from mascot.evaluation.diagnosis.findings import Diagnosis, ExampleStrip, Finding
from mascot.reports.page import ImageStrip, ImageTile, Page, PageRow, PageSection, shown
from mascot.reports.table import Table
from mascot.reports.training_page import ReportFinding


def diagnosis_page(diagnosis: Diagnosis, folder: Path) -> Page:
    """Show a diagnosis whose files lie in `folder`."""
    return Page(
        title=f"{diagnosis.subject} on {diagnosis.base}: diagnosis",
        about="What went wrong, by name: each with its number, the pictures that show it, and what to change.",
        sections=(diagnosis_section(diagnosis, folder),),
    )


def diagnosis_section(diagnosis: Diagnosis, folder: Path) -> PageSection:
    """The verdict, what to change, all that was looked at, and the pictures of each finding."""
    return PageSection(
        id="diagnosis",
        title="Diagnosis",
        lead=diagnosis.verdict,
        tables=(*([remedies_table(diagnosis)] if diagnosis.findings else []), checks_table(diagnosis)),
        rows=tuple(
            PageRow(
                title=titled(finding),
                about=finding.message,
                strips=tuple(strip(one, folder) for one in finding.example_strips),
            )
            for finding in diagnosis.findings
        ),
    )


def titled(finding: Finding) -> str:
    """Severity and name."""
    return f"{finding.severity}: {finding.failure_mode}"


def strip(example_strip: ExampleStrip, folder: Path) -> ImageStrip:
    """Its pictures in the size of pages."""
    return ImageStrip(
        name=example_strip.title,
        tiles=tuple(
            ImageTile(image=shown(folder / image.file), words=image.words, below="") for image in example_strip.images
        ),
    )


def remedies_table(diagnosis: Diagnosis) -> Table:
    """A row for each change."""
    return Table(
        title="what to change, one at a time, the likeliest help first",
        head=("against", "option of mascot train", "why"),
        rows=tuple(
            (finding.failure_mode, remedy.option, remedy.why)
            for finding in diagnosis.findings
            for remedy in finding.remedies
        ),
    )


def checks_table(diagnosis: Diagnosis) -> Table:
    """A row for each number, ill or not; below them what could not be looked at."""
    return Table(
        title="what was looked at: shares of the way from the untouched base to the photos, or of the base's own",
        head=("ailment", "measured", "number (95 % interval)", "ill", ""),
        rows=tuple(
            (
                check.failure_mode,
                check.measured,
                f"{check.value:.2f}" + (f" ({check.low:.2f} to {check.high:.2f})" if check.high > check.low else ""),
                f"{'above' if check.above else 'below'} {check.threshold:.2f}",
                "found" if check.triggered else "",
            )
            for check in diagnosis.checks
        ),
        notes=(
            *(f"not looked at: {what}: {why}" for what, why in diagnosis.unseen.items()),
            *(f"{name}: {line}" for name, line in diagnosis.encoders.items()),
        ),
    )


def finding_entries(diagnosis: Diagnosis, folder: Path) -> tuple[ReportFinding, ...]:
    """The findings as the report of a training shows them."""
    return tuple(
        ReportFinding(
            severity=finding.severity,
            title=finding.failure_mode,
            message=finding.message,
            remedies=tuple((remedy.option, remedy.why) for remedy in finding.remedies),
            strips=tuple(
                (
                    example_strip.title,
                    tuple((shown(folder / image.file), image.words) for image in example_strip.images),
                )
                for example_strip in finding.example_strips
            ),
        )
        for finding in diagnosis.findings
    )
