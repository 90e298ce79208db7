"""Training of one subject for the comparison of selection rules, with adapters at marks."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from mascot.diffusion.loss import training_loss
from mascot.errors import UserError
from mascot.models.starter import HeldOutSubject
from mascot.recipe.recipe import Recipe
from mascot.runs.export import export_adapter
from mascot.runs.inputs import load_base, read_subject
from mascot.runs.training_run import TrainingRun
from mascot.runs.training_steps import begin, train_steps
from mascot.storage.atomic_write import atomic_write
from mascot.storage.run_folder import Run

FIXED_BATCHES = 2
"""Micro-batches whose loss is watched.

They have 8 photos at the preset's batch size, as many as the paper's evaluation batch.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectRun:
    """One subject's folder, recipe and settings."""

    held_out: HeldOutSubject
    recipe: Recipe
    folder: Path
    marks: tuple[int, ...]
    """Steps at which an adapter is kept."""
    every: int
    """Steps between two evaluations of the fixed batch."""

    def adapter(self, step: int) -> Path:
        """The adapter file of a step."""
        return self.folder / "adapters" / f"step{step:06d}.safetensors"

    @property
    def losses(self) -> Path:
        """The fixed batch's losses: one JSON line for each evaluation."""
        return self.folder / "fixed_losses.jsonl"

    def read_losses(self, until: int) -> dict[int, float]:
        """Read the losses up to a step, by step, without an incomplete last line."""
        rows: dict[int, float] = {}
        for line in self.losses.read_text(encoding="utf-8").splitlines() if self.losses.exists() else ():
            try:
                step, loss = json.loads(line)
            except ValueError:
                break
            if step <= until:
                rows[step] = loss
        return rows

    def write_losses(self, rows: Mapping[int, float]) -> None:
        """Write all losses, completely or not at all."""
        with atomic_write(self.losses) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in sorted(rows.items())), encoding="utf-8")

    def train(self) -> None:
        """Train to the last mark; keep an adapter at each mark and the losses between.

        What an earlier call has done is not repeated.

        Raises:
            UserError: the folder was made with other settings.
        """
        files = Run(self.folder / "run")
        if files.recipe.exists() and Recipe.read(files.recipe) != self.recipe:
            raise UserError(
                f"{self.folder} was made with other settings; give another --keep, or the same settings as before."
            )
        if all(self.adapter(mark).exists() for mark in self.marks):
            return
        files.write_text(files.recipe, self.recipe.to_toml())
        with files.locked():
            run = TrainingRun(
                recipe=self.recipe, files=files, photos=read_subject(self.recipe), family=load_base(self.recipe)
            )
            begin(run)
            self.write_losses(self.read_losses(run.loop.done))
            self.record(run)  # an earlier call may have stopped between a checkpoint and its record
            with closing(train_steps(run)) as steps:
                for _ in steps:
                    self.record(run)

    def record(self, run: TrainingRun) -> None:
        """Write the loss and the adapter that belong to the current step."""
        step = run.loop.done
        if step % self.every == 0 and step not in self.read_losses(step):
            with self.losses.open("a", encoding="utf-8") as log:
                log.write(json.dumps((step, fixed_loss(run))) + "\n")
        if step in self.marks and not self.adapter(step).exists():
            with run.loop.generating():
                export_adapter(run).write(self.adapter(step))


@torch.no_grad()
def fixed_loss(run: TrainingRun) -> float:
    """Return the subject's mean squared error on fixed images, captions, noise and timesteps."""
    loop, errors = run.loop, list[float]()
    for number in range(min(FIXED_BATCHES, run.recipe.training.steps)):
        for batch in run.batches(number):
            with run.accelerator.autocast():
                _, error_B = training_loss(
                    run.stage,
                    batch,
                    loop.condition,
                    loop.attached.base_only,
                    min_snr=loop.settings.min_snr,
                    offset_noise=loop.settings.offset_noise,
                )
            errors += error_B[: batch.subject_count].tolist()
    return statistics.fmean(errors)
