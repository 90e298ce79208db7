"""Photos in a notebook: the bundled subject's, or what a person uploads."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from mascot.errors import UserError
from mascot.models.starter import owl_folder
from mascot.storage.atomic_write import atomic_write


def example_photos() -> Path:
    """Return the folder of the bundled subject's photos, an owl; its class noun is `owl`.

    Raises:
        UserError: the installation lacks them.
    """
    return owl_folder()


def upload_photos(folder: str | Path = "photos") -> Path:
    """Ask the person at a Colab notebook for photos, and write them into a folder; returns it.

    Files of the same names are replaced; others stay.

    Raises:
        UserError: this is no Colab notebook, nothing was uploaded, or a file cannot be written.
    """
    try:
        colab: Any = import_module("google.colab.files")
    except ImportError:
        raise UserError(
            "only Colab asks for files; put the photos into a folder beside the notebook, and give the folder."
        ) from None
    return save_uploads(colab.upload(), Path(folder))


def save_uploads(uploaded: Mapping[str, bytes], folder: Path) -> Path:
    """Write uploaded files into a folder; of each name only the last part counts.

    Raises:
        UserError: there is none, or one cannot be written.
    """
    if not uploaded:
        raise UserError("nothing was uploaded; run the cell again and choose 3 to 10 photos.")
    for name, content in uploaded.items():
        last = PurePosixPath(name.replace("\\", "/")).name
        if last in {"", ".."}:
            raise UserError(f"{name!a} is no name of a photo; rename the file, and upload it again.")
        with atomic_write(folder / last) as temporary:
            temporary.write_bytes(content)
    return folder
