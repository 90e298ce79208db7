"""The lock of a run's folder: one process at a time works on a run."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from mascot.errors import UserError
from mascot.storage.atomic_write import ABANDONED

LOCK = "lock"
"""Name of the lock file in a run's folder."""


@contextmanager
def hold_lock(folder: Path) -> Generator[None]:
    """Hold the lock of a run's folder while the context lasts, and create the folder where missing.

    The operating system releases the lock when the process ends, however it ends. If the block
    writes nothing, the folders that were created for it are removed again.

    Raises:
        UserError: another process holds the lock.
    """
    from filelock import FileLock, Timeout

    created = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(f"{folder} is in use by another mascot process; wait for it or give another --out.") from error
    try:
        yield
    finally:
        if holds_only_a_lock(folder):
            (folder / LOCK).unlink(missing_ok=True)
            for path in created:
                with suppress(OSError):  # another run has created a folder inside
                    path.rmdir()
        lock.release()


def holds_only_a_lock(folder: Path) -> bool:
    """Return whether a folder is empty but for what a killed process may have left.

    That is a lock, and temporary files.
    """
    return all(path.name == LOCK or ABANDONED.fullmatch(path.name) for path in folder.iterdir())
