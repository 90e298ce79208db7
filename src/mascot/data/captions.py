"""Read each photo's caption from a text file or `metadata.jsonl`, or use the caption templates."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import cast

from mascot.data.photos import Photo, PhotoSet
from mascot.data.prompt_templates import DEFAULT_TEMPLATE, fill, one_line
from mascot.errors import UserError, printable
from mascot.storage.strict_parsing import MalformedText, parse_json
from mascot.storage.untrusted_files import TEXT_LIMIT, UnreadableFile, read_bytes

METADATA = "metadata.jsonl"
"""Name of the file with a folder's captions, in the layout of Hugging Face's datasets library."""
_CAPTION_KEYS = ("text", "caption", "prompt")


def caption_photos(photos: PhotoSet, templates: Sequence[str] = (DEFAULT_TEMPLATE,)) -> PhotoSet:
    """Return the same photos with their captions; placeholders are not filled yet.

    A photo's caption comes from `<stem>.txt` beside it. Without that file it comes from the
    folder's `metadata.jsonl`, whose rows hold `file_name` and one of `text`, `caption` or `prompt`.
    A photo with neither gets all the templates, one of which is chosen at each step. A caption that
    names neither `{subject}` nor `{token}` is kept as written.

    Raises:
        UserError: a text is not UTF-8, a caption is empty, a row is malformed or names a missing
            file, or `fill` would refuse a placeholder. The message names file and line.
    """
    if not templates:
        raise UserError("There is no caption template; give one such as 'a photo of {token} {class}'.")
    for template in templates:
        _check_placeholders("The template", template)
    defaults = tuple(one_line(template) for template in templates)
    folders = sorted({photo.path.parent for photo in photos.photos})
    from_metadata = {path: caption for folder in folders for path, caption in _read_metadata(folder / METADATA).items()}
    captioned: list[Photo] = []
    for photo in photos.photos:
        caption = _read_text_file(photo) or from_metadata.get(_normalized(photo.path))
        captioned.append(replace(photo, captions=(caption,) if caption else defaults))
    return replace(photos, photos=tuple(captioned))


def _read_text_file(photo: Photo) -> str | None:
    """Read the caption from the text file with the photo's name, if there is one."""
    file = photo.path.with_suffix(".txt")
    if not os.path.lexists(file):
        return None
    caption = one_line(_decode_text(file))
    if not caption:
        raise UserError(f"{printable(file)}, line 1: the caption is empty; write one, or delete the file.")
    _check_placeholders(printable(file), caption)
    return caption


def _read_metadata(file: Path) -> dict[Path, str]:
    """Read the captions of one folder, by path; a missing file holds none."""
    if not os.path.lexists(file):
        return {}
    captions: dict[Path, str] = {}
    for location, row in _rows(file):
        path = _normalized(file.parent / _file_name(row, location, file.parent))
        if path in captions:
            raise UserError(f"{location}: {path.name} has a caption already; keep one row for each photo.")
        captions[path] = _caption(row, location)
    return captions


def _rows(file: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield each row with its location (file and line), which errors name."""
    for number, line in enumerate(_decode_text(file).split("\n"), start=1):
        location = f"{printable(file)}, line {number}"
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except MalformedText as error:
            raise UserError(
                f"{location}: this is not JSON ({str(error).removeprefix('line 1: ')}); write one object a line."
            ) from error
        if not isinstance(row, dict):
            raise UserError(
                f'{location}: write an object such as {{"file_name": "1.jpg", "text": "a photo of {{subject}}"}}.'
            )
        yield location, cast("dict[str, object]", row)


def _file_name(row: dict[str, object], location: str, folder: Path) -> str:
    """Return the name of the photo that a row describes, and refuse one that does not exist."""
    name = row.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        raise UserError(f"{location}: there is no file_name; name the photo that the caption is for.")
    if not os.path.lexists(folder / name):
        close = get_close_matches(name, (path.name for path in folder.iterdir()), n=1)
        remedy = f"did you mean {close[0]!r}?" if close else "correct the name or delete the row."
        raise UserError(f"{location}: there is no file {name!r} in {folder}; {remedy}")
    return name


def _caption(row: dict[str, object], location: str) -> str:
    """Return the caption of a row, in one line."""
    key = next((key for key in _CAPTION_KEYS if key in row), None)
    if key is None:
        raise UserError(
            f"{location}: there is no caption; give it under {', '.join(_CAPTION_KEYS[:-1])} or {_CAPTION_KEYS[-1]}."
        )
    text = row[key]
    caption = one_line(text) if isinstance(text, str) else ""
    if not caption:
        raise UserError(f"{location}: {key} is empty or not a text; write a caption, or delete the row.")
    _check_placeholders(location, caption)
    return caption


def _check_placeholders(location: str, caption: str) -> None:
    """Raise a UserError that names the location if `fill` would refuse the caption."""
    from mascot.protocols import Subject  # protocols import torch, which reading photos does not need

    try:
        fill(caption, Subject("token", "class"))
    except UserError as error:
        raise UserError(f"{location}: {error}") from None


def _decode_text(file: Path) -> str:
    """Read a UTF-8 text, with or without a byte order mark."""
    try:
        text = read_bytes(file, limit=TEXT_LIMIT).decode("utf-8-sig")
    except UnreadableFile as error:
        raise UserError(f"{printable(file)} cannot be read ({error.reason}); repair or delete it.") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(
            f"{printable(file)}, line {line}: this is not UTF-8; save the file with that encoding."
        ) from error
    if "\0" in text:
        raise UserError(f"{printable(file)} is no text (it holds a NUL character); write it again, or delete it.")
    return text


def _normalized(path: Path) -> Path:
    """Remove `.` and `..` from a path, but keep links: rows name files as the folder lists them."""
    return Path(os.path.normpath(path))
