"""A file of progress events: one JSON line for each event, for other programs and processes.

The studio's page reads it while another process trains: so a closed tab or a restarted server
finds everything again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Final, cast

from pydantic import TypeAdapter, ValidationError

from mascot import progress
from mascot.errors import UserError, is_out_of_memory, received
from mascot.progress import CommandEnded, Event, OnEvent, ignore
from mascot.storage.untrusted_files import UnreadableFile, read_json_lines

KIND: Final = "event"
"""Key of an event's kind, the name of its class."""
TIME: Final = "written_at"
"""Key of the time at which an event was written, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An event of a file, and when it was written."""

    event: Event
    at: float
    """Seconds since 1970; 0 where the file does not say."""


def event_line(event: Event) -> str:
    """Write an event as one line of JSON, without its end."""
    values = asdict(event)  # pyright: ignore[reportArgumentType] - all kinds of events are dataclasses
    facts = {KIND: type(event).__name__, TIME: round(time.time(), 3), **values}
    return json.dumps(facts, default=str, ensure_ascii=False)


@contextmanager
def logging_events(path: Path | None) -> Generator[OnEvent]:
    """Append events to a file while the context lasts, and how it ended; None logs nothing.

    Raises:
        UserError: the file cannot be written.
    """
    if path is None:
        yield ignore
        return
    log = EventFile(path)
    log.append("")
    try:
        yield log
    except BaseException as error:
        log(how_it_ended(error))
        raise
    log(CommandEnded(outcome="done"))


def how_it_ended(error: BaseException) -> CommandEnded:
    """Describe the error that ended a command."""
    if received or isinstance(error, KeyboardInterrupt):
        return CommandEnded(outcome="stopped")
    if is_out_of_memory(error):
        return CommandEnded(outcome="failed", sentence="There is too little memory; choose smaller settings.")
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return CommandEnded(outcome="failed", sentence=f"{kind}{error}")


class EventFile:
    """Appends events to a file, each at once, so that a reader sees whole lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, event: Event) -> None:
        """Append one event.

        Raises:
            UserError: the file cannot be written.
        """
        self.append(event_line(event) + "\n")

    def append(self, text: str) -> None:
        """Append a text, and make the file where there is none.

        Raises:
            UserError: the file cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise UserError(f"{self.path} cannot be written ({error.strerror}); give --events another file.") from error


def read_events(path: Path) -> list[Event]:
    """Read the events of a file as `read_log` does, without their times.

    Raises:
        UnreadableFile: there is something else at the path, such as a folder.
    """
    return [logged.event for logged in read_log(path)]


def read_log(path: Path) -> list[LoggedEvent]:
    """Read the events of a file; damaged lines, and kinds of other versions, are left out.

    A missing file has no events.

    Raises:
        UnreadableFile: there is something else at the path, such as a folder.
    """
    try:
        lines = read_json_lines(path, finite=False)
    except UnreadableFile as error:
        if error.missing:
            return []
        raise
    return [logged for line in lines if (logged := read_event(line.value)) is not None]


def read_event(value: object) -> LoggedEvent | None:
    """Read one event from its JSON values; None where it is none of this version."""
    if not isinstance(value, dict):
        return None
    values = dict(cast("dict[str, object]", value))
    kind, at = kinds().get(str(values.pop(KIND, ""))), values.pop(TIME, 0.0)
    if kind is None:
        return None
    try:
        return LoggedEvent(kind.validate_python(values), float(at) if isinstance(at, int | float) else 0.0)
    except ValidationError:
        return None


@cache
def kinds() -> dict[str, TypeAdapter[Event]]:
    """Return the reader of each kind of event by its name."""
    found = [kind for kind in vars(progress).values() if isinstance(kind, type) and issubclass(kind, Event)]
    return {kind.__name__: TypeAdapter(kind) for kind in found if kind is not Event}
