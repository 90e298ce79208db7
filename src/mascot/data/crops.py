"""Cut photos to exactly the training size, with the subject inside.

Sizes are (height, width) and corners (top, left), in pixels, as in `Framing`. Boxes are in Pillow's
order: (left, top, right, bottom).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from mascot.data.photos import Photo
from mascot.errors import UserError

if TYPE_CHECKING:
    from mascot.protocols import Framing

Size = tuple[int, int]
"""Height and width, in pixels."""
Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """A training image: RGB, its `L` mask of the same size or None, and how it was cut."""

    image: Image.Image
    mask: Image.Image | None
    framing: Framing


def buckets(resolution: int, multiple: int, *, max_ratio: float = 2.0) -> tuple[Size, ...]:
    """List the aspect buckets: sizes with about as many pixels as the square of `resolution`.

    All sides divide by `multiple`. The square comes first, then pairs (wide and tall) with growing
    aspect ratio. Ratios stay between 1 / `max_ratio` and `max_ratio`.

    Raises:
        UserError: there is no such square, because the resolution is smaller than `multiple`.
    """
    if multiple < 1 or resolution < multiple or max_ratio < 1:
        raise UserError(
            f"Resolution {resolution} with sides in steps of {multiple} gives no image; raise the resolution."
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
    """Return the first bucket whose aspect ratio is nearest to that of `size`.

    Ratios are compared as logarithms, so portraits and landscapes are treated alike.
    """
    log_ratio = math.log(size[1] / size[0])
    return min(among, key=lambda bucket: abs(math.log(bucket[1] / bucket[0]) - log_ratio))


def crop_box(size: Size, target: Size, subject: Box | None = None) -> Box:
    """Return the largest box of the target's aspect ratio that fits an image and holds the subject.

    The box is centered, and moved only as far as the subject needs. A subject larger than the box
    is centered in it, as far as the image reaches.
    """
    height, width = size
    box_width = min(float(width), height * target[1] / target[0])
    box_height = min(float(height), width * target[0] / target[1])
    left, top, right, bottom = subject or (0, 0, width, height)
    x = _start(box_width, width, left, right)
    y = _start(box_height, height, top, bottom)
    return x, y, min(x + box_width, width), min(y + box_height, height)


def subject_box(mask: Image.Image) -> tuple[int, int, int, int] | None:
    """Return the smallest box around a mask's subject pixels (128 and above); None without any."""
    return mask.point([0] * 128 + [255] * 128).getbbox()


def crop(photo: Photo, size: Size, *, flip: bool = False) -> Crop:
    """Cut and scale a photo to exactly `size`, mirrored if `flip`.

    Proportions never change, and small photos are enlarged. The framing follows SDXL's training
    (Podell et al. 2023, section 2.2). It holds the photo's size, and the crop's corner in the
    scaled photo, or in its mirror image if `flip`.
    """
    from mascot.protocols import Framing  # protocols import torch, which the photo audit does not need

    box = crop_box(photo.size, size, photo.mask and subject_box(photo.mask))
    image = _cut(photo.image, size, box)
    mask = photo.mask and _cut(photo.mask, size, box)
    left = photo.size[1] - box[2] if flip else box[0]
    corner = round(box[1] * size[0] / (box[3] - box[1])), round(left * size[1] / (box[2] - box[0]))
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        mask = mask and mask.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return Crop(image=image, mask=mask, framing=Framing(original=photo.size, corner=corner, target=size))


def _start(length: float, whole: int, first: float, last: float) -> float:
    """Return where an interval of `length` starts within 0..whole so that it holds first..last.

    The interval is as near the middle as that allows. If first..last is longer, it is centered on
    it.
    """
    middle = (whole - length) / 2
    wanted = min(max(middle, last - length), first) if last - first <= length else (first + last - length) / 2
    return min(max(wanted, 0.0), whole - length)


def _cut(image: Image.Image, size: Size, box: Box) -> Image.Image:
    """Resample the box of an image to `size`."""
    # With `reducing_gap` Pillow first shrinks large photos by whole pixels: several times faster,
    # without a visible difference.
    return image.resize((size[1], size[0]), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
