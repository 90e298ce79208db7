"""Folders and files of any origin become upright RGB photos, with their masks; what cannot be used is refused by name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mascot.data.image_decoding import (
    EXTENSIONS,
    SHORTEST_SIDE,
    Colour,
    UnusableImage,
    check_file,
    decode,
    is_mask,
    mask_paths,
    parse_colour,
    read_mask,
)
from mascot.errors import UserError, printable

_BESIDE = frozenset({".txt", ".jsonl", ".json", ".md"})


_CLUTTER = frozenset({"thumbs.db", "desktop.ini"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """One upright picture of the subject: RGB, with an `L` mask of the same size (255 where the subject is) where one is known."""

    path: Path
    image: Image.Image
    mask: Image.Image | None = None
    captions: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, in pixels (Pillow's own order is the other one)."""
        return self.image.height, self.image.width


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedFile:
    """A file that is not used, and one sentence that names it and says why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoSet:
    """The usable photos in a fixed order, the files refused, and remarks on photos that were used with a reservation."""

    photos: tuple[Photo, ...]
    refused: tuple[RefusedFile, ...] = ()
    notes: tuple[str, ...] = ()


def read_photos(paths: Sequence[Path], *, background: str = "white") -> PhotoSet:
    """Every usable photo of the folders (not their subfolders) and files given, upright, decoded, and at most 2048 pixels a side.

    Transparent parts are filled with `background` (a colour name or #rrggbb), and transparency becomes the mask where no mask file
    (`<stem>.mask.png` beside the photo, or `masks/<stem>.png`) is given. Unusable files in a folder are refused, not fatal.

    Raises UserError for an unknown colour, a path that does not exist, an unusable file named by itself, and when nothing is left.
    """
    colour = parse_colour(background)
    photos: list[Photo] = []
    refused: list[RefusedFile] = []
    notes: list[str] = []
    for path in _unique(_candidates(paths, notes)):
        try:
            photos.append(_read(path, colour, notes))
        except UnusableImage as error:
            refused.append(RefusedFile(path=path, reason=str(error)))
    _insist(paths, photos, refused)
    return PhotoSet(photos=tuple(photos), refused=tuple(refused), notes=tuple(notes))


def _candidates(paths: Sequence[Path], notes: list[str]) -> list[Path]:
    """What is offered: the files named, and what a folder holds that could be meant as a photo."""
    if not paths:
        raise UserError("No photos are given; name a folder with photos, or the photos themselves.")
    found: list[Path] = []
    for path in paths:
        found += _listing(path, notes) if os.path.isdir(path) else [path]  # noqa: PTH112 - Path.is_dir raises on overlong names
    return found


def _listing(folder: Path, notes: list[str]) -> list[Path]:
    """A folder's photos in natural order (`2.jpg` before `10.jpg`); masks that belong to none of them are noted."""
    try:
        entries = sorted(folder.iterdir(), key=_natural)
        masks = sorted((folder / "masks").glob("*.png"), key=_natural)
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error.strerror}); check that you may read it.") from error
    offered = [path for path in entries if _may_be_photo(path)]
    wanted = {mask for path in offered for mask in mask_paths(path)}
    masks += [path for path in entries if is_mask(path)]
    notes += [
        f"{printable(mask)}: a mask without a photo of that name; it is not used."
        for mask in masks
        if mask not in wanted
    ]
    return offered


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    pieces = re.split(r"(\d+)", path.name.casefold())
    return [(int(piece), "") if place % 2 else (-1, piece) for place, piece in enumerate(pieces)], path.name


def _may_be_photo(path: Path) -> bool:
    """Whether a folder's entry is read or refused, rather than passed over in silence."""
    extension = path.suffix.lower()
    if path.name.startswith(".") or path.name.lower() in _CLUTTER or extension in _BESIDE or is_mask(path):
        return False
    return extension in EXTENSIONS or not path.is_dir()


def _unique(paths: Iterable[Path]) -> list[Path]:
    """Each file once, under the first name that it was given by (realpath, because Path.resolve raises on a loop of links)."""
    return list({os.path.realpath(path): path for path in reversed(list(paths))}.values())[::-1]


def _insist(paths: Sequence[Path], photos: Sequence[Photo], refused: Sequence[RefusedFile]) -> None:
    """Raise where the user named an unusable file, or where nothing is left."""
    for refusal in refused:
        if refusal.path in paths:
            raise UserError(refusal.reason)
    if photos:
        return
    places = ", ".join(str(path) for path in paths)
    if not refused:
        raise UserError(
            f"{places} holds no photos; put 3 to 20 pictures of the subject there (jpg, png, webp, avif, heic, bmp, tif, gif)."
        )
    shown = [refusal.reason.rstrip(".") for refusal in refused[:3]] + [f"and {len(refused[3:])} more"] * bool(
        refused[3:]
    )
    raise UserError(f"{places} holds no usable photo: {'; '.join(shown)}.")


def _read(path: Path, colour: Colour, notes: list[str]) -> Photo:
    """One photo with its mask; remarks are added to the notes only when it is usable."""
    check_file(path)
    remarks: list[str] = []
    decoded = decode(path, colour, remarks)
    if min(decoded.image.size) < SHORTEST_SIDE:
        width, height = decoded.full_size
        raise UnusableImage(
            f"{printable(path)} is too small ({width}x{height} pixels); use a photo of at least 256 pixels a side."
        )
    mask = read_mask(path, decoded, colour)
    notes += [f"{printable(path)}: {remark}." for remark in remarks]
    return Photo(path=path, image=decoded.image, mask=mask)
