"""Give each photo its captions: of its own files, of its name, or the templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mascot.data.captioning.caption_files import WrittenCaption, count_lines, normalized, read_sidecars, read_tables
from mascot.data.captioning.caption_variants import first_variant
from mascot.data.captioning.file_name_captions import caption_of_name
from mascot.data.photo_folders import METADATA as TABLES
from mascot.data.photos import Photo, PhotoSet
from mascot.data.prompt_templates import DEFAULT_TEMPLATE, fill, one_line
from mascot.errors import UserError, list_some, printable

METADATA = TABLES[0]
"""Name of the file with a folder's captions, in the layout of Hugging Face's datasets library."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionSources:
    """Where captions come from, besides the files beside the photos."""

    templates: Sequence[str] = (DEFAULT_TEMPLATE,)
    """The captions of photos that have none of their own."""
    each_line: bool = False
    """Whether each line of a text is a caption of its own."""
    from_names: bool = False
    """Whether a photo's name is its caption, where no file gives one."""
    subject_names: Sequence[str] = ()
    """The names of several subjects, which captions may hold."""


def caption_photos(photos: PhotoSet, sources: CaptionSources | Sequence[str] = (DEFAULT_TEMPLATE,)) -> PhotoSet:
    """Return the same photos with their captions; placeholders are not filled yet.

    A photo's captions come from `<stem>.txt` or `<stem>.caption` beside it. Without them they come
    from the folder's `metadata.jsonl`, `metadata.csv` or `metadata.json`, then from the sources in
    their order. A photo without any gets all the templates, one of which is chosen at each step. A
    caption that names neither `{subject}` nor `{token}` is kept as written. Captions of two files
    that differ get a note.

    Raises:
        UserError: a text is not UTF-8, a caption is empty, a row is malformed or names a missing
            file, or `fill` would refuse a placeholder. The message names file and line.
    """
    given = sources if isinstance(sources, CaptionSources) else CaptionSources(templates=tuple(sources))
    if not given.templates:
        raise UserError("There is no caption template; give one such as 'a photo of {token} {class}'.")
    for template in given.templates:
        _check_placeholders("The template", template, given.subject_names)
    folders = sorted({photo.path.parent for photo in photos.photos})
    tables = {path: rows for folder in folders for path, rows in read_tables(folder, each_line=given.each_line).items()}
    notes: list[str] = []
    captioned = tuple(replace(photo, captions=_captions(photo, tables, given, notes)) for photo in photos.photos)
    if not given.each_line:
        notes += _line_notes(photos.photos)
    return replace(photos, photos=captioned, notes=(*photos.notes, *notes))


def _captions(
    photo: Photo, tables: Mapping[Path, list[WrittenCaption]], given: CaptionSources, notes: list[str]
) -> tuple[str, ...]:
    """Return a photo's captions by their first source, and note files that contradict it."""
    files = [*read_sidecars(photo.path, each_line=given.each_line), *tables.get(normalized(photo.path), [])]
    for written in files:
        for caption in written.captions:
            _check_placeholders(written.location, caption, given.subject_names)
    if files:
        other = next((written for written in files[1:] if written.captions != files[0].captions), None)
        if other is not None:
            notes.append(
                f"{printable(photo.path)}: {files[0].location} and {other.location} give different captions; that of "
                f"{files[0].location} is used, so delete the other one."
            )
        return files[0].captions
    caption = caption_of_name(photo.path) if given.from_names else None
    return (caption,) if caption else tuple(one_line(template) for template in given.templates)


def _line_notes(photos: Sequence[Photo]) -> list[str]:
    """Note the texts of several lines that are read as one caption each."""
    several = [printable(photo.path) for photo in photos if count_lines(photo.path) > 1]
    if not several:
        return []
    remedy = "give --set dataset.caption_each_line=true if each line is a caption"
    return [f"{list_some(several)}: a caption of several lines is read as one; {remedy}."]


def _check_placeholders(location: str, caption: str, names: Sequence[str]) -> None:
    """Raise a UserError that names the location if `fill` would refuse the caption."""
    from mascot.protocols import Subject  # protocols import torch, which reading photos does not need

    try:
        named = tuple(Subject(name, name=name) for name in names)
        fill(first_variant(caption), Subject("token", "class", others=named))
    except UserError as error:
        raise UserError(f"{location}: {error}") from None
