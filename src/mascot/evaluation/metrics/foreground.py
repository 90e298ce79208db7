"""Is it the subject, whatever stands behind it? Pictures cut out of their backgrounds, to be compared by `subject.similarity`.

A mask says what is subject: the photo's own, or one that a segmenter makes. Where there is none, nothing is guessed: the score is None,
and its note says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

from PIL import Image
from torch import Tensor

from mascot.evaluation.metrics.image_preprocessing import Preprocessing, opaque
from mascot.evaluation.metrics.subject_fidelity import similarity

MODEL = "u2net"
"""The segmenting network: its weights may be used for anything (Apache 2.0), which those of rembg's own choice may not."""


_INSIDE = [0] * 128 + [255] * 128  # more subject than not, as everywhere in mascot


class Segmenter(Protocol):
    """Finds what a picture is of."""

    @property
    def name(self) -> str:
        """Say in one line what segments."""
        ...

    def mask(self, image: Image.Image) -> Image.Image:
        """Mark the subject: an `L` picture of the same size, 255 where it is."""
        ...


@dataclass(frozen=True, slots=True)
class NoSegmenter:
    """There is no segmenter."""

    reason: str
    """Why, and what would give one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rembg:
    """The segmenter of the rembg package (Qin et al. 2020, U2-Net)."""

    session: Any
    remove: Callable[..., Image.Image]

    @property
    def name(self) -> str:
        """Say in one line what segments."""
        return f"rembg ({MODEL})"

    def mask(self, image: Image.Image) -> Image.Image:
        """Mark the subject: an `L` picture of the same size, 255 where it is."""
        return self.remove(opaque(image), session=self.session, only_mask=True).convert("L")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutouts:
    """Pictures without their backgrounds, and what is to be said of those that are missing."""

    images: tuple[Image.Image, ...]
    note: str = ""
    """Which were left out and why, and which masks are a segmenter's; empty where there is nothing to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CutoutScore:
    """The similarity of cut-out pictures, in -1..1; None where it cannot be computed."""

    value: float | None
    note: str = ""
    """Why there is no value, or what the value leaves out."""


def cut_out(image: Image.Image, mask: Image.Image, preprocessing: Preprocessing) -> Image.Image | None:
    """Cut the subject out, onto a square of the encoder's mean colour that just fits it; None where the mask marks nothing.

    The mean colour is what normalization turns into 0 (to half a step of 8 bits), so a patch of background adds nothing to the
    encoder's input. White or black would be a loud signal that all pictures share, and every similarity would rise by it. The square
    makes the score independent of where the subject stands and how large it is drawn: that is the picture's, not the subject's.
    It is as much larger as the encoder's centre crop takes away. Pixels count as subject from half on: a soft edge would let the
    background through.

    Raises:
        ValueError: picture and mask differ in size.
    """
    if image.size != mask.size:
        raise ValueError(f"a mask of {mask.width}x{mask.height} is not of a picture of {image.width}x{image.height}")
    hard = mask.convert("L").point(_INSIDE)
    box = hard.getbbox()
    if box is None:
        return None
    left, top, right, bottom = box
    side = math.ceil(max(right - left, bottom - top) * preprocessing.resize / preprocessing.crop)
    colour = tuple(min(255, max(0, round(255 * value))) for value in preprocessing.mean)
    square = Image.new("RGB", (side, side), colour)
    corner = (side - (right - left)) // 2, (side - (bottom - top)) // 2
    square.paste(opaque(image).crop(box), corner, hard.crop(box))
    return square


def cut_all(
    images: Sequence[Image.Image],
    masks: Sequence[Image.Image | None],
    *,
    segmenter: Segmenter | NoSegmenter,
    preprocessing: Preprocessing,
) -> Cutouts:
    """Cut out each picture by its own mask, or by the segmenter's where it has none (None); what has neither is left out, and noted.

    Raises:
        ValueError: the numbers of pictures and masks differ, or a mask is not of its picture's size.
    """
    found = [own or _segment(image, segmenter) for image, own in zip(images, masks, strict=True)]
    cut = [mask and cut_out(image, mask, preprocessing) for image, mask in zip(images, found, strict=True)]
    bare, foreign = found.count(None), masks.count(None) - found.count(None)
    empty = cut.count(None) - bare
    parts = [
        f"{bare} of {len(images)} have no mask ({segmenter.reason})"
        if isinstance(segmenter, NoSegmenter) and bare
        else "",
        f"{empty} of {len(images)} left out, as nothing is marked in their masks" if empty else "",
        f"{foreign} of {len(images)} masks by {segmenter.name}"
        if not isinstance(segmenter, NoSegmenter) and foreign
        else "",
    ]
    return Cutouts(images=tuple(image for image in cut if image is not None), note="; ".join(filter(None, parts)))


def cutout_similarity(
    generated: Cutouts, photos: Cutouts, embed: Callable[[Sequence[Image.Image]], Tensor]
) -> CutoutScore:
    """Average the cosine over all pairs of a cut-out picture and a cut-out photo; `embed` gives rows of one width, as an encoder does.

    High is good. Without a picture on either side there is no value, and the note says of whom, and why.
    """
    sides = {"pictures": generated, "photos": photos}
    notes = [f"{name}: {side.note or 'there are none'}" for name, side in sides.items() if side.note or not side.images]
    whole = all(side.images for side in sides.values())
    value = similarity(embed(generated.images), embed(photos.images)) if whole else None
    return CutoutScore(value=value, note="; ".join(notes))


def open_segmenter() -> Segmenter | NoSegmenter:
    """Load rembg where it is installed and works, else say why there is no segmenter.

    Its weights are fetched from the network the first time.
    """
    if find_spec("rembg") is None:
        return NoSegmenter("no segmenter is installed; `pip install rembg[cpu]` gives one")
    try:
        package = import_module("rembg")
        return Rembg(session=package.new_session(MODEL), remove=package.remove)
    except SystemExit:  # how it ends where its own engine is not installed
        return NoSegmenter("rembg is installed without onnxruntime; `pip install rembg[cpu]` adds it")
    except (
        ImportError,
        RuntimeError,
        OSError,
        ValueError,
    ) as error:  # a part is missing, or there is no network for the weights
        return NoSegmenter(
            f"rembg cannot be loaded ({(str(error).strip() or type(error).__name__).splitlines()[0][:120]})"
        )


def _segment(image: Image.Image, segmenter: Segmenter | NoSegmenter) -> Image.Image | None:
    return None if isinstance(segmenter, NoSegmenter) else segmenter.mask(image)
