"""Read photos and their masks from folders and files, and refuse unusable files by name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from mascot.data.image_decoding import (
    BYTE_LIMIT,
    SHORTEST_SIDE,
    Color,
    DecodedImage,
    UnusableImage,
    check_file,
    decode,
    parse_color,
    read_mask,
)
from mascot.data.photo_folders import deeper_notes, deeper_sentence, list_folder
from mascot.errors import UserError, printable
from mascot.storage.untrusted_files import UnreadableFile, digest_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """One upright RGB photo of the subject, with its mask and captions."""

    path: Path
    image: Image.Image
    mask: Image.Image | None = None
    """An `L` image of the same size, 255 on the subject; None without a mask."""
    captions: tuple[str, ...] = ()
    """One caption of the photo's own, or all the templates; placeholders are not filled."""
    subject: int = 0
    """Which of a run's subjects it shows, from 0."""

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
    written: tuple[tuple[str, str], ...] = ()
    """File name and caption of each photo whose caption a model wrote."""
    class_images: tuple[Photo, ...] = ()
    """Class images of the user's own, which do not show the subject."""


def join_photos(groups: Sequence[PhotoSet]) -> PhotoSet:
    """Join the photos of several subjects; group i has those of subject i."""
    return PhotoSet(
        photos=tuple(replace(photo, subject=index) for index, group in enumerate(groups) for photo in group.photos),
        refused=tuple(refused for group in groups for refused in group.refused),
        notes=tuple(note for group in groups for note in group.notes),
    )


def read_photos(paths: Sequence[Path], *, background: str = "white", recursive: bool | None = None) -> PhotoSet:
    """Read the usable photos of folders and files, upright and at most 2048 pixels a side.

    Subfolders are read if `recursive`, except hidden ones, masks and class images. An unusable
    file in a folder is refused, and the others are still used. The mask is `<stem>.mask.png` beside
    the photo or `masks/<stem>.png`, else the photo's alpha channel.

    Args:
        paths: folders and files; a file that is given twice is read once.
        background: the color that replaces transparent parts, a name or #rrggbb.
        recursive: also read the folders' subfolders; None where the user cannot choose that.

    Raises:
        UserError: the color is unknown, a path does not exist, a file that was given itself is
            unusable, or there is no usable photo.
    """
    found = collect_photos(paths, background=background, recursive=recursive)
    _check_usable(paths, found.photos, found.refused)
    return found


def collect_photos(paths: Sequence[Path], *, background: str = "white", recursive: bool | None = None) -> PhotoSet:
    """Read photos as `read_photos` does; there may be none."""
    color = parse_color(background)
    photos: list[Photo] = []
    refused: list[RefusedFile] = []
    notes: list[str] = []
    decoded: dict[str, tuple[DecodedImage, list[str]]] = {}
    for path in _without_repeats(_candidates(paths, notes, recursive=recursive)):
        try:
            photos.append(_read(path, color, notes, decoded))
        except UnusableImage as error:
            refused.append(RefusedFile(path=path, reason=str(error)))
    return PhotoSet(photos=tuple(photos), refused=tuple(refused), notes=tuple(notes))


def _candidates(paths: Sequence[Path], notes: list[str], *, recursive: bool | None) -> list[Path]:
    """List the given files, and the files of the given folders that may be photos."""
    if not paths:
        raise UserError("No photos are given; name a folder with photos, or the photos themselves.")
    candidates: list[Path] = []
    for path in paths:
        if not os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises on names that are too long
            candidates.append(path)
            continue
        listing = list_folder(path, recursive=bool(recursive))
        if listing.deeper and not listing.candidates:
            raise UserError(f"{path} {deeper_sentence(listing.deeper, offered=recursive is not None)}")
        candidates += listing.candidates
        notes += [*listing.notes, *deeper_notes(listing, offered=recursive is not None)]
    return candidates


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
