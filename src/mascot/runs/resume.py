"""TODO runs.resume."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from mascot.errors import UserError
from mascot.models.devices import choose_device
from mascot.recipe.recipe import Recipe
from mascot.storage.atomic_write import check_writable
from mascot.storage.run_folder import Run, open_run


@contextmanager
def uninterrupted() -> Generator[None]:
    """Hold Ctrl-C back until the block has ended; outside the main thread, and where Ctrl-C is ignored, nothing needs holding."""
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: held.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        before(*held[0])


def prepare_run(folder: Path, recipe: Recipe, *, resume: bool) -> Run:
    """Decide whether a folder may be trained into."""
    check_writable(folder)
    run = Run(folder)
    if resume:
        before = Recipe.read(open_run(folder).recipe)
        if not recipe.fits(before):
            raise UserError(f"{folder} was started with another recipe; resume it without other options, or start a new --out.")
        choose_device(before.device, "resume it where there is one, or start a new --out with --set device=cpu")
    elif folder.exists() and not (folder.is_dir() and run.is_empty()):
        raise UserError(f"{folder} is not empty; give --resume to go on with that run, or another --out.")
    return run


def what_it_started_with(run: Run) -> dict[str, Any] | None:
    """Read the facts that a run wrote when it started, or None where it was stopped before that."""
    if not run.effective.exists():
        return None
    try:
        facts = json.loads(run.effective.read_text(encoding="utf-8"))
        return {"photos": facts["photos"], "base": facts["base"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{run.effective} is damaged; start a new --out.") from error


def check_same(run: Run, before: dict[str, Any] | None, what: str, now: Any) -> None:
    """Refuse to resume on other photos or another base than the run was started with."""
    if before is not None and before[what] != now:
        raise UserError(f"the {what} changed since {run.folder} was started; put back what was there, or start a new --out.")
