"""TODO cli.evaluate."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mascot.api.compare import compare
from mascot.api.cross_validate import cross_validate
from mascot.api.diagnose import diagnose
from mascot.api.evaluate import calibrate, evaluate
from mascot.api.evaluate_suite import evaluate_suite
from mascot.cli.console import quiet_libraries, show_findings, show_table
from mascot.errors import UserError
from mascot.evaluation.diagnosis.diagnosis_page import checks_table
from mascot.evaluation.diagnosis.findings import Diagnosis
from mascot.evaluation.score_tables import calibration_table, comparison_table, folds_table, means_table, runs_table
from mascot.experiments.suite_page import difference_tables, other_table, paper_table
from mascot.generation.loading import resolve_adapter


def evaluate_visibly(runs: Sequence[Path], *, folds: int | Literal["all"] | None = None, **options: Any) -> None:
    """Evaluate each run with a progress bar, print one table of all, and say where everything lies."""
    quiet_libraries()
    console = Console()
    if len(runs) > 1 and options.get("photos"):
        raise UserError("--photos are of one subject; evaluate one run at a time with them.")
    for run in runs:
        resolve_adapter(run)  # before hours are spent on the first
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        watches = [EvaluationDisplay(bar, str(run)) for run in runs]
        judge = evaluate if folds is None else partial(cross_validate, folds=None if folds == "all" else folds)
        scores = [judge(run, **options, diagnosed=True, progress=watch) for run, watch in zip(runs, watches, strict=True)]
    show_table(console, runs_table(scores))
    show_table(console, means_table(scores))
    for one in scores:
        if one.folds:
            show_table(console, folds_table(one))
    for watch in watches:
        if watch.diagnosis is not None:
            show_findings(console, watch.diagnosis)
        console.print(f"pictures: {watch.page}", markup=False, soft_wrap=True)


def suite_visibly(folder: Path, out: Path | None, **options: Any) -> None:
    """Evaluate a collection with a progress bar, print the table, and say where everything lies."""
    quiet_libraries()
    console = Console()
    place = out or Path("runs") / f"suite-{Path(os.path.realpath(folder)).name}"
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    pages: list[Path] = []
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("teaching, drawing, scoring", total=None)

        def watch(phase: str, facts: Any) -> None:
            if phase == "cells":
                bar.update(task, total=facts)
            elif phase in {"cell", "failure"}:
                bar.advance(task)
                said = f"{facts.sentence}" if phase == "failure" else "done"
                console.print(f"{facts.subject}, {facts.arm}: {said}", markup=False)
            elif phase == "report":
                pages.append(facts)

        found = evaluate_suite(folder, out=place, progress=watch, **options)
    show_table(console, paper_table(found))
    show_table(console, other_table(found))
    for table in difference_tables(found):
        show_table(console, table)
    console.print(f"pictures: {pages[0]}", markup=False, soft_wrap=True)


class EvaluationDisplay:
    """Shows an evaluation as it goes."""

    def __init__(self, bar: Progress, name: str) -> None:
        self.bar, self.name = bar, name
        self.task: Any = None
        self.page: Path | None = None
        self.diagnosis: Diagnosis | None = None

    def __call__(self, phase: str, facts: Any) -> None:
        """Show one thing that happened."""
        if phase == "fold":
            photo, number, count = facts
            self.name = f"without {photo} ({number} of {count})"
        elif phase == "steps":
            self.task = self.bar.add_task(f"training {self.name}", total=facts)
        elif phase == "step":
            self.bar.update(self.task, completed=facts.number)
        elif phase == "drawing":  # a second time for the diagnosis
            self.task = self.bar.add_task(f"drawing {self.name}", total=facts)
        elif phase == "diagnosis":
            self.diagnosis = facts
        elif phase == "picture":
            self.bar.advance(self.task)
        elif phase == "measuring":
            self.bar.update(self.task, description=f"scoring {self.name}")
        elif phase == "report":
            self.bar.update(self.task, description=self.name)
            self.page = facts


def diagnose_visibly(run: Path, **options: Any) -> None:
    """Diagnose with a progress bar, print the findings in words, and say where the pictures are."""
    quiet_libraries()
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        watch = EvaluationDisplay(bar, str(run))
        found = diagnose(run, **options, progress=watch)
    show_findings(console, found)
    for finding in found.findings:
        console.print(f"\n{finding.severity}: {finding.failure_mode}\n{finding.message}", markup=False, highlight=False)
        for remedy in finding.remedies:
            console.print(f"- {remedy.words}", markup=False, highlight=False)
    console.print()
    show_table(console, checks_table(found))
    console.print(f"pictures: {watch.page}", markup=False, soft_wrap=True)


def calibrate_visibly(folders: Sequence[Path], **options: Any) -> None:
    """Print how real photos score against each other."""
    quiet_libraries()
    rows, encoders = calibrate(folders, **options)
    show_table(Console(), calibration_table(rows, encoders))


def compare_visibly(one: Path, other: Path, out: Path | None) -> None:
    """Print how two runs differ, and say where their pictures are side by side."""
    quiet_libraries()
    pages: list[Path] = []
    comparison = compare(one, other, out=out, progress=lambda _, page: pages.append(page))
    console = Console()
    show_table(console, comparison_table(comparison))
    console.print(f"side by side: {pages[0]}", markup=False, soft_wrap=True)
