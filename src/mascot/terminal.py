"""The commands as a person sees them: tables, a progress bar with time left, where things were put."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from mascot.api import find_token
from mascot.api.compare import compare
from mascot.api.cross_validate import cross_validate
from mascot.api.diagnose import diagnose
from mascot.api.doctor import doctor
from mascot.api.evaluate import calibrate, evaluate
from mascot.api.evaluate_suite import evaluate_suite
from mascot.api.sweep import sweep, turn_knobs
from mascot.api.train import train
from mascot.data.photos import PhotoSet
from mascot.data.prompt_templates import fill
from mascot.errors import UserError, printable
from mascot.evaluation.diagnosis.diagnosis_page import checks_table
from mascot.evaluation.diagnosis.findings import Diagnosis
from mascot.evaluation.score_tables import calibration_table, comparison_table, folds_table, means_table, runs_table
from mascot.evaluation.selection import token_choice
from mascot.experiments.leaderboard_page import leaderboard_table
from mascot.experiments.search_space import Range, parse_over
from mascot.experiments.suite_page import difference_tables, other_table, paper_table
from mascot.generation.knobs import Knobs, settings_text
from mascot.generation.loading import open_generator, plan_shots, resolve_adapter, usual_knobs
from mascot.models.devices import choose_device
from mascot.recipe.overrides import merge, parse_overrides, read_toml
from mascot.recipe.recipe import Recipe
from mascot.reports.table import NONE
from mascot.reports.table import Table as Scored
from mascot.storage.atomic_write import fresh_path
from mascot.storage.image_files import picture_stem, write_picture
from mascot.storage.run_folder import Run

SMOOTHING = 0.95
"""Of the loss on the progress bar: single steps jump with their noise level."""


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


COUNTED: Mapping[str, str] = {
    "token": "looking for a token, once for this base: {} pictures; --token WORD skips it",
    "prior": "drawing {} class pictures with the untouched base, unless they are cached",
    "choosing": "choosing the checkpoint and the knobs draws at most {} pictures",
    "drawing": "looking for what is wrong draws {} pictures, unless they are kept",
}
"""What is said before pictures are drawn that cost time; nothing where there are none."""


class Watch:
    """Shows a training as it goes."""

    def __init__(self, console: Console, bar: Progress) -> None:
        self.console, self.bar, self.steps = console, bar, 0
        self.task: Any = None
        self.loss: float | None = None

    def __call__(self, phase: str, facts: Any) -> None:
        """Show one thing that happened."""
        if phase == "photos":
            show_photos(self.console, facts)
        elif phase in COUNTED:
            if facts:
                self.console.print(COUNTED[phase].format(facts), markup=False)
        elif phase == "steps":
            self.steps = facts
        elif phase == "chosen":
            self.console.print(facts, markup=False)
            self.bar.update(self.task, completed=self.steps, description="turning the knobs, drawing the report")
        elif phase == "knobs":
            self.console.print(f"knobs: {facts}", markup=False)
        elif phase == "diagnosis":
            show_findings(self.console, facts)
        elif phase == "effective":
            show_rows(self.console, "effective settings", facts)
            self.task = self.bar.add_task("training", total=self.steps, loss="")
        elif phase == "step":
            self.loss = facts.subject_loss if self.loss is None else SMOOTHING * self.loss + (1 - SMOOTHING) * facts.subject_loss
            self.bar.update(self.task, completed=facts.number, loss=f"loss {self.loss:.4f}")


def train_visibly(recipe: Recipe, out: Path | None, *, resume: bool) -> Run:
    """Train with a progress bar, and say where everything lies."""
    quiet_libraries()
    console = Console(stderr=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        run = train(recipe, out=out, resume=resume, progress=Watch(console, bar))
    console.print(f"adapter: {run.adapter}\nreport:  {run.report}", markup=False, soft_wrap=True)
    return run


def generate_visibly(
    where: Path, prompts: Sequence[str], turned: dict[str, Any], *, count: int, seed: int, base: str | None, out: Path | None
) -> None:
    """Draw, write each picture with its settings, and print where it is."""
    quiet_libraries()
    adapter, path = resolve_adapter(where)
    usual = usual_knobs(adapter)
    try:
        knobs = Knobs.model_validate(usual.model_dump() | turned)
    except ValidationError as error:
        mistakes = "; ".join(f"--{str(m['loc'][0]).replace('_', '-')} {m['input']}: {m['msg']}" for m in error.errors())
        raise UserError(f"{mistakes}.") from None
    shots = plan_shots(adapter, prompts, count=count, seed=seed)
    generator, _, name = open_generator(where, base=base)
    folder = out or path.parent / "pictures"
    knobs = generator.settle(knobs)
    height, width = generator.size(knobs)
    for shot, picture in zip(shots, generator.draw(shots, knobs), strict=True):
        target = picture_path(folder, shot.prompt, shot.seed)
        write_picture(picture, target, settings_text(shot, knobs, (height, width), name, path.name))
        print(target, flush=True)  # noqa: T201 - the command's output, one path a line


def picture_path(folder: Path, prompt: str, seed: int) -> Path:
    """Name a picture by its prompt and seed; one that exists is never overwritten."""
    return fresh_path(folder, picture_stem(prompt, seed), ".png")


def doctor_visibly(recipe: Recipe, *, measure: bool) -> None:
    """Print the doctor's findings."""
    quiet_libraries()
    console = Console()
    checkup = doctor(recipe, measure=measure)
    show_photos(console, checkup.photos)
    for finding in checkup.audit.findings:
        style = "yellow" if finding.severity == "warning" else None
        console.print(f"{finding.severity}: {finding.message} {finding.remedy}", style=style, markup=False)
    show_rows(console, "effective settings", checkup.settings)
    captions = " | ".join(fill(template, checkup.subject) for template in recipe.dataset.templates)
    console.print(f"photos without a caption of their own are called: {captions}", markup=False)


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
        watches = [EvaluationWatch(bar, str(run)) for run in runs]
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


class EvaluationWatch:
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
        watch = EvaluationWatch(bar, str(run))
        found = diagnose(run, **options, progress=watch)
    show_findings(console, found)
    for finding in found.findings:
        console.print(f"\n{finding.severity}: {finding.ailment}\n{finding.message}", markup=False, highlight=False)
        for remedy in finding.remedies:
            console.print(f"- {remedy.words}", markup=False, highlight=False)
    console.print()
    show_table(console, checks_table(found))
    console.print(f"pictures: {watch.page}", markup=False, soft_wrap=True)


def show_findings(console: Console, found: Diagnosis) -> None:
    """Print the verdict, and a line for each finding."""
    console.print(found.verdict, markup=False, highlight=False)
    for finding in found.findings:
        tried = finding.remedies[0].words if finding.remedies else ""
        style = None if finding.severity == "note" else "yellow"
        console.print(f"{finding.severity}: {finding.ailment}: {tried}", style=style, markup=False, highlight=False)


def calibrate_visibly(folders: Sequence[Path], **options: Any) -> None:
    """Print how real photos score against each other."""
    quiet_libraries()
    rows, judges = calibrate(folders, **options)
    show_table(Console(), calibration_table(rows, judges))


def compare_visibly(one: Path, other: Path, out: Path | None) -> None:
    """Print how two runs differ, and say where their pictures are side by side."""
    quiet_libraries()
    pages: list[Path] = []
    comparison = compare(one, other, out=out, progress=lambda _, page: pages.append(page))
    console = Console()
    show_table(console, comparison_table(comparison))
    console.print(f"side by side: {pages[0]}", markup=False, soft_wrap=True)


def show_table(console: Console, table: Scored) -> None:
    """Print a table of scores and what has to be read with it."""
    shown = Table(title=escape(table.title), title_justify="left", box=None, padding=(0, 2, 0, 0))
    for number, name in enumerate(table.head):
        numeric = all(row[number][-1:] in {*"0123456789)", NONE} for row in table.rows)
        shown.add_column(escape(name), overflow="fold", justify="right" if numeric else "left")
    for row in table.rows:
        shown.add_row(*map(escape, row))
    console.print(shown)
    for note in table.notes:
        console.print(f"- {note}", markup=False, highlight=False)
    console.print()


def sweep_visibly(
    file: Path, over: Sequence[str], overrides: Sequence[str], *, trials: int | None, by: str, images: int, prompt: str | None, engine: str,
    address: str | None, out: Path | None,
) -> None:  # fmt: skip
    """Sweep, tell each run as it ends, and print the leaderboard."""
    quiet_libraries()
    console = Console()
    values = merge(read_toml(file), parse_overrides(overrides))

    def watch(phase: str, facts: Any) -> None:
        if phase == "points":
            console.print(f"{facts} runs", markup=False)
        elif phase == "entry":
            said = facts.failure or ", ".join(f"{name} {score.mean:.3f}" for name, score in facts.scores.items() if score.mean is not None)
            console.print(f"{facts.label}: {said}", markup=False)
        elif phase in {"leaderboard", "grid", "page"}:
            console.print(f"{phase}: {facts}", markup=False, soft_wrap=True)

    folder = out or Path("runs") / f"sweep-{file.stem}"
    shown = {} if prompt is None else {"prompt": prompt}
    board = sweep(
        values, parse_over(over), out=folder, by=by, trials=trials, images=images, engine=engine, address=address, progress=watch, **shown
    )
    show_table(console, leaderboard_table(board, metrics=(board.by,)))  # all other metrics are in the file and on the page


def turn_visibly(where: Path, over: Sequence[str], *, prompt: str | None, out: Path | None) -> None:
    """Draw a grid of knobs, and print where it is."""
    quiet_libraries()
    choices = parse_over(over)
    listed = {key: values for key, values in choices.items() if not isinstance(values, Range)}
    if len(listed) < len(choices):
        raise UserError("knobs are drawn at the values that are given; write them with commas, such as guidance=3,5,9.")
    _, path = resolve_adapter(where)
    target = out or fresh_path(path.parent, "knobs", ".png")
    shown = {} if prompt is None else {"prompt": prompt}
    print(turn_knobs(where, listed, out=target, **shown))  # noqa: T201 - the command's output


def token_visibly(base: str, *, count: int, candidates: int, seed: int) -> None:
    """Find tokens, and print each with its numbers."""
    quiet_libraries()
    console = Console()
    findings = find_token.search(base, count=count, candidates=candidates, seed=seed, device=choose_device("auto"))
    show_rows(console, f"words that mean little to {base}, the least first", token_choice.rows_of(findings))
