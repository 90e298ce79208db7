"""Foreground fidelity: subject fidelity of images whose backgrounds are cut out.

The metric is `subject_fidelity.similarity` on cut-out images and photos, so the background cannot
move the score. A mask marks the subject: the photo's own mask, or one by a segmenter. Without a
mask the score is None, and its note gives the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol

from PIL import Image
from torch import Tensor

from mascot.evaluation.metrics.image_preprocessing import Preprocessing, opaque
from mascot.evaluation.metrics.subject_fidelity import similarity

MODEL = "u2net"
"""The segmentation network (Qin et al. 2020).

Its weights may be used for any purpose (Apache 2.0), unlike those of rembg's default.
"""

_THRESHOLD = [0] * 128 + [255] * 128  # from half on a pixel is subject, as everywhere in mascot


class Segmenter(Protocol):
    """Finds the subject of an image."""

    @property
    def name(self) -> str:
        """Name of the segmenter in one line."""
        ...

    def mask(self, image: Image.Image) -> Image.Image:
        """Mark the subject: an `L` image of the same size, 255 where the subject is."""
        ...


@dataclass(frozen=True, slots=True)
class NoSegmenter:
    """Stands for a missing segmenter."""

    reason: str
    """Why there is none, and how to install one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rembg:
    """The segmenter of the rembg package (U2-Net, Qin et al. 2020, arXiv 2005.09007)."""

    session: object
    """What rembg's `new_session` returns."""
    remove: Callable[..., Image.Image]
    """The function `remove` of rembg."""

    @property
    def name(self) -> str:
        """Name of the segmenter in one line."""
        return f"rembg ({MODEL})"

    def mask(self, image: Image.Image) -> Image.Image:
        """Mark the subject: an `L` image of the same size, 255 where the subject is."""
        return self.remove(opaque(image), session=self.session, only_mask=True).convert("L")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutouts:
    """Images without their backgrounds, and a note on those that are missing."""

    images: tuple[Image.Image, ...]
    note: str = ""
    """Which images were left out and why, and which masks are a segmenter's; it may be empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CutoutScore:
    """Similarity of cut-out images, in -1..1; None where it cannot be computed."""

    value: float | None
    note: str = ""
    """Why there is no value, or what the value leaves out."""


def cut_out(image: Image.Image, mask: Image.Image, preprocessing: Preprocessing) -> Image.Image | None:
    """Cut out the subject onto a fitting square of the encoder's mean color.

    Normalization turns the mean color into 0 (to half a step of 8 bits), so a background patch adds
    nothing to the encoder's input. White or black would be a strong signal that all images share,
    and would raise every similarity. The square makes the score independent of the subject's
    position and size. It is larger than the subject by as much as the encoder's center crop
    removes. Pixels count as subject from half on, because a soft edge would let the background
    through. None where the mask marks nothing.

    Raises:
        ValueError: image and mask differ in size.
    """
    if image.size != mask.size:
        raise ValueError(f"a mask of {mask.width}x{mask.height} is not of an image of {image.width}x{image.height}")
    hard_mask = mask.convert("L").point(_THRESHOLD)
    box = hard_mask.getbbox()
    if box is None:
        return None
    left, top, right, bottom = box
    side = math.ceil(max(right - left, bottom - top) * preprocessing.resize / preprocessing.crop)
    color = tuple(min(255, max(0, round(255 * value))) for value in preprocessing.mean)
    square = Image.new("RGB", (side, side), color)
    corner = (side - (right - left)) // 2, (side - (bottom - top)) // 2
    square.paste(opaque(image).crop(box), corner, hard_mask.crop(box))
    return square


def cut_all(
    images: Sequence[Image.Image],
    masks: Sequence[Image.Image | None],
    *,
    segmenter: Segmenter | NoSegmenter,
    preprocessing: Preprocessing,
) -> Cutouts:
    """Cut out the subject of each image by its own mask, or by the segmenter where it has none.

    Images with neither are left out, and the note says so.

    Raises:
        ValueError: the numbers of images and masks differ, or a mask does not have its image's
            size.
    """
    found = [own or _segment(image, segmenter) for image, own in zip(images, masks, strict=True)]
    cut = [mask and cut_out(image, mask, preprocessing) for image, mask in zip(images, found, strict=True)]
    unmasked, segmented = found.count(None), masks.count(None) - found.count(None)
    empty = cut.count(None) - unmasked
    notes: list[str] = []
    if isinstance(segmenter, NoSegmenter) and unmasked:
        notes.append(f"{unmasked} of {len(images)} have no mask ({segmenter.reason})")
    if empty:
        notes.append(f"{empty} of {len(images)} left out, as nothing is marked in their masks")
    if not isinstance(segmenter, NoSegmenter) and segmented:
        notes.append(f"{segmented} of {len(images)} masks by {segmenter.name}")
    return Cutouts(images=tuple(image for image in cut if image is not None), note="; ".join(notes))


def cutout_similarity(
    generated: Cutouts, photos: Cutouts, embed: Callable[[Sequence[Image.Image]], Tensor]
) -> CutoutScore:
    """Compute the mean cosine over all pairs of a cut-out image and a cut-out photo.

    `embed` returns one row for each image, as an encoder does. High values are better. Where a side
    has no image there is no value, and the note says which side, and why.
    """
    sides = {"images": generated, "photos": photos}
    notes = [f"{name}: {side.note or 'there are none'}" for name, side in sides.items() if side.note or not side.images]
    complete = all(side.images for side in sides.values())
    value = similarity(embed(generated.images), embed(photos.images)) if complete else None
    return CutoutScore(value=value, note="; ".join(notes))


def open_segmenter() -> Segmenter | NoSegmenter:
    """Load rembg if it is installed and works, else give the reason why there is no segmenter.

    rembg downloads its weights on first use.
    """
    if find_spec("rembg") is None:
        return NoSegmenter("no segmenter is installed; `pip install rembg[cpu]` gives one")
    try:
        package = import_module("rembg")
        return Rembg(session=package.new_session(MODEL), remove=package.remove)
    except SystemExit:  # rembg exits where onnxruntime is not installed
        return NoSegmenter("rembg is installed without onnxruntime; `pip install rembg[cpu]` adds it")
    # A dependency is missing, or there is no network for the weights.
    except (ImportError, RuntimeError, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        return NoSegmenter(f"rembg cannot be loaded ({reason})")


def _segment(image: Image.Image, segmenter: Segmenter | NoSegmenter) -> Image.Image | None:
    return None if isinstance(segmenter, NoSegmenter) else segmenter.mask(image)
