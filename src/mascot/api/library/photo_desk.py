"""A folder of photos that is worked on before training: captions, crops, masks, audit.

Photos are kept upright, in sRGB and without the camera's data, under numbers: no name of a user's
file becomes a path. What a photo was before it was cropped stays beside it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from pydantic import BaseModel, ConfigDict

from mascot.data.image_decoding import LONGEST_SIDE, DecodedImage, UnusableImage, decode, parse_color
from mascot.data.photo_audit import MAXIMUM_PHOTOS, Audit, PhotoFacts, audit_photos
from mascot.data.photos import read_photos
from mascot.errors import UserError, shorten
from mascot.storage.atomic_write import atomic_write
from mascot.storage.image_files import open_image, save_png
from mascot.storage.json_record import JsonRecord
from mascot.storage.run_folder import Run
from mascot.storage.untrusted_files import read_text

LARGEST_FILE: Final = 2**26
"""Most bytes of a photo; those of phones have a tenth of it."""
CAPTION: Final = ".txt"
"""Ending of a photo's caption file."""
SMALLEST_CROP: Final = 0.1
"""A crop is at least this share of a side."""
BORDER: Final = 0.04
"""Share of the sides that counts as border."""
MOST_PARTS: Final = 100
"""Connected parts of a mask that are looked at."""
WORKING_SIDE: Final = 256
"""Masks from the border are computed at this size."""
CHANGING: Final = RLock()
"""Held while a list of photos is changed: a page sends several changes at once."""


class DeskPhoto(BaseModel):
    """One photo of a desk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    """It names the photo's files, and is never used again."""
    name: str
    """What the file was called; only ever shown."""
    caption: str = ""
    cropped: bool = False
    masked: bool = False


class PhotoList(JsonRecord):
    """The photos of a desk in order, as `photos.json` stores them."""

    damaged = "{path} is damaged; add the photos again."

    entries: tuple[DeskPhoto, ...] = ()
    next: int = 1


@dataclass(frozen=True, slots=True)
class PhotoDesk:
    """The folder of one person's photos."""

    folder: Path

    @property
    def record(self) -> Path:
        """The list of the photos."""
        return self.folder / "photos.json"

    def photo(self, number: int) -> Path:
        """Return the file of a photo as it is trained on."""
        return self.folder / "photos" / f"{number:03d}.png"

    def original(self, number: int) -> Path:
        """Return the file of a photo before it was cropped."""
        return self.folder / "originals" / f"{number:03d}.png"

    def mask(self, number: int) -> Path:
        """Return the file of a photo's mask."""
        return self.folder / "photos" / f"{number:03d}.mask.png"

    def read(self) -> PhotoList:
        """Read the list; it is empty where there is none that can be read."""
        try:
            return PhotoList.read(self.record) if self.record.exists() else PhotoList()
        except UserError:
            return PhotoList()

    def entry(self, number: int) -> DeskPhoto:
        """Return a photo by its number.

        Raises:
            UserError: it was taken out.
        """
        found = [one for one in self.read().entries if one.number == number]
        if not found:
            raise UserError("This photo is not there any more; choose another one.")
        return found[0]

    def add(self, path: Path, name: str) -> DeskPhoto:
        """Add a photo; its contents decide what it is, not its name.

        Raises:
            UserError: there are enough photos, or the file is too large or no image.
        """
        decoded = read_upload(path, name)
        with CHANGING:
            listed = self.read()
            if len(listed.entries) >= MAXIMUM_PHOTOS:
                raise UserError(
                    f"{shorten(name, 60)}: there are {MAXIMUM_PHOTOS} photos already, and more help little; "
                    "take one out."
                )
            entry = DeskPhoto(number=listed.next, name=shorten(name, 120))
            for place in (self.photo(entry.number), self.original(entry.number)):
                write_plain(decoded.image, place)
            if decoded.alpha is not None and decoded.alpha.getextrema() != (255, 255):
                write_plain(decoded.alpha, self.mask(entry.number))
                entry = entry.model_copy(update={"masked": True})
            self.write([*listed.entries, entry], listed.next + 1)
        return entry

    def write(self, entries: Sequence[DeskPhoto], following: int | None = None) -> None:
        """Write the list, and each photo's caption and mask beside it."""
        PhotoList(entries=tuple(entries), next=following or self.read().next).write(self.record)
        for entry in entries:
            write_caption(entry.caption, self.photo(entry.number).with_suffix(".txt"))
        complete_masks(self, entries)

    def change(self, number: int, **changes: object) -> DeskPhoto:
        """Change what is said of a photo.

        Raises:
            UserError: it was taken out.
        """
        with CHANGING:
            changed = self.entry(number).model_copy(update=changes)
            self.write([changed if one.number == number else one for one in self.read().entries])
        return changed

    def caption(self, number: int, text: str) -> DeskPhoto:
        """Set a photo's caption; an empty one leaves it to the recipe's templates.

        Raises:
            UserError: the photo was taken out.
        """
        return self.change(number, caption=" ".join(text.split())[:1000])

    def take_out(self, number: int) -> None:
        """Take a photo out, with its mask and caption.

        Raises:
            UserError: it was taken out already.
        """
        self.entry(number)
        for place in (self.photo(number), self.original(number), self.mask(number)):
            place.unlink(missing_ok=True)
        self.photo(number).with_suffix(".txt").unlink(missing_ok=True)
        with CHANGING:
            self.write([one for one in self.read().entries if one.number != number])

    def crop(self, number: int, box: tuple[float, float, float, float] | None) -> DeskPhoto:
        """Crop a photo to a box: left, top, right and bottom as shares of the original's sides.

        None takes the whole photo again. A mask is dropped, as it was painted on another image.

        Raises:
            UserError: the photo was taken out, or the box is too small.
        """
        image = open_image(self.original(number)) if self.entry(number) else None
        assert image is not None
        if box is not None:
            image = image.crop(pixel_box(box, image.size))
        write_plain(image, self.photo(number))
        self.mask(number).unlink(missing_ok=True)
        return self.change(number, cropped=box is not None, masked=False)

    def set_mask(self, number: int, mask: Image.Image | None) -> DeskPhoto:
        """Set a photo's mask, white on the subject, of any size; None removes it.

        Raises:
            UserError: the photo was taken out, or the mask marks nothing.
        """
        self.entry(number)
        if mask is None:
            self.mask(number).unlink(missing_ok=True)
            return self.change(number, masked=False)
        size = open_image(self.photo(number)).size
        write_plain(checked_mask(mask.convert("L").resize(size, Image.Resampling.BILINEAR)), self.mask(number))
        return self.change(number, masked=True)

    def propose_mask(self, number: int) -> Image.Image:
        """Mark what does not have the colors of a photo's border; nothing is kept.

        Raises:
            UserError: the photo was taken out, or all of it looks like its border.
        """
        self.entry(number)
        return checked_mask(subject_by_border(open_image(self.photo(number))))

    def audit(self, resolution: int) -> Audit | None:
        """Audit the photos as they are; None where there is none."""
        if not self.read().entries:
            return None
        return audit_photos(read_photos([self.folder / "photos"]), resolution)

    def copy_photos(self, to: Path) -> None:
        """Copy photos, masks and captions, for a training that goes on whatever happens here."""
        shutil.copytree(self.folder / "photos", to)


def complete_masks(desk: PhotoDesk, entries: Sequence[DeskPhoto]) -> None:
    """Give photos without a mask a white one where others have masks: all of them counts.

    Training takes masks of all photos, or of none.
    """
    some = any(entry.masked for entry in entries)
    for entry in entries:
        path = desk.mask(entry.number)
        if not entry.masked and some:
            write_plain(Image.new("L", open_image(desk.photo(entry.number)).size, 255), path)
        elif not entry.masked:
            path.unlink(missing_ok=True)


def checked_mask(mask: Image.Image) -> Image.Image:
    """Return a mask that marks something.

    Raises:
        UserError: it marks nothing.
    """
    if int(np.asarray(mask).max()) < 128:
        raise UserError("The mask marks nothing; paint over the subject.")
    return mask


def with_own_names(desk: PhotoDesk, sentence: str) -> str:
    """Write the names that a person's files had in place of those that photos have on the desk."""
    for entry in desk.read().entries:
        sentence = sentence.replace(desk.photo(entry.number).name, entry.name)
    return sentence


def add_files(desk: PhotoDesk, files: Sequence[Path]) -> list[str]:
    """Add uploaded files to a desk, and delete them; returns what was refused.

    A text of a photo's name is its caption; hidden files of a folder are left out.
    """
    captions = {path.stem: path for path in files if path.suffix == CAPTION}
    faults: list[str] = []
    for path in (one for one in files if one.suffix != CAPTION and not one.name.startswith(".")):
        try:
            photo = desk.add(path, path.name)
            if path.stem in captions:
                desk.caption(photo.number, read_text(captions[path.stem]))
        except UserError as error:
            faults.append(str(error))
    for path in files:
        path.unlink(missing_ok=True)
    return faults


def write_caption(caption: str, path: Path) -> None:
    """Write a caption, or remove the file of an empty one."""
    if caption:
        Run(path.parent).write_text(path, caption)
    else:
        path.unlink(missing_ok=True)


def facts_by_number(audit: Audit | None) -> dict[int, PhotoFacts]:
    """Return the measurements of each photo by its number on the desk."""
    return {int(facts.path.stem): facts for facts in audit.facts} if audit else {}


def read_upload(path: Path, name: str) -> DecodedImage:
    """Decode an uploaded file under the limits of photos.

    Raises:
        UserError: it is too large, no image, or unusable; the sentence has the owner's name of it.
    """
    if path.stat().st_size > LARGEST_FILE:
        raise UserError(f"{shorten(name, 60)} is larger than {LARGEST_FILE // 2**20} MiB; save a smaller copy.")
    try:
        return decode(path, parse_color("white"), [], longest_side=LONGEST_SIDE)
    except UnusableImage as error:
        said = str(error).removeprefix(path.name).strip()
        raise UserError(f"{shorten(name, 60)} {said}") from error


def write_plain(image: Image.Image, path: Path) -> None:
    """Write a PNG without texts, whole or not at all."""
    with atomic_write(path) as temporary:
        save_png(image, temporary, {})


def pixel_box(box: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Turn shares of the sides into pixels: left, top, right, bottom.

    Raises:
        UserError: the box is too small.
    """
    left, top, right, bottom = (min(1.0, max(0.0, share)) for share in box)
    if right - left < SMALLEST_CROP or bottom - top < SMALLEST_CROP:
        raise UserError(f"The crop is too small; leave at least {SMALLEST_CROP:.0%} of each side.")
    return round(left * size[0]), round(top * size[1]), round(right * size[0]), round(bottom * size[1])


def subject_by_border(image: Image.Image) -> Image.Image:
    """Mark what differs from the colors of the border, and what those colors enclose.

    Up to eight colors of the border are taken. A pixel is background if it is near one of them and
    joins the border through such pixels. Returns an `L` image of the working size.
    """
    small = image.convert("RGB").resize((WORKING_SIDE, WORKING_SIDE), Image.Resampling.BILINEAR)
    pixels_HWC = np.asarray(small.filter(ImageFilter.GaussianBlur(1)), dtype=np.float32)
    edge = max(1, round(BORDER * WORKING_SIDE))
    ring_HW = np.ones((WORKING_SIDE, WORKING_SIDE), dtype=bool)
    ring_HW[edge:-edge, edge:-edge] = False
    colors_NC = border_colors(pixels_HWC[ring_HW])
    distance_HW = np.sqrt(((pixels_HWC[:, :, None] - colors_NC) ** 2).sum(-1)).min(-1)
    threshold = max(24.0, float(np.quantile(distance_HW[ring_HW], 0.98)) * 1.3)
    near = Image.fromarray(np.where(distance_HW <= threshold, 255, 0).astype(np.uint8))
    framed = Image.new("L", (WORKING_SIDE + 2, WORKING_SIDE + 2), 255)
    framed.paste(near, (1, 1))
    ImageDraw.floodfill(framed, (0, 0), 128)
    inner = framed.crop((1, 1, WORKING_SIDE + 1, WORKING_SIDE + 1))
    subject = inner.point([255] * 128 + [0] + [255] * 127).filter(ImageFilter.MedianFilter(7))
    return largest_part(subject)


def largest_part(mask: Image.Image) -> Image.Image:
    """Keep the largest connected part of a mask, and others of at least a tenth of its size."""
    rest, parts = mask.copy(), list[tuple[int, np.ndarray]]()
    for _ in range(MOST_PARTS):
        found = np.argwhere(np.asarray(rest) == 255)
        if not len(found):
            break
        ImageDraw.floodfill(rest, (int(found[0][1]), int(found[0][0])), 128)
        part_HW = np.asarray(rest) == 128
        parts.append((int(part_HW.sum()), part_HW))
        rest = rest.point([*range(128), 0, *range(129, 256)])
    largest = max((size for size, _ in parts), default=0)
    kept = [part_HW for size, part_HW in parts if size >= largest / 10]
    return Image.fromarray(np.where(np.logical_or.reduce(kept), 255, 0).astype(np.uint8)) if kept else mask


def border_colors(ring_NC: np.ndarray) -> np.ndarray:
    """Return up to eight colors that stand for those of the border."""
    strip = Image.fromarray(ring_NC.astype(np.uint8)[None])
    palette = strip.quantize(8, method=Image.Quantize.MEDIANCUT)
    counts = dict(enumerate(palette.histogram()[:8]))
    values = np.asarray((palette.getpalette() or [])[:24], dtype=np.float32).reshape(-1, 3)
    kept = [number for number, count in counts.items() if number < len(values) and count > 0.02 * len(ring_NC)]
    return values[kept] if kept else values[:1]
