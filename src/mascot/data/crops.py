"""Photos become pictures of exactly the size the base wants, cut so that the subject stays.

All sizes and corners are (height, width) and (top, left), in pixels, like `Framing`; boxes are Pillow's (left, top, right, bottom).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from mascot.data.photos import Photo
from mascot.errors import UserError
from mascot.protocols import Framing

Size = tuple[int, int]
"""Height and width."""


Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """A picture ready to learn from: RGB, its `L` mask of the same size or None, and how it was cut."""

    image: Image.Image
    mask: Image.Image | None
    framing: Framing


def buckets(resolution: int, multiple: int, *, max_ratio: float = 2.0) -> tuple[Size, ...]:
    """Sizes of about `resolution` squared pixels whose sides divide by `multiple`: the square, then ever longer ones in pairs.

    Ratios of the sides stay within 1 / `max_ratio` and `max_ratio`. Raises UserError where no such square exists.
    """
    if multiple < 1 or resolution < multiple or max_ratio < 1:
        raise UserError(
            f"Resolution {resolution} with sides in steps of {multiple} gives no picture; raise the resolution."
        )
    side = round(resolution / multiple)
    sizes: list[Size] = [(side * multiple, side * multiple)]
    for short in range(side - 1, 0, -1):
        long = round((resolution / multiple) ** 2 / short)
        if long > max_ratio * short:
            break
        sizes += [(short * multiple, long * multiple), (long * multiple, short * multiple)]
    return tuple(sizes)


def nearest_bucket(size: Size, among: Sequence[Size]) -> Size:
    """The size whose aspect ratio is nearest in logarithm, so that portraits and landscapes are treated alike; first among equals."""
    wanted = math.log(size[1] / size[0])
    return min(among, key=lambda bucket: abs(math.log(bucket[1] / bucket[0]) - wanted))


def window(size: Size, target: Size, subject: Box | None = None) -> Box:
    """The largest part of a picture with the target's aspect ratio, moved off the centre just enough to hold the subject's box.

    A subject larger than the part is centred in it, as far as the picture reaches.
    """
    height, width = size
    wide = min(float(width), height * target[1] / target[0])
    high = min(float(height), width * target[0] / target[1])
    left, top, right, bottom = subject or (0, 0, width, height)
    x = _place(wide, width, left, right)
    y = _place(high, height, top, bottom)
    return x, y, min(x + wide, width), min(y + high, height)


def subject_box(mask: Image.Image) -> tuple[int, int, int, int] | None:
    """The smallest box around what is more subject than background (128 and above), or None where there is no such pixel."""
    return mask.point([0] * 128 + [255] * 128).getbbox()


def crop(photo: Photo, size: Size, *, flip: bool = False) -> Crop:
    """The photo cut and scaled to exactly `size`, mirrored where `flip`; proportions are never changed, small photos are enlarged.

    The framing speaks as SDXL was trained (Podell et al. 2023, section 2.2): the photo's size, and the corner in the scaled photo
    (mirrored, where it was).
    """
    from mascot.protocols import Framing  # protocols import torch, which the doctor can do without

    box = window(photo.size, size, photo.mask and subject_box(photo.mask))
    image = _cut(photo.image, size, box)
    mask = photo.mask and _cut(photo.mask, size, box)
    left = photo.size[1] - box[2] if flip else box[0]
    corner = round(box[1] * size[0] / (box[3] - box[1])), round(left * size[1] / (box[2] - box[0]))
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        mask = mask and mask.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return Crop(image=image, mask=mask, framing=Framing(original=photo.size, corner=corner, target=size))


def _place(length: float, whole: int, start: float, end: float) -> float:
    """Where a stretch of so much length begins: as near the middle of the whole as holds the subject from start to end."""
    middle = (whole - length) / 2
    wanted = min(max(middle, end - length), start) if end - start <= length else (start + end - length) / 2
    return min(max(wanted, 0.0), whole - length)


def _cut(image: Image.Image, size: Size, box: Box) -> Image.Image:
    # The gap lets Pillow shrink big photos by whole pixels first: several times faster, and no difference that an eye would see.
    return image.resize((size[1], size[0]), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
