"""Each photo's caption, from a text file, `metadata.jsonl` or a template; and the three placeholders that prompts may hold."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import cast

from mascot.data.photos import Photo, PhotoSet
from mascot.data.prompt_templates import DEFAULT_TEMPLATE, fill, one_line
from mascot.errors import UserError, printable
from mascot.protocols import Subject

METADATA = "metadata.jsonl"
"""The captions of a folder, as the datasets library lays them out."""


_CAPTION_KEYS = ("text", "caption", "prompt")


def caption_photos(photos: PhotoSet, templates: Sequence[str] = (DEFAULT_TEMPLATE,)) -> PhotoSet:
    """The same photos, each with its caption, or with all the templates; placeholders are not yet filled.

    `<stem>.txt` beside the photo wins, then the folder's `metadata.jsonl` (rows with `file_name` and `text`, `caption` or `prompt`),
    then the templates, which take turns. A caption that names neither `{subject}` nor `{token}` is kept as written.

    Raises UserError, with file and line, for text that is not UTF-8, an empty caption, a malformed row, a row about a file that does
    not exist, and a placeholder that `fill` would refuse.
    """
    if not templates:
        raise UserError("There is no caption template; give one such as 'a photo of {token} {class}'.")
    for template in templates:
        _check("The template", template)
    usual = tuple(one_line(template) for template in templates)
    folders = {photo.path.parent for photo in photos.photos}
    listed = {path: caption for folder in sorted(folders) for path, caption in _metadata(folder / METADATA).items()}
    captioned: list[Photo] = []
    for photo in photos.photos:
        own = _own(photo) or listed.get(_plain(photo.path))
        captioned.append(replace(photo, captions=(own,) if own else usual))
    return replace(photos, photos=tuple(captioned))


def _own(photo: Photo) -> str | None:
    """The caption in the text file of the photo's name."""
    file = photo.path.with_suffix(".txt")
    if not os.path.lexists(file):
        return None
    caption = one_line(_text(file))
    if not caption:
        raise UserError(f"{printable(file)}, line 1: the caption is empty; write one, or delete the file.")
    _check(printable(file), caption)
    return caption


def _metadata(file: Path) -> dict[Path, str]:
    """The captions of one folder, by path."""
    if not os.path.lexists(file):
        return {}
    captions: dict[Path, str] = {}
    for place, row in _rows(file):
        path = _plain(file.parent / _file_name(row, place, file.parent))
        if path in captions:
            raise UserError(f"{place}: {path.name} has a caption already; keep one row for each photo.")
        captions[path] = _caption(row, place)
    return captions


def _rows(file: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Each row, with the place that errors name."""
    for number, line in enumerate(_text(file).splitlines(), start=1):
        place = f"{printable(file)}, line {number}"
        if not line.strip():
            continue
        try:
            row: object = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place}: this is not JSON ({one_line(str(error))}); write one object a line.") from error
        if not isinstance(row, dict):
            raise UserError(
                f'{place}: write an object such as {{"file_name": "1.jpg", "text": "a photo of {{subject}}"}}.'
            )
        yield place, cast("dict[str, object]", row)


def _file_name(row: dict[str, object], place: str, folder: Path) -> str:
    name = row.get("file_name")
    if not isinstance(name, str) or not name:
        raise UserError(f"{place}: there is no file_name; name the photo that the caption is for.")
    if not os.path.lexists(folder / name):
        close = get_close_matches(name, (path.name for path in folder.iterdir()), n=1)
        remedy = f"did you mean {close[0]!r}?" if close else "correct the name or delete the row."
        raise UserError(f"{place}: there is no file {name!r} in {folder}; {remedy}")
    return name


def _caption(row: dict[str, object], place: str) -> str:
    key = next((key for key in _CAPTION_KEYS if key in row), None)
    if key is None:
        raise UserError(
            f"{place}: there is no caption; give it under {', '.join(_CAPTION_KEYS[:-1])} or {_CAPTION_KEYS[-1]}."
        )
    text = row[key]
    caption = one_line(text) if isinstance(text, str) else ""
    if not caption:
        raise UserError(f"{place}: {key} is empty or not a text; write a caption, or delete the row.")
    _check(place, caption)
    return caption


def _check(place: str, caption: str) -> None:
    """Refuse a caption that cannot be filled while its place is still known."""
    try:
        fill(caption, Subject("token", "class"))
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def _text(file: Path) -> str:
    try:
        written = file.read_bytes()
        return written.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{printable(file)} cannot be read ({error.strerror}); mend or delete it.") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(
            f"{printable(file)}, line {line}: this is not UTF-8; save the file with that encoding."
        ) from error


def _plain(path: Path) -> Path:
    """The path without `.` and `..`, links kept: a row names the file as it lies in the folder."""
    return Path(os.path.normpath(path))
