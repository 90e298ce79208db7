"""A run's folder: the only file of the package that names what a run writes."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mascot.errors import UserError
from mascot.storage import step_log
from mascot.storage.atomic_write import atomic_write
from mascot.storage.run_lock import LOCK, hold_lock, holds_only_a_lock

KEPT_CHECKPOINTS = 2
"""Number of training checkpoints that a run keeps, the newest ones."""


@dataclass(frozen=True, slots=True)
class Run:
    """The folder of one training run: its recipe, adapter, log, checkpoints, scores and pages."""

    folder: Path

    @property
    def recipe(self) -> Path:
        """The complete recipe, TOML."""
        return self.folder / "recipe.toml"

    @property
    def effective(self) -> Path:
        """The effective settings, the photos' hashes and the base's identity, JSON."""
        return self.folder / "effective.json"

    @property
    def steps(self) -> Path:
        """The step log: one JSON line for each optimizer step."""
        return self.folder / "steps.jsonl"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's event files."""
        return self.folder / "tensorboard"

    @property
    def adapter(self) -> Path:
        """The adapter, the one file to share."""
        return self.folder / "adapter.safetensors"

    def companion(self, name: str) -> Path:
        """Return the file of a companion, which is the adapter in another form."""
        return self.folder / f"{name}.safetensors"

    def model(self, suffix: str = "") -> Path:
        """Return the folder of a fully trained base in the diffusers layout.

        Stages after the first have a suffix such as `_2`.
        """
        return self.folder / f"model{suffix}"

    @property
    def report(self) -> Path:
        """The training report."""
        return self.folder / "report.html"

    @property
    def selection(self) -> Path:
        """The validation results by which the checkpoint is selected, JSON."""
        return self.folder / "selection.json"

    @property
    def scores(self) -> Path:
        """The scores of an evaluation, JSON."""
        return self.folder / "scores.json"

    @property
    def scores_page(self) -> Path:
        """The scores with the images that were scored, HTML."""
        return self.folder / "scores.html"

    @property
    def evaluation(self) -> Path:
        """The folder of the images that were scored, and of their embeddings."""
        return self.folder / "evaluation"

    @property
    def diagnosis(self) -> Path:
        """The diagnosis, JSON."""
        return self.folder / "diagnosis.json"

    @property
    def diagnosis_page(self) -> Path:
        """The diagnosis with example images, HTML."""
        return self.folder / "diagnosis.html"

    @property
    def folds(self) -> Path:
        """The folder of cross-validation: runs that each hold out one photo, and their images."""
        return self.folder / "folds"

    def fold(self, name: str) -> Run:
        """Return the run of one cross-validation fold."""
        return Run(self.folds / name)

    def comparison(self, other: str) -> Path:
        """Return the page that compares this run with another one."""
        return self.folder / f"compared_with_{other}.html"

    def preview(self, step: int, number: int) -> Path:
        """Return the file of one preview image; step 0 is the base model."""
        return self.folder / "previews" / f"step{step:06d}_{number}.png"

    def previews(self) -> dict[int, list[Path]]:
        """List the preview images that exist, by step."""
        found: dict[int, list[Path]] = {}
        for path in sorted((self.folder / "previews").glob("step*_*.png")):
            found.setdefault(int(path.stem[4:10]), []).append(path)
        return found

    def checkpoint(self, step: int) -> Path:
        """Return the folder of a training checkpoint, from which training resumes exactly."""
        return self.folder / "checkpoints" / f"step{step:06d}"

    def checkpoints(self) -> list[Path]:
        """List the complete checkpoints, the oldest first; half-written ones have other names."""
        return sorted((self.folder / "checkpoints").glob("step*"))

    def last_checkpoint(self) -> Path | None:
        """Return the newest complete checkpoint, or None."""
        return next(reversed(self.checkpoints()), None)

    def best(self, step: int) -> Path:
        """Return the folder of the trained parameters at the best validated step so far."""
        return self.folder / "best" / f"step{step:06d}"

    @property
    def lock(self) -> Path:
        """The file that a process locks while it works on the run."""
        return self.folder / LOCK

    def locked(self) -> AbstractContextManager[None]:
        """Hold the run's lock while the context lasts; see `hold_lock`.

        Raises:
            UserError: another process is using the run.
        """
        return hold_lock(self.folder)

    def is_empty(self) -> bool:
        """Return whether the folder holds nothing but a lock."""
        return holds_only_a_lock(self.folder)

    def write_text(self, path: Path, text: str) -> None:
        """Write a text file atomically."""
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def read_steps(self, until: int | None = None) -> list[dict[str, Any]]:
        """Read the step log up to and including a step; see `step_log`."""
        return step_log.read_steps(self.steps, until)


def open_run(folder: Path) -> Run:
    """Open an existing run.

    Raises:
        UserError: the folder holds no run.
    """
    run = Run(folder)
    if not run.recipe.exists():
        raise UserError(
            f"{folder} is not a mascot run (it has no recipe.toml); give a folder that `mascot train` made."
        )
    return run


def scores_folder(path: Path) -> Run:
    """Return the run in whose folder the scores of an adapter file are written.

    That is the adapter's own run; other files get a folder beside them, `NAME_scores`.
    """
    run = Run(path.parent)
    return run if path == run.adapter and run.recipe.exists() else Run(path.with_name(f"{path.stem}_scores"))


def step_of(checkpoint: Path) -> int:
    """Return the step of a training checkpoint's folder."""
    return int(checkpoint.name.removeprefix("step"))


def delete_old_checkpoints(run: Run) -> None:
    """Delete all training checkpoints but the newest `KEPT_CHECKPOINTS`."""
    for folder in run.checkpoints()[:-KEPT_CHECKPOINTS]:
        shutil.rmtree(folder)


def delete_other_bests(run: Run, step: int | None) -> None:
    """Delete the parameters of formerly best steps; `step` is kept, None keeps none."""
    for folder in sorted((run.folder / "best").glob("step*")):
        if step is None or folder != run.best(step):
            shutil.rmtree(folder)


def delete_all_but_adapter(run: Run) -> None:
    """Delete the training checkpoints and the fully trained bases; the adapter stays."""
    shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
    for folder in run.folder.glob("model*"):
        shutil.rmtree(folder)
