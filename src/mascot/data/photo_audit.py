"""What a set of photos is like before any training: facts that can be measured, and findings with their remedies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mascot.data.crops import nearest_bucket, subject_box, window
from mascot.data.photos import Photo, PhotoSet
from mascot.errors import printable

FEWEST = 3
"""Photos below which a subject is not learnt, but one picture of it (Ruiz et al. 2023 use 3 to 5)."""


MOST = 20
"""Photos above which more of them help little."""


BLURRED = 40.0
"""Sharpness below this is called blurred.

The 94 photos of the DreamBooth data set measure 147 to 6,500; blurred by a Gaussian of 2 pixels at 256 pixels a side, which the eye
sees at once, they measure 2 to 17. The threshold lies well between. Plain drawings without outlines may fall below it too.
"""


NEAR = 6
"""Bits of 64 in which the perceptual hashes of near-duplicates differ at most."""


ALIKE = 0.8
"""Backgrounds more similar than this teach the background with the subject.

In the DreamBooth data set the photos of one subject measure 0.2 to 0.6 where places vary and 0.8 to 1 where they do not.
"""


OFF_CENTRE = 0.25
"""How far, in parts of the picture's sides, a subject's middle may lie from the picture's."""


CUT = 0.05
"""Share of the subject's box that may be lost to the crop."""


CROPPED = 0.4
"""Share of a photo that may be lost to the crop."""


Kind = Literal[
    "too-few",
    "too-many",
    "duplicate",
    "near-duplicate",
    "blurred",
    "upscaled",
    "same-background",
    "off-centre",
    "cut",
    "cropped",
    "refused",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoFacts:
    """One photo, measured: (height, width) in pixels, and shares of 0..1."""

    path: Path
    size: tuple[int, int]
    sharpness: float
    """Variance of the Laplacian, see `sharpness`."""
    upscaled: bool
    """Whether the short side is below the resolution."""
    cropped: float
    """Share of the picture that the crop loses."""
    cut: float | None
    """Share of the subject's box that the crop loses; None without a mask."""
    off_centre: float | None
    """Distance of the middle of the subject's box from the picture's, in parts of the sides; None without a mask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoPair:
    """Two photos that show the same: the same bytes (`exact`), or perceptual hashes a few bits apart."""

    first: Path
    second: Path
    exact: bool
    distance: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoFinding:
    """Something worth knowing: what it is, how bad, a sentence about it, and a sentence on what to do."""

    kind: Kind
    severity: Literal["note", "warning"]
    message: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """All that was measured: photo by photo, pair by pair, how alike the backgrounds are (0..1, None where unknown), what to do."""

    facts: tuple[PhotoFacts, ...]
    pairs: tuple[PhotoPair, ...]
    background_sameness: float | None
    findings: tuple[PhotoFinding, ...]


def audit_photos(photos: PhotoSet, resolution: int, *, buckets: Sequence[tuple[int, int]] = ()) -> Audit:
    """Measure the photos as training at this resolution (pixels a side) would see them; without buckets they are cut square."""
    shapes = tuple(buckets) or ((resolution, resolution),)
    facts = tuple(_facts(photo, resolution, shapes) for photo in photos.photos)
    pairs = duplicates(photos.photos)
    sameness = background_sameness(photos.photos)
    found = [*_about_set(photos, sameness), *_about_pairs(pairs), *_about_facts(facts, resolution)]
    return Audit(facts=facts, pairs=pairs, background_sameness=sameness, findings=tuple(found))


def sharpness(image: Image.Image) -> float:
    """Variance of the Laplacian of the luma (0..255) at 256 pixels on the long side (Pech-Pacheco et al. 2000).

    The fixed size makes it comparable between cameras, and blind to blur that training would not see. Nothing is enlarged.
    """
    luma = image.convert("L")
    luma.thumbnail((256, 256), Image.Resampling.LANCZOS, reducing_gap=3.0)
    grey = np.asarray(luma, dtype=np.float64)
    if min(grey.shape) < 3:
        return 0.0
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((around - 4 * grey[1:-1, 1:-1]).var())


def duplicates(photos: Sequence[Photo]) -> tuple[PhotoPair, ...]:
    """Pairs of photos with the same bytes, or with perceptual hashes (pHash, 64 bits) at most 6 bits apart."""
    from imagehash import phash  # it imports scipy, and only this function needs it

    bytes_of = [sha256(photo.path.read_bytes()).digest() for photo in photos]
    hashes = [np.asarray(phash(photo.image).hash).ravel() for photo in photos]
    pairs: list[PhotoPair] = []
    for first, second in combinations(range(len(photos)), 2):
        exact = bytes_of[first] == bytes_of[second]
        distance = int((hashes[first] != hashes[second]).sum())
        if exact or distance <= NEAR:
            pairs.append(
                PhotoPair(first=photos[first].path, second=photos[second].path, exact=exact, distance=distance)
            )
    return tuple(pairs)


def background_sameness(photos: Sequence[Photo]) -> float | None:
    """How alike the backgrounds are, 0..1: the mean over pairs of the intersection of their colour histograms (Swain & Ballard 1991).

    The background is what lies outside the mask, without one the outer ring, a sixth of the sides wide. None below two backgrounds.
    """
    histograms = [histogram for photo in photos if (histogram := _background(photo)) is not None]
    shared = [float(np.minimum(first, second).sum()) for first, second in combinations(histograms, 2)]
    return sum(shared) / len(shared) if shared else None


def _background(photo: Photo) -> NDArray[np.float64] | None:
    """Histogram of the background's colours, 4 bins a channel, summing to 1: coarse enough to forgive the light."""
    side, ring = 64, 64 // 6
    pixels = np.asarray(photo.image.resize((side, side), Image.Resampling.BOX))
    outside = np.ones((side, side), dtype=bool)
    outside[ring:-ring, ring:-ring] = False
    if photo.mask is not None:
        outside = np.asarray(photo.mask.resize((side, side), Image.Resampling.BOX)) < 16
    if not outside.any():
        return None
    bins = pixels[outside].astype(np.int64) // 64 @ np.array([16, 4, 1])
    return np.bincount(bins, minlength=64) / bins.size


def _facts(photo: Photo, resolution: int, shapes: Sequence[tuple[int, int]]) -> PhotoFacts:
    height, width = photo.size
    box = subject_box(photo.mask) if photo.mask is not None else None
    left, top, right, bottom = window(photo.size, nearest_bucket(photo.size, shapes), box)
    cut = off_centre = None
    if box is not None:
        kept = max(0.0, min(right, box[2]) - max(left, box[0])) * max(0.0, min(bottom, box[3]) - max(top, box[1]))
        cut = 1 - kept / ((box[2] - box[0]) * (box[3] - box[1]))
        off_centre = math.hypot((box[0] + box[2]) / 2 / width - 0.5, (box[1] + box[3]) / 2 / height - 0.5)
    return PhotoFacts(
        path=photo.path,
        size=photo.size,
        sharpness=sharpness(photo.image),
        upscaled=min(photo.size) < resolution,
        cropped=1 - (right - left) * (bottom - top) / (width * height),
        cut=cut,
        off_centre=off_centre,
    )


def _about_set(photos: PhotoSet, sameness: float | None) -> list[PhotoFinding]:
    """Findings about how many photos there are, what was refused, and the backgrounds."""
    found: list[PhotoFinding] = []
    count = len(photos.photos)
    if count < FEWEST:
        message = f"There {'is 1 usable photo' if count == 1 else f'are {count} usable photos'}; one subject needs at least {FEWEST}."
        found.append(
            PhotoFinding(
                kind="too-few", severity="warning", message=message, remedy=f"Add photos: 5 to {MOST} work best."
            )
        )
    if count > MOST:
        message = f"There are {count} photos; more than {MOST} help little."
        found.append(
            PhotoFinding(
                kind="too-many", severity="note", message=message, remedy=f"Keep the {MOST} sharpest and most varied."
            )
        )
    if photos.refused:
        message = f"Refused: {_listed([printable(refusal.path) for refusal in photos.refused])}. The first one: {photos.refused[0].reason}"
        found.append(
            PhotoFinding(
                kind="refused", severity="warning", message=message, remedy="Mend, replace or remove these files."
            )
        )
    if sameness is not None and sameness > ALIKE:
        message = f"The backgrounds are all alike (similarity {sameness:.2f} of 1)."
        remedy = "Add photos in other places, or masks; else the background is learnt with the subject."
        found.append(PhotoFinding(kind="same-background", severity="warning", message=message, remedy=remedy))
    return found


def _about_pairs(pairs: Sequence[PhotoPair]) -> list[PhotoFinding]:
    exact = [f"{printable(pair.first)} and {printable(pair.second)}" for pair in pairs if pair.exact]
    near = [f"{printable(pair.first)} and {printable(pair.second)}" for pair in pairs if not pair.exact]
    found: list[PhotoFinding] = []
    if exact:
        message = f"The same file twice: {_listed(exact)}."
        found.append(
            PhotoFinding(
                kind="duplicate",
                severity="warning",
                message=message,
                remedy="Remove one of each pair: it counts double.",
            )
        )
    if near:
        message = f"Almost the same picture: {_listed(near)}."
        remedy = "Keep the better one of each pair, and add a photo from another side."
        found.append(PhotoFinding(kind="near-duplicate", severity="note", message=message, remedy=remedy))
    return found


def _about_facts(facts: Sequence[PhotoFacts], resolution: int) -> list[PhotoFinding]:
    """Findings about single photos, each naming all the photos that it is about."""
    blurred = [fact.path for fact in facts if fact.sharpness < BLURRED]
    upscaled = [fact.path for fact in facts if fact.upscaled]
    off_centre = [fact.path for fact in facts if fact.off_centre is not None and fact.off_centre > OFF_CENTRE]
    cut = [fact.path for fact in facts if fact.cut is not None and fact.cut > CUT]
    cropped = [fact.path for fact in facts if fact.cropped > CROPPED]
    table: list[tuple[Kind, Literal["note", "warning"], list[Path], str, str]] = [
        ("blurred", "warning", blurred, "Blurred", "Replace them with sharp photos; blur is learnt too."),
        (
            "upscaled",
            "warning",
            upscaled,
            f"Smaller than {resolution} pixels, so enlarged",
            "Use larger originals, or a lower resolution.",
        ),
        (
            "cut",
            "warning",
            cut,
            "The subject does not fit the crop",
            "Crop them yourself, or use photos nearer to square.",
        ),
        ("off-centre", "note", off_centre, "The subject is far from the middle", "Crop them closer to the subject."),
        (
            "cropped",
            "note",
            cropped,
            f"More than {CROPPED:.0%} of the picture is cut off",
            "Use photos nearer to square.",
        ),
    ]
    return [
        PhotoFinding(
            kind=kind,
            severity=severity,
            message=f"{what}: {_listed([printable(path) for path in paths])}.",
            remedy=remedy,
        )
        for kind, severity, paths, what, remedy in table
        if paths
    ]


def _listed(names: Sequence[str]) -> str:
    """At most five names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
