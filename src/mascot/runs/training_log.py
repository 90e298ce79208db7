"""The log of a run's steps: `steps.jsonl`, one JSON object a line, and TensorBoard if installed."""

from __future__ import annotations

import json
import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from mascot.storage.run_folder import Run
from mascot.storage.step_log import rewind_steps
from mascot.training.accelerator import tensorboard_is_installed
from mascot.training.loop import Step

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)


class TrainingLog:
    """Writes steps to an open file and to accelerate's tracker."""

    def __init__(self, file: TextIO, accelerator: Accelerator) -> None:
        self.file, self.accelerator = file, accelerator

    def write(self, step: Step) -> None:
        """Write one step, with the learning rate of each parameter group."""
        values = {"loss": step.loss, "subject_loss": step.subject_loss, "gradient_norm": step.gradient_norm}
        values |= {f"learning_rate.{group}": rate for group, rate in step.learning_rates.items()}
        self.file.write(json.dumps({"step": step.number, **values}) + "\n")
        if tensorboard_is_installed():
            self.accelerator.log(values, step=step.number)

    def flush(self) -> None:
        """Hand all lines to the operating system."""
        self.file.flush()


@contextmanager
def open_log(files: Run, accelerator: Accelerator, *, done: int) -> Generator[TrainingLog]:
    """Open a run's log to continue after step `done`.

    Lines of later steps are dropped, since those steps are trained again. Where lines were lost or
    damaged, a warning says how many.
    """
    lost = rewind_steps(files.steps, done)
    if lost:
        logger.warning("%s lost %d of %d steps; training goes on, the loss curve has gaps.", files.steps, lost, done)
    if tensorboard_is_installed():
        accelerator.init_trackers(files.tensorboard.name)
    with files.steps.open("a", encoding="utf-8") as file:
        yield TrainingLog(file, accelerator)
