"""Measure a set of photos before any training, and list problems with their remedies."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mascot.data.crops import crop_box, nearest_bucket, subject_box
from mascot.data.photos import Photo, PhotoSet
from mascot.errors import printable
from mascot.storage.untrusted_files import digest_of

MINIMUM_PHOTOS = 3
"""With fewer photos training memorizes single images (Ruiz et al. 2023 use 3 to 5)."""
MAXIMUM_PHOTOS = 20
"""More photos than this help little."""
MINIMUM_SHARPNESS = 40.0
"""Photos with a lower sharpness (see `sharpness`) are blurred.

The 94 photos of the DreamBooth data set measure 147 to 6,500. Blurred by a Gaussian of 2 pixels at
256 pixels a side, which is clearly visible, they measure 2 to 17. Plain drawings without outlines
may also fall below the threshold.
"""
NEAR_DUPLICATE_BITS = 6
"""Near-duplicates have perceptual hashes that differ in at most this many of 64 bits."""
MAXIMUM_BACKGROUND_SIMILARITY = 0.8
"""With more similar backgrounds, training ties the background to the subject.

In the DreamBooth data set the photos of one subject measure 0.2 to 0.6 if the locations vary, and
0.8 to 1 if they do not.
"""
MAXIMUM_CENTER_DISTANCE = 0.25
"""A subject whose center is farther from the image's center is off center; a share of the sides."""
MAXIMUM_SUBJECT_LOSS = 0.05
"""A subject fits the crop if the crop removes at most this share of its box."""
MAXIMUM_CROP_LOSS = 0.4
"""A crop that removes a larger share of the photo is reported."""

Kind = Literal[
    "too-few",
    "too-many",
    "duplicate",
    "near-duplicate",
    "blurred",
    "upscaled",
    "same-background",
    "off-center",
    "cut",
    "cropped",
    "refused",
    "no-subject",
    "same-captions",
    "always-written",
    "token-dropped",
    "no-tags",
    "no-names",
    "shared",
]
"""What a finding is about."""
Severity = Literal["note", "warning"]
"""How much a finding matters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoFacts:
    """The measurements of one photo: sizes are (height, width) in pixels, shares are 0..1."""

    path: Path
    size: tuple[int, int]
    sharpness: float
    """Variance of the Laplacian, see `sharpness`."""
    upscaled: bool
    """Whether the short side is below the resolution."""
    cropped: float
    """Share of the photo that the crop removes."""
    cut: float | None
    """Share of the subject's box that the crop removes; None without a mask."""
    center_distance: float | None
    """Distance of the subject box's center from the photo's, in shares of the sides, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoPair:
    """Two photos with the same bytes (`exact`), or with perceptual hashes `distance` bits apart."""

    first: Path
    second: Path
    exact: bool
    distance: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoFinding:
    """One problem of the photos: one sentence that describes it, and one that says what to do."""

    kind: Kind
    severity: Severity
    message: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The result of an audit: the measurements of photos and pairs, and the findings."""

    facts: tuple[PhotoFacts, ...]
    pairs: tuple[PhotoPair, ...]
    background_similarity: float | None
    """Mean similarity of the backgrounds, 0..1; None if fewer than two photos show one.

    Of several subjects, that of the most similar backgrounds.
    """
    findings: tuple[PhotoFinding, ...]


def audit_photos(
    photos: PhotoSet, resolution: int, *, buckets: Sequence[tuple[int, int]] = (), names: Sequence[str] = ()
) -> Audit:
    """Measure the photos as they are cropped for training, and list what is wrong with them.

    Args:
        photos: the photos, with the files that were refused.
        resolution: side of the training images, in pixels.
        buckets: the sizes that photos may be cropped to, (height, width); by default one square.
        names: the names of several subjects, each of which is audited by itself.
    """
    if len(names) > 1:
        return _audit_subjects(photos, resolution, buckets, names)
    sizes = tuple(buckets) or ((resolution, resolution),)
    # Copies of one file share their image, which is measured once.
    sharp = {id(image): sharpness(image) for image in {id(p.image): p.image for p in photos.photos}.values()}
    facts = tuple(_measure(photo, resolution, sizes, sharp[id(photo.image)]) for photo in photos.photos)
    pairs = duplicates(photos.photos)
    similarity = background_similarity(photos.photos)
    findings = [*_set_findings(photos, similarity), *_pair_findings(pairs), *_photo_findings(facts, resolution)]
    return Audit(facts=facts, pairs=pairs, background_similarity=similarity, findings=tuple(findings))


def _audit_subjects(
    photos: PhotoSet, resolution: int, buckets: Sequence[tuple[int, int]], names: Sequence[str]
) -> Audit:
    """Audit each subject by itself, then look for photos that two subjects share."""
    audits: list[Audit] = []
    for number, name in enumerate(names):
        own = PhotoSet(photos=tuple(photo for photo in photos.photos if photo.subject == number))
        audit = audit_photos(own, resolution, buckets=buckets)
        named = tuple(replace(finding, message=f"{name}: {finding.message}") for finding in audit.findings)
        audits.append(replace(audit, findings=named))
    owner = {photo.path: names[photo.subject] for photo in photos.photos}
    pairs = duplicates(photos.photos)
    shared = [
        f"{printable(pair.first)} ({owner[pair.first]}) and {printable(pair.second)} ({owner[pair.second]})"
        for pair in pairs
        if owner[pair.first] != owner[pair.second]
    ]
    findings = [finding for audit in audits for finding in audit.findings] + _refused_findings(photos)
    if shared:
        message = f"Almost the same image in two subjects: {_list_names(shared)}."
        remedy = "Keep each for one subject; otherwise training mixes them."
        findings.append(PhotoFinding(kind="shared", severity="warning", message=message, remedy=remedy))
    similarities = [audit.background_similarity for audit in audits if audit.background_similarity is not None]
    return Audit(
        facts=tuple(fact for audit in audits for fact in audit.facts),
        pairs=pairs,
        background_similarity=max(similarities, default=None),
        findings=tuple(findings),
    )


def sharpness(image: Image.Image) -> float:
    """Return the variance of the luma's Laplacian (Pech-Pacheco et al. 2000); luma is 0..255.

    The image is first reduced to 256 pixels on the long side, and never enlarged. This makes
    cameras comparable, and ignores blur that is too fine for training to see.
    """
    luma = image.convert("L")
    luma.thumbnail((256, 256), Image.Resampling.LANCZOS, reducing_gap=3.0)
    grey = np.asarray(luma, dtype=np.float64)
    if min(grey.shape) < 3:
        return 0.0
    neighbors = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((neighbors - 4 * grey[1:-1, 1:-1]).var())


def duplicates(photos: Sequence[Photo]) -> tuple[PhotoPair, ...]:
    """Pair each photo that has a duplicate with the first one: equal bytes, or similar pHashes.

    A set of n copies gives n - 1 pairs, not all n (n - 1) / 2.
    """
    copies: dict[str, list[int]] = defaultdict(list)
    for index, photo in enumerate(photos):
        copies[digest_of(photo.path)].append(index)
    first = [indices[0] for indices in copies.values()]
    exact = {(indices[0], index): 0 for indices in copies.values() for index in indices[1:]}
    near = {(first[one], first[two]): bits for (one, two), bits in _near([photos[i].image for i in first]).items()}
    return tuple(
        PhotoPair(first=photos[one].path, second=photos[two].path, exact=(one, two) in exact, distance=bits)
        for (one, two), bits in sorted((exact | near).items())
    )


def _near(images: Sequence[Image.Image]) -> dict[tuple[int, int], int]:
    """Pair each image with the first that has a similar perceptual hash."""
    if len(images) < 2:
        return {}
    hashes = perceptual_hashes(images)
    pairs: dict[tuple[int, int], int] = {}
    for start in range(0, len(hashes), 256):  # a block of rows at a time, so that memory stays small
        distances = np.bitwise_count(hashes[start : start + 256, None] ^ hashes)
        distances[np.arange(len(distances)), np.arange(start, start + len(distances))] = 64 + 1
        similar = distances <= NEAR_DUPLICATE_BITS
        for row in np.flatnonzero(similar.any(axis=1)).tolist():
            one, two = start + row, int(similar[row].argmax())
            pairs[min(one, two), max(one, two)] = int(distances[row, two])
    return pairs


def perceptual_hashes(images: Sequence[Image.Image]) -> NDArray[np.uint64]:
    """Return the perceptual hash of each image (pHash); similar images differ in few of 64 bits."""
    from imagehash import phash  # it imports scipy, and only this function needs it

    bits = np.array([np.asarray(phash(image).hash).ravel() for image in images])
    return np.packbits(bits, axis=1).view(np.uint64).ravel()


def background_similarity(photos: Sequence[Photo]) -> float | None:
    """Return how similar the backgrounds are, 0..1, or None if fewer than two photos show one.

    It is the intersection of two color histograms (Swain & Ballard 1991), averaged over all pairs.
    The background is what lies outside the mask. Without a mask it is the outer ring of the photo,
    a sixth of the sides wide.
    """
    histograms = [histogram for photo in photos if (histogram := _background_histogram(photo)) is not None]
    count = len(histograms)
    if count < 2:
        return None
    # In each bin the k-th smallest value is the smaller one of its pairs with all larger values.
    ranked = np.sort(np.array(histograms), axis=0)
    return float((np.arange(count - 1, -1, -1) @ ranked).sum() / math.comb(count, 2))


def _background_histogram(photo: Photo) -> NDArray[np.float64] | None:
    """Return the color histogram of the background, or None if the mask covers the whole photo.

    It has 4 bins a channel, which is coarse enough to tolerate changes of light, and sums to 1.
    """
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


def _measure(photo: Photo, resolution: int, sizes: Sequence[tuple[int, int]], sharp: float) -> PhotoFacts:
    """Measure one photo and its crop to the nearest size.

    A mask that is white everywhere does not say where the subject is.
    """
    height, width = photo.size
    marked = photo.mask is not None and photo.mask.getextrema() != (255, 255)
    box = subject_box(photo.mask) if photo.mask is not None and marked else None
    left, top, right, bottom = crop_box(photo.size, nearest_bucket(photo.size, sizes), box)
    cut = center_distance = None
    if box is not None:
        kept = max(0.0, min(right, box[2]) - max(left, box[0])) * max(0.0, min(bottom, box[3]) - max(top, box[1]))
        cut = 1 - kept / ((box[2] - box[0]) * (box[3] - box[1]))
        center_distance = math.hypot((box[0] + box[2]) / 2 / width - 0.5, (box[1] + box[3]) / 2 / height - 0.5)
    return PhotoFacts(
        path=photo.path,
        size=photo.size,
        sharpness=sharp,
        upscaled=min(photo.size) < resolution,
        cropped=1 - (right - left) * (bottom - top) / (width * height),
        cut=cut,
        center_distance=center_distance,
    )


def _set_findings(photos: PhotoSet, similarity: float | None) -> list[PhotoFinding]:
    """List the findings on the number of photos, the refused files and the backgrounds."""
    findings: list[PhotoFinding] = []

    def add(kind: Kind, severity: Severity, message: str, remedy: str) -> None:
        findings.append(PhotoFinding(kind=kind, severity=severity, message=message, remedy=remedy))

    count = len(photos.photos)
    if count < MINIMUM_PHOTOS:
        number = "is 1 usable photo" if count == 1 else f"are {count} usable photos"
        message = f"There {number}; one subject needs at least {MINIMUM_PHOTOS}."
        add("too-few", "warning", message, f"Add photos: 5 to {MAXIMUM_PHOTOS} work best.")
    if count > MAXIMUM_PHOTOS:
        message = f"There are {count} photos; more than {MAXIMUM_PHOTOS} help little."
        add("too-many", "note", message, f"Keep the {MAXIMUM_PHOTOS} sharpest and most varied.")
    findings += _refused_findings(photos)
    if similarity is not None and similarity > MAXIMUM_BACKGROUND_SIMILARITY:
        message = f"The backgrounds are all alike (similarity {similarity:.2f} of 1)."
        remedy = "Add photos with other backgrounds, or masks; otherwise training ties the background to the subject."
        add("same-background", "warning", message, remedy)
    return findings


def _refused_findings(photos: PhotoSet) -> list[PhotoFinding]:
    """Return the finding on files that are not used, if there are any."""
    if not photos.refused:
        return []
    names = _list_names([printable(refusal.path) for refusal in photos.refused])
    message = f"Refused: {names}. The first one: {photos.refused[0].reason}"
    remedy = "Repair, replace or remove these files."
    return [PhotoFinding(kind="refused", severity="warning", message=message, remedy=remedy)]


def _pair_findings(pairs: Sequence[PhotoPair]) -> list[PhotoFinding]:
    """List the findings on duplicates and near-duplicates, each of which names all its pairs."""
    exact = [f"{printable(pair.first)} and {printable(pair.second)}" for pair in pairs if pair.exact]
    near = [f"{printable(pair.first)} and {printable(pair.second)}" for pair in pairs if not pair.exact]
    findings: list[PhotoFinding] = []
    if exact:
        message = f"The same file twice: {_list_names(exact)}."
        remedy = "Remove one of each pair: it counts double."
        findings.append(PhotoFinding(kind="duplicate", severity="warning", message=message, remedy=remedy))
    if near:
        message = f"Almost the same image: {_list_names(near)}."
        remedy = "Keep the better one of each pair, and add a photo from another side."
        findings.append(PhotoFinding(kind="near-duplicate", severity="note", message=message, remedy=remedy))
    return findings


def _photo_findings(facts: Sequence[PhotoFacts], resolution: int) -> list[PhotoFinding]:
    """List the findings on single photos, each of which names all its photos."""
    findings: list[PhotoFinding] = []

    def add(kind: Kind, severity: Severity, paths: list[Path], problem: str, remedy: str) -> None:
        if paths:
            message = f"{problem}: {_list_names([printable(path) for path in paths])}."
            findings.append(PhotoFinding(kind=kind, severity=severity, message=message, remedy=remedy))

    blurred = [fact.path for fact in facts if fact.sharpness < MINIMUM_SHARPNESS]
    add("blurred", "warning", blurred, "Blurred", "Replace them with sharp photos; training also reproduces blur.")
    problem = f"Smaller than {resolution} pixels, so enlarged"
    upscaled = [fact.path for fact in facts if fact.upscaled]
    add("upscaled", "warning", upscaled, problem, "Use larger originals, or a lower resolution.")
    cut = [fact.path for fact in facts if fact.cut is not None and fact.cut > MAXIMUM_SUBJECT_LOSS]
    remedy = "Crop them yourself, or use photos nearer to square."
    add("cut", "warning", cut, "The subject does not fit the crop", remedy)
    distances = [(fact.path, fact.center_distance) for fact in facts]
    off_center = [path for path, distance in distances if distance is not None and distance > MAXIMUM_CENTER_DISTANCE]
    add("off-center", "note", off_center, "The subject is far from the center", "Crop them closer to the subject.")
    cropped = [fact.path for fact in facts if fact.cropped > MAXIMUM_CROP_LOSS]
    problem = f"More than {MAXIMUM_CROP_LOSS:.0%} of the image is cut off"
    add("cropped", "note", cropped, problem, "Use photos nearer to square.")
    return findings


def _list_names(names: Sequence[str]) -> str:
    """List at most five names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
