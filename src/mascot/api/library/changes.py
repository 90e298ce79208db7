"""Rename, delete and restore runs of a library; what is deleted is kept in its trash."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import Final

from mascot.errors import UserError, shorten
from mascot.storage.run_folder import Run, open_run

TRASH: Final = ".trash"
"""Folder in a library that keeps deleted runs, each in a folder named by the time."""
NAME: Final = re.compile(r"[^\W_][\w .+-]{0,79}")
"""Names of runs: letters, digits and a few signs, so that no name is a path."""


def check_name(name: str) -> str:
    """Return a run's name without blanks around it.

    Raises:
        UserError: it is empty, too long, or holds a letter that a folder's name should not.
    """
    stripped = name.strip()
    if NAME.fullmatch(stripped) is None or stripped.endswith("."):
        raise UserError(
            f"{shorten(stripped, 40)!r} cannot be the name of a run; give letters, digits, blanks and . _ + - only, "
            "80 at most, a letter or digit first."
        )
    return stripped


def find_run(library: Path, name: str) -> Run:
    """Return a run of a library by its name, which is never read as a path.

    Raises:
        UserError: there is no such run.
    """
    folder = library / check_name(name)
    if folder.is_symlink() or not folder.is_dir():
        raise UserError(f"There is no run {shorten(name, 40)!r} in the library; load the page again.")
    return open_run(folder)


def rename_run(library: Path, name: str, to: str) -> Run:
    """Give a run another name.

    Raises:
        UserError: the name is taken or none, or another process works on the run.
    """
    run, target = find_run(library, name), library / check_name(to)
    if target == run.folder:
        return run
    if target.exists():
        raise UserError(f"There is a run {target.name!r} already; give another name.")
    with run.locked():
        pass
    run.folder.rename(target)
    return Run(target)


def delete_run(library: Path, name: str) -> str:
    """Move a run to the library's trash; returns its name there.

    Raises:
        UserError: there is no such run, or another process works on it.
    """
    run = find_run(library, name)
    with run.locked():
        pass
    place = library / TRASH / f"{time.time_ns()}"
    place.mkdir(parents=True)
    run.folder.rename(place / run.folder.name)
    return place.name


def list_trash(library: Path) -> list[tuple[str, str]]:
    """List what is in the trash, the last deleted first: its name there, and the run's name."""
    places = [place for place in (library / TRASH).glob("*") if place.name.isdecimal()]
    newest = sorted(places, key=lambda place: -int(place.name))
    return [(place.name, run.name) for place in newest for run in place.iterdir()]


def restore_run(library: Path, place: str) -> Run:
    """Move a run from the trash back; where its name is taken, it gets a number.

    Raises:
        UserError: nothing of that name is in the trash.
    """
    found = dict(list_trash(library)).get(place)
    if found is None:
        raise UserError("This run is not in the trash any more; load the page again.")
    target, number = library / found, 2
    while target.exists():
        target, number = library / f"{found}-{number}", number + 1
    (library / TRASH / place / found).rename(target)
    shutil.rmtree(library / TRASH / place, ignore_errors=True)
    return Run(target)
