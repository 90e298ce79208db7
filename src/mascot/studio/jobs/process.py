"""Processes of jobs: start one, tell if it lives, ask it to end, and say how it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from mascot.errors import escape_control, shorten
from mascot.progress import CommandEnded
from mascot.storage.event_log import read_events
from mascot.storage.run_folder import Run
from mascot.storage.untrusted_files import UnreadableFile, read_bytes
from mascot.studio.jobs.job import Job, JobFolder, State

PROGRAM: Final = ("-c", "from mascot.cli.app import main; main()")
"""The program `mascot`, by the Python that runs the studio."""
NO_WORD: Final = "The process ended without a word, as one does that the system ends for its memory."
OUTPUT_LIMIT: Final = 2**26


def start(job: Job, files: JobFolder) -> subprocess.Popen[bytes]:
    """Start a job's command in a process, and a terminal session, of its own.

    A Ctrl-C in the terminal therefore reaches the studio alone, which then stops its jobs in order.
    """
    files.folder.mkdir(parents=True, exist_ok=True)
    with files.output.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - the words are the studio's own, and no shell reads them
            [sys.executable, *PROGRAM, *next_words(job)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment(),
        )


def next_words(job: Job) -> Sequence[str]:
    """Return the words of a job's next start; a run that has begun is resumed."""
    begun = bool(job.run) and Run(Path(job.run)).recipe.exists()
    return job.resume_words if begun and job.attempts and job.resume_words else job.words


def environment() -> dict[str, str]:
    """Return the environment of a job: this package first, and no colors in what it prints."""
    package = str(Path(__file__).resolve().parents[3])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH", "")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "NO_COLOR": "1", "TERM": "dumb"}


def birth(pid: int) -> float | None:
    """Return when a living process began, in seconds since 1970; None where there is none."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def is_alive(job: Job, child: subprocess.Popen[bytes] | None) -> bool:
    """Tell whether a job's process lives; `child` is known to the server that started it."""
    if child is not None:
        return child.poll() is None
    return job.pid is not None and job.born is not None and birth(job.pid) == job.born


def ask_to_end(job: Job) -> None:
    """Ask a job's process to end in order, as Ctrl-C does: it writes a checkpoint first."""
    if job.pid is not None and birth(job.pid) == job.born:
        with suppress(ProcessLookupError):
            os.kill(job.pid, signal.SIGTERM)


def ending(job: Job, files: JobFolder) -> tuple[State, str]:
    """Return the state of a job whose process has ended, and the sentence of a failure."""
    said = [event for event in read_events(files.events) if isinstance(event, CommandEnded)]
    if len(said) >= job.attempts and said:
        return said[-1].outcome, said[-1].sentence
    line = last_line(files.output)
    if "interrupted" in line or (job.state == "stopping" and not line):
        return "stopped", ""
    return "failed", line or NO_WORD


def last_line(path: Path) -> str:
    """Return the last line that a command printed, without `mascot:`."""
    try:
        text = read_bytes(path, limit=OUTPUT_LIMIT).decode(errors="replace")
    except UnreadableFile:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return shorten(escape_control(lines[-1]).removeprefix("mascot: "), 500) if lines else ""
