"""Laws of the audit: each finding appears for photos made to cause it, and for no others."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from time import process_time

import numpy as np
import pytest
from imagehash import phash
from PIL import Image, ImageFilter

from mascot.data.photo_audit import (
    MINIMUM_SHARPNESS,
    NEAR_DUPLICATE_BITS,
    Audit,
    audit_photos,
    background_similarity,
    duplicates,
    sharpness,
)
from mascot.data.photos import Photo, PhotoSet, read_photos

COLORS = ("red", "lime", "blue", "yellow", "magenta", "cyan")


def blocks(seed: int, size: tuple[int, int] = (256, 256)) -> Image.Image:
    """A sharp image of colored squares that depends on the seed."""
    values = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.NEAREST)


def framed(seed: int, color: str) -> Image.Image:
    """Paste squares on a plain background."""
    image = Image.new("RGB", (256, 256), color)
    image.paste(blocks(seed, (128, 128)), (64, 64))
    return image


def marked(size: tuple[int, int], box: tuple[int, int, int, int], seed: int = 0) -> Photo:
    """Make a photo, `size` being (width, height), whose mask marks the box."""
    mask = Image.new("L", size)
    mask.paste(255, box)
    return Photo(path=Path(f"{seed}.png"), image=blocks(seed, size), mask=mask)


def written(folder: Path, *images: Image.Image) -> PhotoSet:
    for number, image in enumerate(images):
        image.save(folder / f"{number}.png")
    return read_photos([folder])


def kinds(found: Audit) -> set[str]:
    return {finding.kind for finding in found.findings}


def test_good_photos_have_no_findings(tmp_path: Path) -> None:
    found = audit_photos(written(tmp_path, *(framed(seed, color) for seed, color in enumerate(COLORS))), 256)
    assert found.findings == ()
    assert found.pairs == ()
    assert [fact.size for fact in found.facts] == [(256, 256)] * 6


@pytest.mark.parametrize(
    ("count", "kind"), [(1, {"too-few"}), (2, {"too-few"}), (3, set()), (20, set()), (21, {"too-many"})]
)
def test_the_number_of_photos_is_checked(tmp_path: Path, count: int, kind: set[str]) -> None:
    found = audit_photos(written(tmp_path, *(blocks(seed, (64, 64)) for seed in range(count))), 64)
    assert kinds(found) & {"too-few", "too-many"} == kind


def test_only_blurred_photos_are_reported_as_blurred(tmp_path: Path) -> None:
    found = audit_photos(written(tmp_path, blocks(0), blocks(1).filter(ImageFilter.GaussianBlur(5)), blocks(2)), 256)
    (finding,) = (finding for finding in found.findings if finding.kind == "blurred")
    assert "1.png" in finding.message
    assert "0.png" not in finding.message


def test_sharpness_falls_with_blur_and_ignores_resolution() -> None:
    image = blocks(0)
    measured = [sharpness(image.filter(ImageFilter.GaussianBlur(radius))) for radius in (0, 1, 2, 4)]
    assert measured == sorted(measured, reverse=True)
    assert measured[0] > MINIMUM_SHARPNESS > measured[-1]
    assert sharpness(blocks(0, (1024, 1024))) == pytest.approx(measured[0], rel=0.5)
    assert sharpness(Image.new("RGB", (300, 300), "teal")) == 0


def test_photos_below_the_resolution_are_reported_as_enlarged(tmp_path: Path) -> None:
    found = audit_photos(written(tmp_path, blocks(0, (256, 255)), blocks(1), blocks(2, (300, 300))), 256)
    assert [fact.upscaled for fact in found.facts] == [True, False, False]
    (finding,) = (finding for finding in found.findings if finding.kind == "upscaled")
    assert finding.message.endswith(": 0.png.")


def test_duplicates_are_distinguished_from_near_duplicates(tmp_path: Path) -> None:
    image = blocks(0)
    photos = written(tmp_path, image, image, image.resize((250, 250), Image.Resampling.LANCZOS), blocks(1))
    pairs = {(pair.first.name, pair.second.name): pair.exact for pair in duplicates(photos.photos)}
    assert pairs == {("0.png", "1.png"): True, ("0.png", "2.png"): False}
    assert {"duplicate", "near-duplicate"} <= kinds(audit_photos(photos, 256))


def test_backgrounds_are_compared_and_subjects_are_not(tmp_path: Path) -> None:
    (tmp_path / "same").mkdir()
    (tmp_path / "varied").mkdir()
    same = written(tmp_path / "same", *(framed(seed, "teal") for seed in range(4)))
    varied = written(tmp_path / "varied", *(framed(0, color) for color in COLORS))
    assert background_similarity(same.photos) == pytest.approx(1)
    assert background_similarity(varied.photos) == pytest.approx(0)
    assert "same-background" in kinds(audit_photos(same, 256))
    assert "same-background" not in kinds(audit_photos(varied, 256))


def test_the_background_lies_outside_the_mask() -> None:
    photos = [marked((256, 256), (0, 0, 128, 256), seed) for seed in range(3)]
    for photo in photos:
        photo.image.paste("teal", (128, 0, 256, 256))
    assert background_similarity(photos) == pytest.approx(1)
    assert (background_similarity([replace(photo, mask=None) for photo in photos]) or 0) < 0.8


def test_photos_without_background_are_not_compared() -> None:
    full = [marked((64, 64), (0, 0, 64, 64), seed) for seed in range(3)]
    assert background_similarity(full) is None
    assert background_similarity([]) is None


@pytest.mark.parametrize(
    ("size", "box", "kind"),
    [
        ((256, 256), (64, 64, 192, 192), set()),
        ((256, 256), (0, 0, 40, 40), {"off-center"}),
        ((400, 256), (20, 20, 380, 236), {"cut"}),
        ((400, 256), (60, 100, 260, 200), set()),
        ((600, 256), (250, 100, 350, 200), {"cropped"}),
    ],
)
def test_cut_and_off_center_subjects_are_found(
    tmp_path: Path, size: tuple[int, int], box: tuple[int, int, int, int], kind: set[str]
) -> None:
    photo = marked(size, box)
    photo.image.save(tmp_path / "0.png")
    assert photo.mask is not None
    photo.mask.save(tmp_path / "0.mask.png")
    assert kinds(audit_photos(read_photos([tmp_path]), 256)) & {"off-center", "cut", "cropped"} == kind


def test_buckets_keep_what_a_square_would_cut_off(tmp_path: Path) -> None:
    photos = written(tmp_path, blocks(0, (512, 256)))
    assert audit_photos(photos, 256).facts[0].cropped == pytest.approx(0.5)
    assert audit_photos(photos, 256, buckets=((256, 256), (192, 384))).facts[0].cropped == 0


def test_refused_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"")
    found = audit_photos(written(tmp_path, blocks(0)), 256)
    (finding,) = (finding for finding in found.findings if finding.kind == "refused")
    assert "broken.jpg" in finding.message


def test_long_lists_of_names_are_cut(tmp_path: Path) -> None:
    found = audit_photos(written(tmp_path, *(blocks(seed, (64, 64)) for seed in range(8))), 256)
    (finding,) = (finding for finding in found.findings if finding.kind == "upscaled")
    assert finding.message.endswith("0.png, 1.png, 2.png, 3.png, 4.png and 3 more.")


def test_thousands_of_copies_are_audited_in_seconds(tmp_path: Path) -> None:
    copied = [tmp_path / f"{number}.png" for number in range(3000)]
    blocks(0, (512, 384)).save(copied[0])
    for path in copied[1:]:
        path.write_bytes(copied[0].read_bytes())
    started = process_time()
    found = audit_photos(read_photos([tmp_path]), 256)
    assert process_time() - started < 20
    assert len(found.pairs) == 2999
    assert {pair.first for pair in found.pairs} == {copied[0]}
    (finding,) = (finding for finding in found.findings if finding.kind == "duplicate")
    assert finding.message.endswith("0.png and 5.png and 2994 more.")


def test_every_photo_that_has_a_duplicate_is_in_a_pair_of_which_all_are_duplicates(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [blocks(0, (64, 64)), blocks(1, (64, 64))]
    for _ in range(40):
        values = np.asarray(images[rng.integers(len(images))]).astype(int) + rng.integers(-60, 61, (64, 64, 3))
        images.append(Image.fromarray(values.clip(0, 255).astype(np.uint8)))
    photos = written(tmp_path, *images).photos
    hashes = [np.asarray(phash(photo.image).hash).ravel() for photo in photos]
    alike = {
        (photos[one].path, photos[two].path): int((hashes[one] != hashes[two]).sum())
        for one, two in combinations(range(len(photos)), 2)
    }
    expected = {pair: bits for pair, bits in alike.items() if bits <= NEAR_DUPLICATE_BITS}
    found = {(pair.first, pair.second): pair.distance for pair in duplicates(photos)}
    assert found.items() <= expected.items()
    assert {path for pair in found for path in pair} == {path for pair in expected for path in pair}


def test_the_similarity_of_backgrounds_is_the_mean_over_all_pairs(tmp_path: Path) -> None:
    photos = written(tmp_path, *(framed(seed, color) for seed, color in enumerate((*COLORS, *COLORS)))).photos
    pairs = [background_similarity(pair) for pair in combinations(photos, 2)]
    assert background_similarity(photos) == pytest.approx(sum(pair or 0 for pair in pairs) / len(pairs))
