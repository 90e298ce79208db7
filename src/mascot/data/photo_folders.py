"""List the files of photo folders: which may be photos, which are not, and what lies deeper."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mascot.data.image_decoding import EXTENSIONS, is_mask, mask_paths
from mascot.errors import UserError, list_some, printable

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.json")
"""Tables of captions, the first one first; all of them lie beside their photos."""
SIDECARS = (".txt", ".caption")
"""Extensions of a photo's own caption file, the first one first."""
EXCLUDED = frozenset({"masks", "class-images", "class_images", "class images", "reg", "regularization", "__pycache__"})
"""Names of subfolders whose images are no photos of the subject."""

_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini"})
_SILENT = frozenset({".md", ".toml", ".yaml", ".yml"})
"""Extensions of notes and settings, which nobody takes for a photo or a caption."""
_REPEATS = re.compile(r"(\d+)_(.+)")


@dataclass(frozen=True, slots=True)
class FolderListing:
    """The files of a folder that may be photos, in natural order, and remarks on others."""

    candidates: list[Path] = field(default_factory=list[Path])
    notes: list[str] = field(default_factory=list[str])
    deeper: dict[Path, int] = field(default_factory=dict[Path, int])
    """Subfolder that is not read -> how many images are in it and below."""


def list_folder(folder: Path, *, recursive: bool = False) -> FolderListing:
    """List a folder, and with `recursive` its subfolders, except hidden and excluded ones.

    Raises:
        UserError: a folder cannot be listed.
    """
    listing = FolderListing()
    _list_into(listing, folder, recursive=recursive)
    return listing


def _list_into(listing: FolderListing, folder: Path, *, recursive: bool) -> None:
    try:
        entries = sorted(folder.iterdir(), key=_natural_key)
        masks = sorted((folder / "masks").glob("*.png"), key=_natural_key)
        own = [path for path in entries if _may_be_photo(path)]
        deeper = [path for path in entries if is_readable_subfolder(path)]
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error.strerror}); check that you may read it.") from error
    listing.candidates.extend(own)
    listing.notes.extend(_repeats_note(folder, own))
    listing.notes.extend(_mask_notes(own, [*masks, *(path for path in entries if is_mask(path))]))
    listing.notes.extend(_sidecar_notes(own, entries))
    for subfolder in deeper:
        if recursive:
            _list_into(listing, subfolder, recursive=True)
        elif count := count_images(subfolder):
            listing.deeper[subfolder] = count


def is_readable_subfolder(path: Path) -> bool:
    """Tell whether an entry is a subfolder that may hold photos; links are not followed."""
    hidden = path.name.startswith(".") or path.name.lower() in EXCLUDED
    return not hidden and path.suffix.lower() not in EXTENSIONS and not path.is_symlink() and path.is_dir()


def count_images(folder: Path) -> int:
    """Count the files below a folder that are named like photos, without excluded folders."""
    count = 0
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if is_readable_subfolder(Path(parent, name))]
        count += sum(_is_image_name(name) for name in files)
    return count


def deeper_notes(listing: FolderListing, *, offered: bool) -> list[str]:
    """Say of each subfolder that is not read how many images it holds, and what reads it.

    `offered` says whether the command has a setting that reads all subfolders.
    """
    remedy = "give --set dataset.recursive=true to read it too" if offered else "name that folder to read it"
    return [
        f"{printable(folder)}: a subfolder with {images_text(count)}, not read; {remedy}."
        for folder, count in listing.deeper.items()
    ]


def deeper_sentence(deeper: dict[Path, int], *, offered: bool) -> str:
    """Say which subfolders of a folder without photos hold some, and what reads them."""
    first = next(iter(deeper))
    held = list_some(f"{printable(folder)} ({images_text(count)})" for folder, count in deeper.items())
    verb = "its subfolder holds some" if len(deeper) == 1 else "its subfolders hold some"
    remedy = f"give {first}, or --set dataset.recursive=true" if offered else f"give {first}"
    return f"holds no photos itself, but {verb}: {held}; {remedy}."


def images_text(count: int) -> str:
    """Write a number of images."""
    return "1 image" if count == 1 else f"{count} images"


def _repeats_note(folder: Path, own: list[Path]) -> Iterator[str]:
    """Explain a name such as `10_sks dog`, which other trainers read settings from."""
    match = _REPEATS.fullmatch(Path(os.path.realpath(folder)).name)
    if match and own:
        yield (
            f"{printable(folder)}: the {match[1]} repeats in this name are not used, as --steps sets the length; "
            f"its words are not captions, so give {match[2]!r} by --token and --class-noun."
        )


def _mask_notes(own: list[Path], masks: list[Path]) -> list[str]:
    """Name the masks without a photo."""
    expected = {mask for path in own for mask in mask_paths(path)}
    return [
        f"{printable(mask)}: a mask without a photo of that name; it is not used."
        for mask in masks
        if mask not in expected
    ]


def _sidecar_notes(own: list[Path], entries: list[Path]) -> Iterator[str]:
    """Say of each text and table why it is not used; captions of photos are used elsewhere."""
    stems = {path.with_suffix("") for path in own if _is_image_name(path.name)}
    for path in entries:
        name, extension = path.name.lower(), path.suffix.lower()
        if name.startswith(".") or path.name in METADATA or (extension == ".txt" and path.is_dir()):
            continue
        if extension in SIDECARS and path.with_suffix("") not in stems:
            yield f"{printable(path)}: no photo has this name, so it is no caption; it is not used."
        elif extension in {".json", ".jsonl"}:
            yield (
                f"{printable(path)}: not used; captions are read from {', '.join(METADATA)}, and from .txt and "
                ".caption files beside the photos."
            )


def _natural_key(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Return the key that sorts names with their numbers by value."""
    pieces = re.split(r"(\d+)", path.name.casefold())
    return [(int(piece), "") if index % 2 else (-1, piece) for index, piece in enumerate(pieces)], path.name


def _is_image_name(name: str) -> bool:
    """Tell whether a file is named like a photo, and not like a mask or a hidden file."""
    path = Path(name)
    return path.suffix.lower() in EXTENSIONS and not name.startswith(".") and not is_mask(path)


def _may_be_photo(path: Path) -> bool:
    """Tell whether an entry of a folder is read or refused, not silently skipped."""
    extension, name = path.suffix.lower(), path.name.lower()
    if name.startswith(".") or name in _SYSTEM_FILES or path.name in METADATA:
        return False
    if extension in _SILENT or extension in {*SIDECARS, ".json", ".jsonl"} or is_mask(path):
        return False
    return extension in EXTENSIONS or not path.is_dir()
