"""Read captions from the files beside photos: a text a photo, or a table a folder."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import cast

from mascot.data.image_decoding import EXTENSIONS
from mascot.data.photo_folders import METADATA, SIDECARS
from mascot.data.prompt_templates import one_line
from mascot.errors import UserError, printable
from mascot.storage.strict_parsing import MalformedText, parse_json
from mascot.storage.untrusted_files import TEXT_LIMIT, UnreadableFile, read_bytes

CAPTION_KEYS = ("text", "caption", "prompt")
"""Names of a caption in a table, the first one first."""
FILE_KEYS = ("file_name", "filename", "file", "image")
"""Names of the photo's column in a CSV table."""

Row = tuple[str, dict[str, object]]
"""Where a row stands (file and line), and its values."""


@dataclass(frozen=True, slots=True)
class WrittenCaption:
    """The captions that one file gives for one photo."""

    location: str
    """File, and the line of a table; errors and notes name it."""
    captions: tuple[str, ...]


def read_sidecars(photo: Path, *, each_line: bool) -> list[WrittenCaption]:
    """Read the text files that have a photo's name: `<stem>.txt`, then `<stem>.caption`.

    With `each_line` every line that is not blank is a caption; otherwise a text is one caption.

    Raises:
        UserError: one cannot be read, is not UTF-8, or is empty.
    """
    files = [photo.with_suffix(one) for extension in SIDECARS for one in (extension, extension.upper())]
    return [_read_sidecar(file, each_line=each_line) for file in files if os.path.lexists(file)]


def _read_sidecar(file: Path, *, each_line: bool) -> WrittenCaption:
    captions = _split(read_text(file), each_line=each_line)
    if not captions:
        raise UserError(f"{printable(file)}, line 1: the caption is empty; write one, or delete the file.")
    return WrittenCaption(printable(file), captions)


def count_lines(photo: Path) -> int:
    """Count the lines of a photo's text file that are not blank; 0 if there is none."""
    texts = [read_text(file) for one in SIDECARS if os.path.lexists(file := photo.with_suffix(one))]
    return sum(bool(line.strip()) for line in texts[0].splitlines()) if texts else 0


def read_tables(folder: Path, *, each_line: bool) -> dict[Path, list[WrittenCaption]]:
    """Read the captions of a folder's tables, by normalized path of the photo.

    The tables are `metadata.jsonl`, `metadata.csv` and `metadata.json`, in this order.

    Raises:
        UserError: a table cannot be read, or a row is malformed, names a photo that does not exist,
            or repeats one. The message names file and line.
    """
    found: dict[Path, list[WrittenCaption]] = {}
    for name, rows in zip(METADATA, (_json_line_rows, _csv_rows, _json_rows), strict=True):
        file = folder / name
        if not os.path.lexists(file):
            continue
        own: dict[Path, WrittenCaption] = {}
        for location, row in rows(file):
            path = normalized(folder / _file_name(row, location, folder))
            if path in own:
                raise UserError(f"{location}: {path.name} has a caption already; keep one row for each photo.")
            own[path] = WrittenCaption(location, _captions(row, location, each_line=each_line))
        for path, written in own.items():
            found.setdefault(path, []).append(written)
    return found


def _json_line_rows(file: Path) -> Iterator[Row]:
    """Yield the rows of a file of JSON lines, in the layout of Hugging Face's datasets library."""
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        location = f"{printable(file)}, line {number}"
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except MalformedText as error:
            raise UserError(
                f"{location}: this is not JSON ({str(error).removeprefix('line 1: ')}); write one object a line."
            ) from error
        yield location, _checked_row(row, location)


def _csv_rows(file: Path) -> Iterator[Row]:
    """Yield the rows of a CSV table, whose first line names the columns."""
    lines = read_text(file).splitlines()
    head = lines[0] if lines else ""
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        columns = [name.strip().lower() for name in next(reader, [])]
        photo = next((name for name in FILE_KEYS if name in columns), None)
        if photo is None or not set(CAPTION_KEYS) & set(columns):
            raise UserError(f"{printable(file)}, line 1: name the columns file_name,text, then write one photo a line.")
        for cells in reader:
            location = f"{printable(file)}, line {reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(columns):
                raise UserError(
                    f"{location}: there are {len(cells)} columns, and {len(columns)} in line 1; put a caption that "
                    f"holds {delimiter!r} in double quotes."
                )
            row: dict[str, object] = dict(zip(columns, cells, strict=True))
            yield location, row | {"file_name": str(row[photo]).strip()}
    except csv.Error as error:
        raise UserError(
            f"{printable(file)}, line {reader.line_num}: this is not CSV ({error}); put captions in double quotes."
        ) from None


def _json_rows(file: Path) -> Iterator[Row]:
    """Yield the rows of a JSON table: a list, or a mapping of photos as kohya's tools write.

    In a mapping, a photo stands for its file name with or without its extension, or a path to it.
    Its value is a caption, or holds `caption`, `tags` or both, which are joined.
    """
    try:
        value = parse_json(read_text(file))
    except MalformedText as error:
        raise UserError(f"{printable(file)} is not JSON ({error}); correct it, or delete it.") from None
    if isinstance(value, list):
        for number, row in enumerate(cast("list[object]", value), start=1):
            location = f"{printable(file)}, entry {number}"
            yield location, _checked_row(row, location)
        return
    if not isinstance(value, dict):
        raise UserError(f'{printable(file)}: write a group such as {{"1": {{"caption": "a photo of {{subject}}"}}}}.')
    names = {path.stem: path.name for path in sorted(file.parent.iterdir()) if path.suffix.lower() in EXTENSIONS}
    for key, entry in cast("dict[str, object]", value).items():
        last = key.replace("\\", "/").rpartition("/")[2]
        row = cast("dict[str, object]", entry) if isinstance(entry, dict) else {"caption": entry}
        yield f"{printable(file)}, {key!r}", _joined(row) | {"file_name": names.get(last, last)}


def _joined(row: Mapping[str, object]) -> dict[str, object]:
    """Join a row's caption and its tags, as the tools that write them do."""
    tags = row.get("tags")
    text = ", ".join(str(tag) for tag in cast("list[object]", tags)) if isinstance(tags, list) else tags
    caption = next((row[key] for key in CAPTION_KEYS if key in row), None)
    parts = [part for part in (caption, text) if part is not None]
    if len(parts) == 2 and all(isinstance(part, str) and part.strip() for part in parts):
        return {"caption": ", ".join(str(part).strip(" ,") for part in parts)}
    return {"caption": parts[0]} if parts else {}


def _checked_row(row: object, location: str) -> dict[str, object]:
    if not isinstance(row, dict):
        raise UserError(
            f'{location}: write an object such as {{"file_name": "1.jpg", "text": "a photo of {{subject}}"}}.'
        )
    return cast("dict[str, object]", row)


def _file_name(row: Mapping[str, object], location: str, folder: Path) -> str:
    """Return the name of the photo that a row describes, and refuse one that does not exist."""
    name = row.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        raise UserError(f"{location}: there is no file_name; name the photo that the caption is for.")
    if not os.path.lexists(folder / name):
        close = get_close_matches(name, (path.name for path in folder.iterdir()), n=1)
        remedy = f"did you mean {close[0]!r}?" if close else "correct the name or delete the row."
        raise UserError(f"{location}: there is no file {name!r} in {folder}; {remedy}")
    return name


def _captions(row: Mapping[str, object], location: str, *, each_line: bool) -> tuple[str, ...]:
    """Return the captions of a row; a list holds several."""
    key = next((key for key in CAPTION_KEYS if key in row), None)
    if key is None:
        raise UserError(
            f"{location}: there is no caption; give it under {', '.join(CAPTION_KEYS[:-1])} or {CAPTION_KEYS[-1]}."
        )
    texts = cast("list[object]", row[key]) if isinstance(row[key], list) else [row[key]]
    split = [_split(text, each_line=each_line) if isinstance(text, str) else () for text in texts]
    if not split or not all(split):
        raise UserError(f"{location}: {key} is empty or not a text; write a caption, or delete the row.")
    return tuple(caption for captions in split for caption in captions)


def _split(text: str, *, each_line: bool) -> tuple[str, ...]:
    """Split a text to its captions, each in one line."""
    lines: Sequence[str] = text.splitlines() if each_line else [text]
    return tuple(caption for line in lines if (caption := one_line(line)))


def read_text(file: Path) -> str:
    """Read a UTF-8 text, with or without a byte order mark.

    Raises:
        UserError: it cannot be read, is not UTF-8 or is no text; the message names file and line.
    """
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


def normalized(path: Path) -> Path:
    """Remove `.` and `..` from a path, but keep links: rows name files as the folder lists them."""
    return Path(os.path.normpath(path))
