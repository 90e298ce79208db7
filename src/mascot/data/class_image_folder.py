"""Read class images of the user's own, and refuse those that show the subject."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mascot.data.photo_audit import NEAR_DUPLICATE_BITS, perceptual_hashes
from mascot.data.photos import Photo, PhotoSet, RefusedFile, collect_photos
from mascot.errors import UserError, printable


def read_class_images(folder: Path, photos: Sequence[Photo], *, class_noun: str) -> PhotoSet:
    """Read the usable images of a folder and its subfolders, which show other things of the class.

    An image with the pixels of one of the subject's photos is refused; one that is almost the same
    gets a note.

    Raises:
        UserError: it is no folder, or holds no usable image.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder; give a folder with images of the class (--class-images, prior.folder)."
        )
    found = collect_photos([folder], recursive=True)
    known = {_pixels(photo): photo for photo in photos}
    own = {image.path: known[_pixels(image)] for image in found.photos if _pixels(image) in known}
    refused = [
        *found.refused,
        *(
            RefusedFile(path=path, reason=f"{printable(path)} is the subject's photo {printable(photo.path)}.")
            for path, photo in own.items()
        ),
    ]
    usable = [image for image in found.photos if image.path not in own]
    if not usable:
        reason = f" ({refused[0].reason.rstrip('.')})" if refused else ""
        raise UserError(
            f"{folder} holds no usable class image{reason}; put images of other things there whose class is "
            f"{class_noun!r}, or leave prior.folder out."
        )
    return PhotoSet(photos=tuple(usable), refused=tuple(refused), notes=tuple(_near_notes(usable, photos)))


def _pixels(photo: Photo) -> tuple[tuple[int, int], bytes]:
    return photo.size, photo.image.tobytes()


def _near_notes(images: Sequence[Photo], photos: Sequence[Photo]) -> list[str]:
    """Name the class images that look almost like one of the subject's photos."""
    if not images or not photos:
        return []
    theirs, ours = (perceptual_hashes([photo.image for photo in group]) for group in (images, photos))
    distances = np.bitwise_count(theirs[:, None] ^ ours)
    return [
        f"{printable(images[index].path)}: a class image that looks almost like the subject's photo "
        f"{printable(photos[int(distances[index].argmin())].path)}; remove it if it shows the subject."
        for index in np.flatnonzero(distances.min(axis=1) <= NEAR_DUPLICATE_BITS).tolist()
    ]
