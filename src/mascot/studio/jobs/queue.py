"""The queue of jobs: one job at a time for each device, and everything written to disk."""

from __future__ import annotations

import logging
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mascot.errors import UserError
from mascot.studio.jobs.job import Job, JobFolder, new_id
from mascot.studio.jobs.process import ask_to_end, birth, ending, is_alive, start

logger = logging.getLogger(__name__)

Prepare = Callable[[JobFolder], tuple[tuple[str, ...], tuple[str, ...]]]
"""Fills a new job's folder; returns the words of its first start, and those of a resumption."""
POLL: Final = 0.25
"""Seconds between two looks at the processes."""
PATIENCE: Final = 120.0
"""Seconds that the end of the studio waits for its jobs to write their checkpoints."""


class JobQueue:
    """Runs jobs in the order in which they were asked for; all methods may be called by threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.found = read_jobs(folder)
        self.ending = threading.Event()
        self.thread: threading.Thread | None = None

    def files(self, name: str) -> JobFolder:
        """Return the files of a job."""
        return JobFolder(self.folder / name)

    def jobs(self) -> list[Job]:
        """List all jobs, the oldest first."""
        with self.lock:
            return sorted(self.found.values(), key=lambda job: (job.created, job.id))

    def job(self, name: str) -> Job:
        """Return a job by its name.

        Raises:
            UserError: there is none of that name.
        """
        with self.lock:
            if name not in self.found:
                raise UserError("This job is not there any more; load the page again.")
            return self.found[name]

    def submit(self, title: str, prepare: Prepare, *, run: str = "", device: str = "cpu") -> Job:
        """Add a job at the end of the queue.

        Raises:
            UserError: its folder cannot be filled.
        """
        name = new_id()
        try:
            words, resume_words = prepare(self.files(name))
        except BaseException:
            shutil.rmtree(self.files(name).folder, ignore_errors=True)
            raise
        made = Job(
            id=name,
            title=title,
            words=words,
            resume_words=resume_words,
            run=run,
            device=device,
            created=time.time(),
        )
        self.keep(made)
        return made

    def keep(self, job: Job, **changes: object) -> Job:
        """Write a job with some changes."""
        with self.lock:
            changed = job.model_copy(update=changes)
            changed.write(self.files(job.id).record)
            self.found[job.id] = changed
            return changed

    def stop(self, name: str) -> Job:
        """Stop a job: one that waits leaves the queue, one that runs ends in order."""
        with self.lock:
            job = self.job(name)
            if job.state == "queued":
                return self.keep(job, state="stopped")
            if job.state == "running":
                job = self.keep(job, state="stopping")
                ask_to_end(job)
            return job

    def resume(self, name: str) -> Job:
        """Put a job that has stopped or failed at the end of the queue again."""
        with self.lock:
            job = self.job(name)
            if job.state in {"stopped", "failed"}:
                return self.keep(job, state="queued", created=time.time(), sentence="")
            return job

    def forget(self, name: str) -> None:
        """Remove a job that has ended from the list; its photos stay where a run needs them.

        Raises:
            UserError: it waits or runs.
        """
        with self.lock:
            job = self.job(name)
            if not job.ended:
                raise UserError("This job waits or runs; stop it first.")
            self.files(name).record.unlink(missing_ok=True)
            del self.found[name]

    def look(self) -> None:
        """Settle the jobs whose processes have ended, and start the next of each free device."""
        with self.lock:
            for job in self.jobs():
                if job.state in {"running", "stopping"} and not is_alive(job, self.children.get(job.id)):
                    self.children.pop(job.id, None)
                    state, sentence = ending(job, self.files(job.id))
                    self.keep(job, state=state, sentence=sentence, pid=None, born=None)
            busy = {job.device for job in self.running()}
            for job in self.jobs():
                if job.state == "queued" and job.device not in busy and not self.ending.is_set():
                    busy.add(job.device)
                    self.launch(job)

    def launch(self, job: Job) -> None:
        """Start a job's process."""
        try:
            child = start(job, self.files(job.id))
        except OSError as error:
            self.keep(job, state="failed", sentence=f"The process could not be started ({error.strerror}).")
            return
        self.children[job.id] = child
        self.keep(job, state="running", pid=child.pid, born=birth(child.pid), attempts=job.attempts + 1)

    def begin(self) -> None:
        """Look after the jobs in a thread of its own, until `close`."""
        self.thread = threading.Thread(target=self.watch, name="jobs", daemon=True)
        self.thread.start()

    def watch(self) -> None:
        """Look again and again; a failure of one look is logged, and the next look goes on."""
        while not self.ending.wait(POLL):
            try:
                self.look()
            except Exception:
                logger.exception("the queue of jobs")

    def close(self, patience: float = PATIENCE) -> list[Job]:
        """End: ask all processes to stop, and wait for them; returns the jobs that still run."""
        self.ending.set()
        if self.thread is not None:
            self.thread.join()
        for job in self.jobs():
            if job.state == "running":
                self.stop(job.id)
        deadline = time.monotonic() + patience
        self.look()
        while self.running() and time.monotonic() < deadline:
            time.sleep(POLL / 5)
            self.look()
        return self.running()

    def running(self) -> list[Job]:
        """List the jobs that have a process."""
        return [job for job in self.jobs() if job.state in {"running", "stopping"}]


def read_jobs(folder: Path) -> dict[str, Job]:
    """Read the jobs of a folder by name; a damaged record is named in one line."""
    found: dict[str, Job] = {}
    for record in sorted(folder.glob("*/job.json")):
        try:
            job = Job.read(record)
        except UserError as error:
            logger.warning("%s", error)
            continue
        found[job.id] = job
    return found
