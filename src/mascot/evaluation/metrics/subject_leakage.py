"""Leakage between subjects of one adapter, and whether images of them all show each of them.

One subject leaks into another where images of the other look like its photos. Both numbers are
normalized, so that they mean the same for any encoder.

Shape suffixes: B images, P photos, O photos of another subject, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from statistics import fmean

from PIL import Image
from torch import Tensor

from mascot.evaluation.metrics.subject_fidelity import real_similarity, similarity

LEAST_SCALE = 0.05
"""Least cosine between what has 0 and what has 1 that makes a usable scale."""

PRESENT = 0.5
"""Presence from which on a subject counts as shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """How far one subject's images look like the photos of another; all values are cosines."""

    similarity: float
    """Of the subject's images and the other's photos."""
    base_similarity: float | None
    """Of the base model's images of the prompts, with the class noun, and those photos."""
    photo_similarity: float
    """Of the subject's own photos and the other's."""
    real_similarity: float | None
    """Of the other's photos among themselves; None where there is one."""
    nearer: float
    """Share of the images, 0..1, that look like the other rather than like the subject.

    They are nearer to the other's photos, and at least halfway to them. An image like neither does
    not count.
    """
    values: tuple[float, ...]
    """The leakage of each prompt: 0 as unlike the other as expected, 1 as its photos."""
    reason: str = ""
    """Why there are no values."""


def measure_leak(images_BD: Tensor, base_BD: Tensor, own_PD: Tensor, other_OD: Tensor, *, each: int) -> Leak:
    """Measure how far images of one subject, `each` of a prompt, look like the photos of another.

    At 0 they are no nearer to those photos than the base model's images of the class are, or than
    the subject's own photos are, whichever is nearer. `base_BD` is empty without a class noun, and
    then the photos alone give the 0. At 1 they are as near as the other's photos to each other.
    """
    cosines = [similarity(row_D[None], other_OD) for row_D in images_BD]
    own = [similarity(row_D[None], own_PD) for row_D in images_BD]
    base = [similarity(row_D[None], other_OD) for row_D in base_BD]
    between, real = similarity(own_PD, other_OD), real_similarity(other_OD)
    zero = max(between, fmean(base)) if base else between
    halfway = (zero + (1.0 if real is None else real)) / 2
    reason = ""
    if real is None:
        reason = "one photo alone does not show how similar photos of that subject are"
    elif real - zero < LEAST_SCALE:
        reason = "the subjects, or their classes, look too much alike to tell them apart"
    values: list[float] = []
    if real is not None and not reason:
        for start in range(0, len(cosines), each):
            expected = max(between, fmean(base[start : start + each])) if base else between
            values.append((fmean(cosines[start : start + each]) - expected) / (real - zero))
    return Leak(
        similarity=fmean(cosines),
        base_similarity=fmean(base) if base else None,
        photo_similarity=between,
        real_similarity=real,
        nearer=fmean(float(cosine > max(mine, halfway)) for cosine, mine in zip(cosines, own, strict=True)),
        values=tuple(values),
        reason=reason,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PresenceScale:
    """What a strip of an image measures where it shows another subject (0), and its own (1)."""

    photos_PD: Tensor
    zero: float
    one: float

    def presence(self, strips_BD: Tensor) -> list[float]:
        """Measure how far each strip shows the subject."""
        return [(similarity(row_D[None], self.photos_PD) - self.zero) / (self.one - self.zero) for row_D in strips_BD]


def presence_scale(photos_PD: Tensor, strips_PD: Tensor, others: Sequence[Tensor]) -> PresenceScale | str:
    """Make a subject's scale from the middle strips of photos; a sentence where there is none.

    `strips_PD` are those of the subject's own photos, in order; `others` those of each other
    subject. A strip is not compared with the photo that it was cut from.
    """
    count = len(photos_PD)
    if count < 2:
        return "one photo alone does not show how similar photos of that subject are"
    zero = max(similarity(other_BD, photos_PD) for other_BD in others)
    own = fmean(similarity(strips_PD[[k]], photos_PD[[i for i in range(count) if i != k]]) for k in range(count))
    if own - zero < LEAST_SCALE:
        return "strips of the subjects' photos look too much alike to tell them apart"
    return PresenceScale(photos_PD=photos_PD, zero=zero, one=own)


def all_present(presences: Mapping[str, Sequence[float]]) -> float:
    """Return the presence of the subject that is shown least, over strips of one image.

    `presences` has for each subject one value for each strip. The subjects are given to the strips
    in the order that is best, each to a strip of its own. An image of one subject alone therefore
    has about 0, however good it is.
    """
    rows = list(presences.values())
    orders = permutations(range(len(rows)))
    return max(min(row[strip] for row, strip in zip(rows, order, strict=True)) for order in orders)


def cut_strips(image: Image.Image, count: int) -> list[Image.Image]:
    """Cut an image into upright strips from left to right, each squeezed to a square."""
    width, height = image.size
    return [
        image.crop((round(k * width / count), 0, round((k + 1) * width / count), height)).resize((height, height))
        for k in range(count)
    ]


def middle_strip(image: Image.Image, count: int) -> Image.Image:
    """Cut the middle strip of a photo, as wide as one of `count`, squeezed to a square."""
    width, height = image.size
    left = round(width * (count - 1) / (2 * count))
    return image.crop((left, 0, width - left, height)).resize((height, height))
