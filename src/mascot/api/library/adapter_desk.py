"""A folder of adapter files that somebody brought: each is read once before it is kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from mascot.adapters.adapter_file import Adapter
from mascot.errors import UserError, shorten

ENDING: Final = ".safetensors"
MOST: Final = 10
"""Files that a folder keeps."""


def add_adapter(folder: Path, path: Path) -> str:
    """Move an adapter file into a folder, under a plain name; returns that name.

    Raises:
        UserError: it is no adapter file that mascot reads, or there are enough of them.
    """
    try:
        if path.suffix != ENDING:
            raise UserError(f"{shorten(path.name, 60)} is no {ENDING} file; give an adapter of that kind.")
        if len(list_adapters(folder)) >= MOST:
            raise UserError(f"There are {MOST} adapter files already; load the page in another browser.")
        try:
            Adapter.read(path)
        except UserError as error:
            raise UserError(str(error).replace(str(path), shorten(path.name, 60))) from error
        folder.mkdir(parents=True, exist_ok=True)
        stem = re.sub(r"[^\w.-]+", "_", path.stem).strip("._")[:60] or "adapter"
        name, number = stem, 2
        while (folder / f"{name}{ENDING}").exists():
            name, number = f"{stem}-{number}", number + 1
        path.replace(folder / f"{name}{ENDING}")
        return f"{name}{ENDING}"
    finally:
        path.unlink(missing_ok=True)


def list_adapters(folder: Path) -> list[str]:
    """List the names of the adapter files in a folder."""
    return sorted(path.name for path in folder.glob(f"*{ENDING}")) if folder.is_dir() else []
