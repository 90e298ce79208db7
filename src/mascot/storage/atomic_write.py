"""Atomic writes: a file or folder is replaced whole or not at all; failures become user errors."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from mascot.errors import UserError

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


@contextmanager
def atomic_write(path: Path) -> Generator[Path]:
    """Yield a temporary path beside `path` that replaces it when the block succeeds.

    The caller writes a file or a folder at the temporary path. If the block raises, `path` is
    unchanged. The temporary path is gone afterwards in either case. Missing parents are created.

    Raises:
        UserError: the system refused to write (full disk, no permission, a file as a parent, ...).
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        remedy = REMEDIES.get(getattr(error, "errno", None) or 0, "free some space or choose another folder")
        raise UserError(f"{path} cannot be written ({reason}); {remedy}.") from error
    finally:
        with suppress(OSError):  # a fault of the path has been raised above
            if temporary.is_dir():
                shutil.rmtree(temporary)
            else:
                temporary.unlink(missing_ok=True)


def fresh_path(parent: Path, stem: str, suffix: str = "") -> Path:
    """Return the first of stem, stem-2, stem-3, ... that does not exist; nothing is overwritten."""
    number, path = 1, parent / f"{stem}{suffix}"
    while path.exists():
        number += 1
        path = parent / f"{stem}-{number}{suffix}"
    return path


def is_writable(folder: Path) -> bool:
    """Return whether a folder, or its nearest existing parent, can be written to."""
    while not folder.exists():
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)


def check_writable(folder: Path) -> None:
    """Refuse an output folder that cannot be written to, before hours of work.

    Raises:
        UserError: neither the folder nor its nearest existing parent can be written to.
    """
    if not is_writable(folder):
        raise UserError(f"{folder} cannot be written; give another --out.")
