"""Atomic writes: a file or folder is replaced whole or not at all; failures become user errors."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import platform
import re
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from safetensors import SafetensorError

from mascot.errors import UserError, shorten

REMEDIES: Mapping[int, str] = {
    errno.EEXIST: "choose a path whose parents are folders",
    errno.ENOTDIR: "choose a path whose parents are folders",
    errno.EISDIR: "move the folder of that name away",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a disk that can be written to",
    errno.ENAMETOOLONG: "choose a shorter name",
}
"""Error number of the operating system -> what the user can do about it."""


ABANDONED = re.compile(r"\..*\.([0-9a-f]{4})-(\d+)-\d+\.tmp", re.DOTALL)
"""Name of a temporary path: machine, process and number; see `temporary_path`."""

_numbers = itertools.count()


@contextmanager
def atomic_write(path: Path) -> Generator[Path]:
    """Yield a temporary path beside `path` that replaces it when the block succeeds.

    The caller writes a file or a folder at the temporary path. If the block raises, `path` is
    unchanged. The temporary path is gone afterwards in either case. Missing parents are created.
    What was written has reached the disk when it gets its name, and no two processes share a
    temporary path.

    Raises:
        UserError: the system refused to write (full disk, no permission, a file as a parent, ...).
    """
    with written_temporary(path) as temporary:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync_folder(path.parent)


def write_new(parent: Path, stem: str, suffix: str, write: Callable[[Path], None]) -> Path:
    """Write a file under the first of stem, stem-2, stem-3, ... that is free; returns its path.

    Nothing is overwritten, not even what another process writes at the same time. `write` gets the
    temporary path that it writes to.

    Raises:
        UserError: the system refused to write; see `atomic_write`.
    """
    path = fresh_path(parent, stem, suffix)
    with written_temporary(path) as temporary:
        write(temporary)
        sync(temporary)
        while not takes_free_name(temporary, path):
            path = fresh_path(parent, stem, suffix)
        sync_folder(parent)
    return path


def takes_free_name(temporary: Path, path: Path) -> bool:
    """Give a file its name unless there is something of that name; returns whether it has it."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links: claim the name, then replace the claim
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            return False
        temporary.replace(path)
    return True


@contextmanager
def written_temporary(path: Path) -> Generator[Path]:
    """Yield a temporary path beside `path`, in a folder that exists; it is gone afterwards.

    Raises:
        UserError: the system refused to write, in the block too.
    """
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent)
        yield temporary
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        remedy = REMEDIES.get(getattr(error, "errno", None) or 0, "free some space or choose another folder")
        raise UserError(f"{path} cannot be written ({reason}); {remedy}.") from error
    finally:
        remove(temporary)


def temporary_path(path: Path) -> Path:
    """Name a temporary path beside `path` that no other process and no other call has."""
    name = path.name if len(os.fsencode(path.name)) <= 200 else hashlib.sha256(os.fsencode(path.name)).hexdigest()
    return path.with_name(f".{name}.{machine()}-{os.getpid()}-{next(_numbers)}.tmp")


@cache
def machine() -> str:
    """Name this machine in four hexadecimal digits, as several may share a folder."""
    return hashlib.sha256(platform.node().encode(errors="surrogateescape")).hexdigest()[:4]


@cache
def remove_abandoned(folder: Path) -> None:
    """Remove the temporary paths of killed processes of this machine, once for each folder."""
    import psutil

    for path in folder.iterdir():
        found = ABANDONED.fullmatch(path.name)
        if found and found[1] == machine() and not psutil.pid_exists(int(found[2])):
            remove(path)


def remove(path: Path) -> None:
    """Remove a file or folder, if it exists and may be removed."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or a folder with all its files, has reached the disk."""
    if not path.is_dir():
        descriptor = os.open(path, os.O_RDWR)  # some systems refuse to synchronize what is only read
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return
    for inside in path.iterdir():
        sync(inside)
    sync_folder(path)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder have reached the disk, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def fresh_path(parent: Path, stem: str, suffix: str = "") -> Path:
    """Return the first of stem, stem-2, stem-3, ... that does not exist.

    Another process may take the name meanwhile: see `write_new`.
    """
    number, path = 1, parent / f"{stem}{suffix}"
    while os.path.lexists(path):
        number += 1
        path = parent / f"{stem}-{number}{suffix}"
    return path


def is_writable(folder: Path) -> bool:
    """Return whether a folder, or its nearest existing parent, can be written to."""
    while not folder.exists():
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)


def check_free(path: Path) -> None:
    """Refuse a place for a new file or folder that is taken, or where none can be written.

    A link that leads nowhere is there too.

    Raises:
        UserError: it is.
    """
    try:
        path.lstat()
    except FileNotFoundError:
        check_writable(path.parent)
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "choose another folder")
        raise UserError(f"{shorten(str(path))} cannot be written ({error.strerror}); {remedy}.") from error
    else:
        raise UserError(f"{path} exists already; give another name, or remove it first.")


@contextmanager
def all_or_none() -> Generator[list[Path]]:
    """Yield a list for the files that a block writes; if it raises, they are removed again."""
    written: list[Path] = []
    try:
        yield written
    except BaseException:
        for path in written:
            remove(path)
        raise


def check_writable(folder: Path) -> None:
    """Refuse an output folder that cannot be written to, before hours of work.

    Raises:
        UserError: neither the folder nor its nearest existing parent can be written to.
    """
    if not is_writable(folder):
        raise UserError(f"{folder} cannot be written; give another --out.")
