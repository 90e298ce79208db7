"""Laws of jobs: one at a time, stopped in order, and found again by another server."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mascot.progress import CommandEnded, StepTrained
from mascot.storage.event_log import EventFile, logging_events, read_events
from mascot.studio.jobs import process, queue
from mascot.studio.jobs.job import Job, JobFolder, State
from mascot.studio.jobs.queue import JobQueue

PROGRAM = """
import sys, time
from mascot.cli.interruptions import ending_on_signals
from mascot.errors import UserError
from mascot.progress import StepTrained
from mascot.storage.event_log import logging_events
from pathlib import Path
kind, events = sys.argv[1], Path(sys.argv[2])
if kind == "crash":
    print("Segmentation fault"); sys.exit(139)
with ending_on_signals(), logging_events(events) as log:
    log(StepTrained(step=1, loss=1.0, subject_loss=1.0))
    if kind == "mistake":
        raise UserError("the photos are missing; give some.")
    while kind == "long":
        time.sleep(0.01)
"""


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobQueue:
    """A queue whose jobs are small programs in place of mascot."""
    monkeypatch.setattr(process, "PROGRAM", ("-c", PROGRAM))
    return JobQueue(tmp_path / "jobs")


def add(jobs: JobQueue, kind: str, device: str = "cpu") -> str:
    def prepare(files: JobFolder) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return (kind, str(files.events)), ()

    return jobs.submit(f"a {kind} job", prepare, device=device).id


def wait(jobs: JobQueue, until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not until():
        jobs.look()
        assert time.monotonic() < deadline, jobs.jobs()
        time.sleep(0.02)


def has_begun(jobs: JobQueue, name: str) -> bool:
    return bool(read_events(jobs.files(name).events))


def states(jobs: JobQueue) -> list[State]:
    return [job.state for job in jobs.jobs()]


def test_one_job_runs_at_a_time_on_a_device(jobs: JobQueue) -> None:
    first, _, other = add(jobs, "long"), add(jobs, "quick"), add(jobs, "quick", device="cuda")
    wait(jobs, lambda: jobs.job(other).state == "done" and has_begun(jobs, first))
    assert states(jobs) == ["running", "queued", "done"]
    jobs.stop(first)
    wait(jobs, lambda: states(jobs) == ["stopped", "done", "done"])


def test_a_job_that_has_stopped_can_be_resumed(jobs: JobQueue) -> None:
    name = add(jobs, "long")
    for attempts in (1, 2):
        wait(jobs, lambda attempts=attempts: len(read_events(jobs.files(name).events)) == 2 * attempts - 1)
        jobs.stop(name)
        wait(jobs, lambda: jobs.job(name).state == "stopped")
        assert jobs.job(name).attempts == attempts
        jobs.resume(name)
    jobs.stop(name)
    assert jobs.job(name).state == "stopped", "it waited, and left the queue"


def test_a_training_goes_on_where_there_is_something_to_go_on_from(tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = Job(id="a", title="", words=("fresh",), resume_words=("on",), run=str(run), created=0, attempts=1)
    assert process.next_words(job) == ("fresh",)
    run.mkdir()
    (run / "recipe.toml").touch()
    assert process.next_words(job) == ("on",)


def test_a_mistake_and_a_crash_are_said_in_a_sentence(jobs: JobQueue) -> None:
    mistake, crash = add(jobs, "mistake"), add(jobs, "crash")
    wait(jobs, lambda: states(jobs) == ["failed", "failed"])
    assert jobs.job(mistake).sentence == "the photos are missing; give some."
    assert jobs.job(crash).sentence == "Segmentation fault"


def test_a_restarted_server_finds_its_jobs_again(jobs: JobQueue) -> None:
    running, waiting = add(jobs, "long"), add(jobs, "quick")
    wait(jobs, lambda: has_begun(jobs, running))
    other = JobQueue(jobs.folder)  # as after a server that was killed: its child lives on
    other.look()
    assert states(other) == ["running", "queued"]
    other.stop(running)
    jobs.children[running].wait(30)  # the killed server's part, which init would take over
    wait(other, lambda: other.job(running).state == "stopped" and other.job(waiting).state == "done")


def test_the_end_of_the_studio_stops_what_runs_and_keeps_what_waits(jobs: JobQueue) -> None:
    running, waiting = add(jobs, "long"), add(jobs, "long")
    jobs.begin()
    wait(jobs, lambda: has_begun(jobs, running))
    assert jobs.close() == []
    assert (jobs.job(running).state, jobs.job(waiting).state) == ("stopped", "queued")


def test_a_number_that_another_process_has_is_not_the_jobs(jobs: JobQueue) -> None:
    name = add(jobs, "long")
    jobs.keep(jobs.job(name), state="running", pid=os.getpid(), born=0.0, attempts=1)
    jobs.look()
    assert jobs.job(name).state == "failed"
    assert jobs.job(name).sentence == process.NO_WORD


def test_a_job_that_runs_is_not_forgotten(jobs: JobQueue) -> None:
    name = add(jobs, "quick")
    with pytest.raises(queue.UserError, match="stop it first"):
        jobs.forget(name)
    wait(jobs, lambda: jobs.job(name).ended)
    jobs.forget(name)
    assert jobs.jobs() == JobQueue(jobs.folder).jobs() == []


def test_a_damaged_record_is_left_out(jobs: JobQueue) -> None:
    name = add(jobs, "quick")
    jobs.files(name).record.write_text("{", encoding="utf-8")
    assert JobQueue(jobs.folder).jobs() == []


def test_events_come_back_as_they_were(tmp_path: Path) -> None:
    path, events = tmp_path / "events", [StepTrained(step=3, loss=0.5, subject_loss=float("nan"))]
    log = EventFile(path)
    log(events[0])
    with path.open("a", encoding="utf-8") as file:
        file.write('{"event": "Unknown"}\n[1]\n{"event": "StepTrained", "step": "x"}\n{"event": "Step')
    assert repr(read_events(path)) == repr(events)
    assert read_events(tmp_path / "missing") == []


def test_how_a_command_ended_is_its_last_event(tmp_path: Path) -> None:
    with logging_events(tmp_path / "events"):
        pass
    with pytest.raises(KeyboardInterrupt), logging_events(tmp_path / "events"):
        raise KeyboardInterrupt
    with pytest.raises(ZeroDivisionError), logging_events(tmp_path / "events"):
        _ = 1 / 0
    assert read_events(tmp_path / "events") == [
        CommandEnded(outcome="done"),
        CommandEnded(outcome="stopped"),
        CommandEnded(outcome="failed", sentence="ZeroDivisionError: division by zero"),
    ]


def test_a_job_reads_back_as_it_was_written(tmp_path: Path) -> None:
    job = Job(id="a", title="<b>", words=("train",), created=1.5)
    job.write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json") == job
