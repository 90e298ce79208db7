"""Read photos and their masks from folders and files, and refuse unusable files by name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mascot.data.image_decoding import (
    BYTE_LIMIT,
    EXTENSIONS,
    SHORTEST_SIDE,
    Color,
    DecodedImage,
    UnusableImage,
    check_file,
    decode,
    is_mask,
    mask_paths,
    parse_color,
    read_mask,
)
from mascot.errors import UserError, printable
from mascot.storage.untrusted_files import UnreadableFile, digest_of

_TEXT_EXTENSIONS = frozenset({".txt", ".jsonl", ".json", ".md"})
_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """One upright RGB photo of the subject, with its mask and captions."""

    path: Path
    image: Image.Image
    mask: Image.Image | None = None
    """An `L` image of the same size, 255 on the subject; None without a mask."""
    captions: tuple[str, ...] = ()
    """One caption of the photo's own, or all the templates; placeholders are not filled."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, in pixels (Pillow's own order is width and height)."""
        return self.image.height, self.image.width


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedFile:
    """A file that is not used, with one sentence that names it and says why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoSet:
    """The usable photos in a fixed order, the refused files, and remarks on photos and masks."""

    photos: tuple[Photo, ...]
    refused: tuple[RefusedFile, ...] = ()
    notes: tuple[str, ...] = ()


def read_photos(paths: Sequence[Path], *, background: str = "white") -> PhotoSet:
    """Read the usable photos of folders and files, upright and at most 2048 pixels a side.

    Subfolders are not read. An unusable file in a folder is refused, and the others are still used.
    The mask is `<stem>.mask.png` beside the photo or `masks/<stem>.png`, else the photo's alpha
    channel.

    Args:
        paths: folders and files; a file that is given twice is read once.
        background: the color that replaces transparent parts, a name or #rrggbb.

    Raises:
        UserError: the color is unknown, a path does not exist, a file that was given itself is
            unusable, or there is no usable photo.
    """
    color = parse_color(background)
    photos: list[Photo] = []
    refused: list[RefusedFile] = []
    notes: list[str] = []
    decoded: dict[str, tuple[DecodedImage, list[str]]] = {}
    for path in _without_repeats(_candidates(paths, notes)):
        try:
            photos.append(_read(path, color, notes, decoded))
        except UnusableImage as error:
            refused.append(RefusedFile(path=path, reason=str(error)))
    _check_usable(paths, photos, refused)
    return PhotoSet(photos=tuple(photos), refused=tuple(refused), notes=tuple(notes))


def _candidates(paths: Sequence[Path], notes: list[str]) -> list[Path]:
    """List the given files, and the files of the given folders that may be photos."""
    if not paths:
        raise UserError("No photos are given; name a folder with photos, or the photos themselves.")
    candidates: list[Path] = []
    for path in paths:
        is_folder = os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises on names that are too long
        candidates += _folder_candidates(path, notes) if is_folder else [path]
    return candidates


def _folder_candidates(folder: Path, notes: list[str]) -> list[Path]:
    """List a folder's photos in natural order (`2.jpg` before `10.jpg`); note masks without one."""
    try:
        entries = sorted(folder.iterdir(), key=_natural_key)
        masks = sorted((folder / "masks").glob("*.png"), key=_natural_key)
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error.strerror}); check that you may read it.") from error
    candidates = [path for path in entries if _may_be_photo(path)]
    expected = {mask for path in candidates for mask in mask_paths(path)}
    masks += [path for path in entries if is_mask(path)]
    notes += [
        f"{printable(mask)}: a mask without a photo of that name; it is not used."
        for mask in masks
        if mask not in expected
    ]
    return candidates


def _natural_key(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Return the key that sorts names with their numbers by value."""
    pieces = re.split(r"(\d+)", path.name.casefold())
    return [(int(piece), "") if index % 2 else (-1, piece) for index, piece in enumerate(pieces)], path.name


def _may_be_photo(path: Path) -> bool:
    """Tell whether an entry of a folder is read or refused, not silently skipped."""
    extension = path.suffix.lower()
    if path.name.startswith(".") or path.name.lower() in _SYSTEM_FILES:
        return False
    if extension in _TEXT_EXTENSIONS or is_mask(path):
        return False
    return extension in EXTENSIONS or not path.is_dir()


def _without_repeats(paths: Iterable[Path]) -> list[Path]:
    """Keep each file once, under the first path that leads to it."""
    # realpath, since Path.resolve raises on a loop of links
    return list({os.path.realpath(path): path for path in reversed(list(paths))}.values())[::-1]


def _check_usable(paths: Sequence[Path], photos: Sequence[Photo], refused: Sequence[RefusedFile]) -> None:
    """Raise a UserError if a file that was given itself is unusable, or if there is no photo."""
    for refusal in refused:
        if refusal.path in paths:
            raise UserError(refusal.reason)
    if photos:
        return
    given = ", ".join(str(path) for path in paths)
    if not refused:
        raise UserError(
            f"{given} holds no photos; put 3 to 20 photos of the subject there "
            "(jpg, png, webp, avif, heic, bmp, tif, gif)."
        )
    reasons = [refusal.reason.rstrip(".") for refusal in refused[:3]]
    if len(refused) > 3:
        reasons.append(f"and {len(refused) - 3} more")
    raise UserError(f"{given} holds no usable photo: {'; '.join(reasons)}.")


def _read(path: Path, background: Color, notes: list[str], known: dict[str, tuple[DecodedImage, list[str]]]) -> Photo:
    """Read one photo and its mask; remarks on it become notes only if it is usable.

    `known` holds the images that are decoded already, by the digest of their file: copies of one
    file share one image.
    """
    check_file(path)
    digest = _digest(path)
    if digest not in known:
        remarks: list[str] = []
        known[digest] = decode(path, background, remarks), remarks
    decoded, remarks = known[digest]
    if min(decoded.image.size) < SHORTEST_SIDE:
        width, height = decoded.full_size
        raise UnusableImage(path, f"is too small ({width}x{height} pixels); use a photo of at least 256 pixels a side.")
    mask = read_mask(path, decoded)
    notes += [f"{printable(path)}: {remark}." for remark in remarks]
    return Photo(path=path, image=decoded.image, mask=mask)


def _digest(path: Path) -> str:
    """Hash a file's bytes; a file that cannot be read is refused where it is decoded."""
    try:
        return digest_of(path, limit=BYTE_LIMIT)
    except UnreadableFile:
        return str(path)
