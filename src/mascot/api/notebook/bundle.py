"""`bundle`: an adapter in the formats of several tools, as one archive to keep."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

from mascot.api.adapters.convert import SUFFIX, Format, convert
from mascot.generation.loading import resolve_adapter
from mascot.reports.html import fill_template
from mascot.reports.notebook.fragment import Fragment
from mascot.storage.atomic_write import atomic_write
from mascot.storage.run_folder import Run

FORMATS: tuple[Format, ...] = ("diffusers", "kohya", "comfyui", "peft")
"""Formats of a bundle, beside our own."""


def bundle(run: str | Path | Run, out: str | Path | None = None, *, formats: Sequence[Format] = FORMATS) -> Path:
    """Pack an adapter as it is, and in the formats of other tools, into one zip archive.

    A run's recipe, report, scores and diagnosis come with it, as far as they exist. `out` is by
    default `NAME.zip` beside the adapter, where NAME is that of its folder; an archive of that name
    is replaced. Returns the archive's path.

    Raises:
        UserError: the adapter cannot be read or has no such format (see `convert`), or the archive
            cannot be written.
    """
    _, path = resolve_adapter(run)
    files, name = Run(path.parent), path.parent.name if path.stem == "adapter" else path.stem
    target = path.with_name(f"{name}.zip") if out is None else Path(out)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "files"
        folder.mkdir()
        shutil.copy(path, folder / f"{name}{SUFFIX}")
        for to in dict.fromkeys(formats):
            convert(path, folder / (f"{name}_{to}" if to == "peft" else f"{name}_{to}{SUFFIX}"), to=to)
        for record in (files.recipe, files.report, files.scores, files.scores_page, files.diagnosis):
            if files.recipe.exists() and record.exists():
                shutil.copy(record, folder / record.name)
        archive = shutil.make_archive(str(Path(temporary) / "archive"), "zip", folder)
        with atomic_write(target) as written:
            shutil.move(archive, written)
    return target


def offer_download(path: str | Path) -> Fragment:
    """Offer a file to the person at the notebook: in Colab the browser saves it at once.

    Returns a link to show, relative to where the notebook runs.
    """
    file = Path(path)
    try:
        colab: Any = import_module("google.colab.files")
    except ImportError:
        pass
    else:
        colab.download(str(file))
    return Fragment(fill_template("notebook/link.html.jinja", address=quote(file.as_posix()), name=str(file)))
