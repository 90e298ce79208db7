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

CHECKPOINTS = "checkpoints"
"""Name of the folder of a run's training checkpoints."""


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
    def captions(self) -> Path:
        """The captions that a model wrote, in the layout of `metadata.jsonl`."""
        return self.folder / "captions.jsonl"

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
        """Return the file of one preview image; step 0 is what training starts from."""
        return self.folder / "previews" / f"step{step:06d}_{number}.png"

    def previews(self) -> dict[int, list[Path]]:
        """List the preview images that exist, by step."""
        found: dict[int, list[Path]] = {}
        for path in sorted((self.folder / "previews").glob("step*_*.png")):
            found.setdefault(int(path.stem[4:10]), []).append(path)
        return found

    def checkpoint(self, step: int) -> Path:
        """Return the folder of a training checkpoint, from which training resumes exactly.

        It holds the recipe and the adapter of that step too, under the names that a run gives them.
        """
        return self.folder / CHECKPOINTS / f"step{step:06d}"

    def checkpoints(self) -> list[Path]:
        """List the complete checkpoints, the oldest first; half-written ones have other names."""
        return sorted((self.folder / CHECKPOINTS).glob("step*"))

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


def kept_steps(run: Run) -> list[int]:
    """List the steps whose checkpoints hold an adapter, in order."""
    return [step_of(folder) for folder in run.checkpoints() if Run(folder).adapter.exists()]


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


def locate(source: Path) -> Path:
    """Return the folder or file that a source names.

    `RUN@STEP` names the checkpoint of that step of a run, unless a file has that very name.

    Raises:
        UserError: there is no such run, or it keeps no adapter of that step.
    """
    folder, at, step = str(source).rpartition("@")
    if not at or source.exists() or not Path(folder).is_dir():
        return source
    run = open_run(Path(folder))
    kept = [f"{folder}@{number}" for number in kept_steps(run)]
    if not (step.isascii() and step.isdecimal() and len(step) < 20 and int(step) in kept_steps(run)):
        there = f"it keeps {' and '.join(kept)}; give one of them" if kept else f"it keeps none; give {folder}"
        raise UserError(f"{folder} keeps no adapter of step {step or '(none)'}: {there}.")
    return run.checkpoint(int(step))


def split_steps(source: Path) -> list[Path]:
    """Split `RUN@STEP,STEP` into one source for each step; any other source stays whole."""
    folder, at, steps = str(source).rpartition("@")
    if not at or "," not in steps or source.exists():
        return [source]
    return [Path(f"{folder}@{step.strip()}") for step in steps.split(",")]


def images_folder(path: Path) -> Path:
    """Return the folder where images of an adapter file are written by default.

    It is `images/` beside the file, and in a run's folder for a checkpoint, which may be deleted.
    """
    inside = path.parent.parent
    if inside.name == CHECKPOINTS and Run(inside.parent).recipe.exists():
        return inside.parent / "images" / path.parent.name
    return path.parent / "images"


def scores_folder(path: Path) -> Run:
    """Return the run in whose folder the scores of an adapter file are written.

    That is the adapter's own run or checkpoint; other files get a folder beside them,
    `NAME_scores`.
    """
    run = Run(path.parent)
    return run if path == run.adapter and run.recipe.exists() else Run(path.with_name(f"{path.stem}_scores"))


def step_of(checkpoint: Path) -> int:
    """Return the step of a training checkpoint's folder."""
    return int(checkpoint.name.removeprefix("step"))


def delete_old_checkpoints(run: Run, keep: int) -> None:
    """Delete all training checkpoints but the newest `keep`, the oldest first."""
    for folder in run.checkpoints()[:-keep]:
        shutil.rmtree(folder)


def delete_model(run: Run, suffix: str) -> None:
    """Delete a fully trained base, if there is one."""
    shutil.rmtree(run.model(suffix), ignore_errors=True)


def delete_previews(run: Run) -> None:
    """Delete all preview images."""
    shutil.rmtree(run.folder / "previews", ignore_errors=True)


def delete_other_bests(run: Run, step: int | None) -> None:
    """Delete the parameters of formerly best steps; `step` is kept, None keeps none."""
    for folder in sorted((run.folder / "best").glob("step*")):
        if step is None or folder != run.best(step):
            shutil.rmtree(folder)


def delete_all_but_adapter(run: Run) -> None:
    """Delete the training checkpoints and the fully trained bases; the adapter stays."""
    shutil.rmtree(run.folder / CHECKPOINTS, ignore_errors=True)
    for folder in run.folder.glob("model*"):
        shutil.rmtree(folder)
