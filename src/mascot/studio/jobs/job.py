"""One job: a command of mascot, what became of it, and the files that it has."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from mascot.storage.json_record import JsonRecord

State = Literal["queued", "running", "stopping", "stopped", "done", "failed"]
"""What became of a job; `stopped` can be resumed."""
ENDED: Final = frozenset({"stopped", "done", "failed"})
"""States of a job that has no process."""


class Job(JsonRecord):
    """What was asked and what became of it, as `job.json` stores it."""

    damaged = "{path} is damaged; delete the folder {folder}."

    version: Literal[1] = 1
    id: str
    title: str
    """What people see; any text of theirs."""
    words: tuple[str, ...]
    """The words of the command, without `mascot`."""
    resume_words: tuple[str, ...] = ()
    """The words that go on after a stop; empty where the command simply starts again."""
    run: str = ""
    """Folder of the run that it writes; empty where it writes none."""
    device: str = "cpu"
    """Jobs of one device run one after the other."""
    created: float
    """Seconds since 1970."""
    state: State = "queued"
    pid: int | None = None
    born: float | None = None
    """When the process began, so that another process of that number is not taken for it."""
    attempts: int = 0
    """How often it was started."""
    sentence: str = ""
    """Why it failed."""

    @property
    def ended(self) -> bool:
        """Whether it neither waits nor runs."""
        return self.state in ENDED


@dataclass(frozen=True, slots=True)
class JobFolder:
    """The files of one job."""

    folder: Path

    @property
    def record(self) -> Path:
        """What was asked and what became of it."""
        return self.folder / "job.json"

    @property
    def recipe(self) -> Path:
        """The recipe of a training, TOML."""
        return self.folder / "recipe.toml"

    @property
    def photos(self) -> Path:
        """The photos of a training, copied when it was asked for."""
        return self.folder / "photos"

    @property
    def events(self) -> Path:
        """The progress events, one JSON line each."""
        return self.folder / "events.jsonl"

    @property
    def output(self) -> Path:
        """What the command printed."""
        return self.folder / "output.txt"


def new_id() -> str:
    """Make a job's name: the time, so that names sort, and a random part."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
