"""Write a folder completely or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_folder(out: Path) -> Generator[Path]:
    """Yield an empty folder beside `out` that replaces `out` when the block succeeds.

    When the block fails, the new folder is deleted and `out` stays as it was.
    """
    fresh, old = out.with_name(f".{out.name}.new"), out.with_name(f".{out.name}.old")
    for left_over in (fresh, old):
        shutil.rmtree(left_over, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
    except BaseException:
        shutil.rmtree(fresh)
        raise
    if out.exists():
        out.rename(old)
    fresh.rename(out)
    shutil.rmtree(old, ignore_errors=True)
