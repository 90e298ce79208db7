"""TODO storage.atomic_write."""

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
"""What to do about some of the system's refusals."""


@contextmanager
def atomic_write(path: Path) -> Generator[Path]:
    """Give a temporary path beside `path` that takes its place when the block ends well, and is deleted when it does not."""
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
        with suppress(OSError):  # what went wrong with the path has been said
            if temporary.is_dir():
                shutil.rmtree(temporary)
            else:
                temporary.unlink(missing_ok=True)


def fresh_path(parent: Path, stem: str, suffix: str = "") -> Path:
    """Choose the first of stem, stem-2, stem-3, ... that does not exist; nothing is ever overwritten."""
    number, path = 1, parent / f"{stem}{suffix}"
    while path.exists():
        number += 1
        path = parent / f"{stem}-{number}{suffix}"
    return path


def is_writable(folder: Path) -> bool:
    """Whether a folder, or the nearest parent that exists, may be written."""
    while not folder.exists():
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)


def check_writable(folder: Path) -> None:
    """Refuse a folder that nothing could be kept in, before hours of work.

    Raises:
        UserError: neither it nor its nearest parent that exists may be written.
    """
    if not is_writable(folder):
        raise UserError(f"{folder} cannot be written; give another --out.")
