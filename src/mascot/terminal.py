"""The commands as a person sees them: tables, a progress bar with time left, where things were put."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from mascot import verbs
from mascot.captions import fill
from mascot.errors import UserError
from mascot.generator import Knobs, settings_text, write_picture
from mascot.photos import PhotoSet, printable
from mascot.recipe import Recipe
from mascot.run import Run, fresh_path

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
        elif phase == "prior" and facts:
            self.console.print(f"drawing {facts} class pictures with the untouched base, unless they are cached", markup=False)
        elif phase == "steps":
            self.steps = facts
        elif phase == "effective":
            show_rows(self.console, "effective settings", facts)
            self.task = self.bar.add_task("training", total=self.steps, loss="")
        elif phase == "step":
            self.loss = facts.subject_loss if self.loss is None else SMOOTHING * self.loss + (1 - SMOOTHING) * facts.subject_loss
            self.bar.update(self.task, completed=facts.number, loss=f"loss {self.loss:.4f}")
            if facts.number == self.steps:
                self.bar.update(self.task, description="drawing the report")


def train_visibly(recipe: Recipe, out: Path | None, *, resume: bool) -> Run:
    """Train with a progress bar, and say where everything lies."""
    quiet_libraries()
    console = Console(stderr=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        run = verbs.train(recipe, out=out, resume=resume, progress=Watch(console, bar))
    console.print(f"adapter: {run.adapter}\nreport:  {run.report}", markup=False, soft_wrap=True)
    return run


def generate_visibly(
    where: Path, prompts: Sequence[str], turned: dict[str, Any], *, count: int, seed: int, base: str | None, out: Path | None
) -> None:
    """Draw, write each picture with its settings, and print where it is."""
    quiet_libraries()
    adapter, path = verbs.resolve_adapter(where)
    usual = verbs.usual_knobs(adapter)
    try:
        knobs = Knobs.model_validate(usual.model_dump() | turned)
    except ValidationError as error:
        mistakes = "; ".join(f"--{str(m['loc'][0]).replace('_', '-')} {m['input']}: {m['msg']}" for m in error.errors())
        raise UserError(f"{mistakes}.") from None
    shots = verbs.plan_shots(adapter, prompts, count=count, seed=seed)
    generator, _, name = verbs.open_generator(where, base=base)
    folder = out or path.parent / "pictures"
    knobs = generator.settle(knobs)
    height, width = generator.size(knobs)
    for shot, picture in zip(shots, generator.draw(shots, knobs), strict=True):
        target = picture_path(folder, shot.prompt, shot.seed)
        write_picture(picture, target, settings_text(shot, knobs, (height, width), name, path.name))
        print(target, flush=True)  # noqa: T201 - the command's output, one path a line


def picture_path(folder: Path, prompt: str, seed: int) -> Path:
    """Name a picture by its prompt and seed; one that exists is never overwritten."""
    words = "".join(letter if letter.isalnum() else "-" for letter in prompt.lower())
    stem = "-".join(part for part in words.split("-") if part)[:80] or "picture"
    stem = stem.encode()[:200].decode(errors="ignore")  # file systems count bytes, of which a letter may have four
    return fresh_path(folder, f"{stem}_{seed}", ".png")


def doctor_visibly(recipe: Recipe, *, measure: bool) -> None:
    """Print the doctor's findings."""
    quiet_libraries()
    console = Console()
    checkup = verbs.doctor(recipe, measure=measure)
    show_photos(console, checkup.photos)
    for finding in checkup.audit.findings:
        style = "yellow" if finding.severity == "warning" else None
        console.print(f"{finding.severity}: {finding.message} {finding.remedy}", style=style, markup=False)
    show_rows(console, "effective settings", checkup.settings)
    captions = " | ".join(fill(template, recipe.subject) for template in recipe.dataset.templates)
    console.print(f"photos without a caption of their own are called: {captions}", markup=False)
