"""A run's folder: the only place that names its files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mascot.errors import UserError
from mascot.storage.atomic_write import atomic_write

KEPT_CHECKPOINTS = 2


@dataclass(frozen=True, slots=True)
class Run:
    """A folder with everything needed to repeat one training, and what came of it."""

    folder: Path

    @property
    def recipe(self) -> Path:
        """The complete recipe."""
        return self.folder / "recipe.toml"

    @property
    def effective(self) -> Path:
        """What was really done."""
        return self.folder / "effective.json"

    @property
    def steps(self) -> Path:
        """One JSON line a step."""
        return self.folder / "steps.jsonl"

    @property
    def adapter(self) -> Path:
        """The one file to share."""
        return self.folder / "adapter.safetensors"

    @property
    def selection(self) -> Path:
        """What was looked at while choosing a checkpoint."""
        return self.folder / "selection.json"

    def best(self, step: int) -> Path:
        """What had been learned at the best step so far."""
        return self.folder / "best" / f"step{step:06d}"

    def forget_other_bests(self, step: int | None) -> None:
        """Keep the best step's alone."""
        for folder in sorted((self.folder / "best").glob("step*")):
            if step is None or folder != self.best(step):
                shutil.rmtree(folder)

    def companion(self, name: str) -> Path:
        """The adapter in another form."""
        return self.folder / f"{name}.safetensors"

    def model(self, place: str = "") -> Path:
        """A base in the diffusers layout that has learned as a whole; later stages have a place such as _2."""
        return self.folder / f"model{place}"

    @property
    def report(self) -> Path:
        """The report."""
        return self.folder / "report.html"

    @property
    def scores(self) -> Path:
        """How good it is, in numbers."""
        return self.folder / "scores.json"

    @property
    def scores_page(self) -> Path:
        """How good it is, in numbers and pictures."""
        return self.folder / "scores.html"

    @property
    def evaluation(self) -> Path:
        """The pictures that were scored, and what encoders said of them."""
        return self.folder / "evaluation"

    @property
    def diagnosis(self) -> Path:
        """What ails it, or that nothing does."""
        return self.folder / "diagnosis.json"

    @property
    def diagnosis_page(self) -> Path:
        """What ails it, with the pictures that show it."""
        return self.folder / "diagnosis.html"

    @property
    def folds(self) -> Path:
        """Runs of the same recipe, each without one of the photos, and what they drew."""
        return self.folder / "folds"

    def fold(self, name: str) -> Run:
        """One of them."""
        return Run(self.folds / name)

    def comparison(self, other: str) -> Path:
        """This run beside another one."""
        return self.folder / f"compared_with_{other}.html"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.folder / "tensorboard"

    @property
    def lock(self) -> Path:
        """Held while a process works on the run."""
        return self.folder / "lock"

    def is_empty(self) -> bool:
        """Whether nothing but a lock is there: a process that was killed may have left one."""
        return all(path == self.lock for path in self.folder.iterdir())

    def preview(self, step: int, number: int) -> Path:
        """One preview picture; step 0 is the untouched base."""
        return self.folder / "previews" / f"step{step:06d}_{number}.png"

    def checkpoint(self, step: int) -> Path:
        """A folder from which training goes on exactly."""
        return self.folder / "checkpoints" / f"step{step:06d}"

    def previews(self) -> dict[int, list[Path]]:
        """All previews there are, by step."""
        found: dict[int, list[Path]] = {}
        for path in sorted((self.folder / "previews").glob("step*_*.png")):
            found.setdefault(int(path.stem[4:10]), []).append(path)
        return found

    def last_checkpoint(self) -> Path | None:
        """The newest whole checkpoint; half-written ones have other names."""
        found = sorted((self.folder / "checkpoints").glob("step*"))
        return found[-1] if found else None

    @staticmethod
    def step_of(checkpoint: Path) -> int:
        """The step that a checkpoint was kept at."""
        return int(checkpoint.name.removeprefix("step"))

    def forget_old_checkpoints(self) -> None:
        """Keep only the newest few."""
        for folder in sorted((self.folder / "checkpoints").glob("step*"))[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(folder)

    def forget_all_but_the_adapter(self) -> None:
        """Drop what training would go on from, and whole models that other tools read."""
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        for folder in self.folder.glob("model*"):
            shutil.rmtree(folder)

    @contextmanager
    def locked(self) -> Generator[None]:
        """Hold the run's lock, which the system lets go when the process ends, however it ends.

        A run in which nothing was written leaves no folder behind.

        Raises:
            UserError: another process is using the run.
        """
        from filelock import FileLock, Timeout

        made = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.lock, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise UserError(
                f"{self.folder} is in use by another mascot process; wait for it or give another --out."
            ) from error
        try:
            yield
        finally:
            if self.is_empty():
                self.lock.unlink(missing_ok=True)
                for folder in made:
                    with suppress(OSError):  # another run has moved in
                        folder.rmdir()
            lock.release()

    def write_text(self, path: Path, text: str) -> None:
        """Write a text file, whole or not at all."""
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def read_steps(self, until: int | None = None) -> list[dict[str, Any]]:
        """Read the step log up to a step, ignoring a last line that was cut off."""
        rows: list[dict[str, Any]] = []
        if self.steps.exists():
            for line in self.steps.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    break
                if until is None or row["step"] <= until:
                    rows.append(row)
        return rows

    def rewind_steps(self, step: int) -> None:
        """Drop the log's lines after a step: they will be trained again."""
        rows = self.read_steps(step)
        self.write_text(self.steps, "".join(json.dumps(row) + "\n" for row in rows))


def open_run(folder: Path) -> Run:
    """Find an existing run.

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
    """Where the scores of an adapter file lie: in its run's folder, or, for other files, in a folder beside them."""
    run = Run(path.parent)
    return run if path == run.adapter and run.recipe.exists() else Run(path.with_name(f"{path.stem}_scores"))
