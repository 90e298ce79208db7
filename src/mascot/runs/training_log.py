"""The log of a run's steps: `steps.jsonl`, one JSON object a line, and TensorBoard where it is installed."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, TextIO

from mascot.storage.run_folder import Run
from mascot.training.accelerator import tensorboard_is_installed
from mascot.training.loop import Step


class TrainingLog:
    """Writes steps to an open file and to accelerate's tracker."""

    def __init__(self, file: TextIO, accelerator: Any) -> None:
        self.file, self.accelerator = file, accelerator

    def write(self, step: Step) -> None:
        """Write one step."""
        row = {
            "step": step.number,
            "loss": step.loss,
            "subject_loss": step.subject_loss,
            "gradient_norm": step.gradient_norm,
        }
        row |= {f"learning_rate.{group}": rate for group, rate in step.learning_rates.items()}
        self.file.write(json.dumps(row) + "\n")
        if tensorboard_is_installed():
            self.accelerator.log({key: value for key, value in row.items() if key != "step"}, step=step.number)

    def flush(self) -> None:
        """Hand all lines to the operating system."""
        self.file.flush()


@contextmanager
def open_log(files: Run, accelerator: Any, *, done: int) -> Generator[TrainingLog]:
    """Open a run's log to go on after step `done`; lines of later steps, which will be trained again, are dropped."""
    files.rewind_steps(done)
    if tensorboard_is_installed():
        accelerator.init_trackers(files.tensorboard.name)
    with files.steps.open("a", encoding="utf-8") as file:
        yield TrainingLog(file, accelerator)
