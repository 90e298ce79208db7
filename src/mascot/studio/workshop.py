"""What all visitors of one studio share: the library, the queue, the base that draws, the votes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mascot.api.library.changes import check_name
from mascot.api.library.drawing import Drawer
from mascot.api.library.listing import RunSummary, list_runs
from mascot.api.library.photo_desk import PhotoDesk
from mascot.api.library.votes import VoteBox
from mascot.errors import UserError
from mascot.models.devices import choose_device
from mascot.recipe.recipe import Recipe
from mascot.storage.run_folder import Run
from mascot.studio.jobs.job import Job, JobFolder
from mascot.studio.jobs.queue import JobQueue
from mascot.studio.sessions import Sessions

OWN = ".studio"
"""Folder in the library of what is the studio's: jobs, sessions, votes."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """The parts of one studio."""

    library: Path
    jobs: JobQueue
    sessions: Sessions
    drawer: Drawer
    votes: VoteBox

    @classmethod
    def at(cls, library: Path) -> Workshop:
        """Open a library, and make its folder where there is none."""
        own = library / OWN
        own.mkdir(parents=True, exist_ok=True)
        return cls(
            library=library,
            jobs=JobQueue(own / "jobs"),
            sessions=Sessions(own / "sessions"),
            drawer=Drawer(),
            votes=VoteBox(own / "votes.jsonl"),
        )

    def runs(self) -> list[RunSummary]:
        """List the runs, the newest first."""
        return list_runs(self.library)

    def trained(self) -> list[str]:
        """List what images can be generated with: finished runs, and kept steps as `RUN@STEP`."""
        runs = self.runs()
        steps = [f"{one.name}@{step}" for one in runs for step in one.kept]
        return [one.name for one in runs if one.finished] + steps

    def train(self, recipe: Recipe, name: str, desk: PhotoDesk) -> Job:
        """Put a training into the queue; its photos are copied, whatever happens to the desk.

        Raises:
            UserError: the name is taken or none, or the device is not there.
        """
        name = check_name(name)
        run = Run(self.library / name)
        if run.folder.exists() or any(Path(job.run).name == name and not job.ended for job in self.jobs.jobs()):
            raise UserError(f"There is a run {name!r} already; give another name.")
        self.forget_jobs(name)  # one of that name that never began

        def prepare(files: JobFolder) -> tuple[tuple[str, ...], tuple[str, ...]]:
            files.folder.mkdir(parents=True)
            desk.copy_photos(files.photos)
            run.write_text(files.recipe, recipe.model_copy(update={"photos": (str(files.photos),)}).to_toml())
            both = ("--out", str(run.folder), "--events", str(files.events))
            return ("train", "--recipe", str(files.recipe), *both), ("train", "--resume", *both)

        return self.jobs.submit(name, prepare, run=str(run.folder), device=choose_device(recipe.device))

    def evaluate(self, name: str) -> Job:
        """Put the evaluation of a run into the queue."""
        run = self.library / check_name(name)

        def prepare(files: JobFolder) -> tuple[tuple[str, ...], tuple[str, ...]]:
            files.folder.mkdir(parents=True)
            return ("evaluate", str(run), "--images", "2"), ()

        return self.jobs.submit(f"{name}: evaluate", prepare, device=choose_device("auto"))

    def busy(self, name: str) -> bool:
        """Tell whether a job works on a run, or will."""
        return any(Path(job.run).name == name and not job.ended for job in self.jobs.jobs() if job.run)

    def forget_jobs(self, name: str) -> None:
        """Remove the ended jobs of a run from the list, as after it was renamed or deleted."""
        for job in self.jobs.jobs():
            if job.run and Path(job.run).name == name and job.ended:
                self.jobs.forget(job.id)

    def close(self) -> Sequence[Job]:
        """Stop all jobs in order; returns those that still run."""
        left = self.jobs.close()
        shutil.rmtree(self.library / OWN / "uploads", ignore_errors=True)
        return left
