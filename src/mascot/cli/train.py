"""TODO cli.train."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mascot.api.doctor import doctor
from mascot.api.train import train
from mascot.cli.console import quiet_libraries, show_findings, show_photos, show_rows
from mascot.data.prompt_templates import fill
from mascot.recipe.recipe import Recipe
from mascot.storage.run_folder import Run

SMOOTHING = 0.95
"""Of the loss on the progress bar: single steps jump with their noise level."""


COUNTED: Mapping[str, str] = {
    "token": "looking for a token, once for this base: {} pictures; --token WORD skips it",
    "prior": "drawing {} class pictures with the untouched base, unless they are cached",
    "choosing": "choosing the checkpoint and the knobs draws at most {} pictures",
    "drawing": "looking for what is wrong draws {} pictures, unless they are kept",
}
"""What is said before pictures are drawn that cost time; nothing where there are none."""


class TrainingDisplay:
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
        run = train(recipe, out=out, resume=resume, progress=TrainingDisplay(console, bar))
    console.print(f"adapter: {run.adapter}\nreport:  {run.report}", markup=False, soft_wrap=True)
    return run


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
