"""Laws of cropping: exact sizes, unchanged proportions, and the subject stays inside."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from mascot.data.crops import Size, buckets, crop, crop_box, nearest_bucket, subject_box
from mascot.data.photos import Photo
from mascot.errors import UserError

SIZES = st.tuples(st.integers(1, 400), st.integers(1, 400))
TARGETS = st.tuples(st.integers(1, 16), st.integers(1, 16)).map(lambda size: (size[0] * 8, size[1] * 8))


@st.composite
def subjects(draw: st.DrawFn, smallest: int = 1) -> tuple[Size, tuple[int, int, int, int]]:
    """An image size and a box inside it."""
    height, width = draw(st.integers(smallest, 300)), draw(st.integers(smallest, 300))
    left, top = draw(st.integers(0, width - smallest)), draw(st.integers(0, height - smallest))
    right, bottom = draw(st.integers(left + smallest, width)), draw(st.integers(top + smallest, height))
    return (height, width), (left, top, right, bottom)


def swapped(size: Size) -> Size:
    """Swap height and width."""
    return size[1], size[0]


def photo(size: Size, box: tuple[int, int, int, int] | None = None) -> Photo:
    """Make a blue photo with a red subject in the box, which the mask marks."""
    image = Image.new("RGB", swapped(size), "blue")
    mask = None
    if box is not None:
        image.paste("red", box)
        mask = Image.new("L", swapped(size))
        mask.paste(255, box)
    return Photo(path=Path("photo.png"), image=image, mask=mask)


@given(st.integers(1, 64), st.integers(1, 40), st.floats(1, 4))
def test_buckets_hold_about_as_many_pixels_in_sides_that_divide(multiple: int, steps: int, max_ratio: float) -> None:
    resolution = multiple * steps
    sizes = buckets(resolution, multiple, max_ratio=max_ratio)
    assert sizes[0] == (resolution, resolution)
    assert len(set(sizes)) == len(sizes)
    assert {(width, height) for height, width in sizes} == set(sizes)
    for height, width in sizes:
        assert height % multiple == width % multiple == 0
        assert 1 / max_ratio - 1e-9 <= height / width <= max_ratio + 1e-9
        assert abs(height * width - resolution**2) <= min(height, width) * multiple / 2


def test_buckets_reach_the_ratio_that_is_allowed() -> None:
    assert max(width / height for height, width in buckets(1024, 64)) > 1.7
    assert buckets(512, 64, max_ratio=1) == ((512, 512),)


@pytest.mark.parametrize("setting", [(4, 8, 2.0), (0, 8, 2.0), (64, 0, 2.0), (64, 8, 0.5)])
def test_impossible_buckets_are_a_user_error(setting: tuple[int, int, float]) -> None:
    with pytest.raises(UserError, match="resolution"):
        buckets(setting[0], setting[1], max_ratio=setting[2])


@given(SIZES)
def test_the_nearest_bucket_loses_least_and_treats_both_directions_alike(size: Size) -> None:
    among = buckets(512, 64)
    found = nearest_bucket(size, among)
    assert found in among

    def lost(bucket: Size) -> float:
        return abs(math.log(size[0] / size[1] * bucket[1] / bucket[0]))

    assert lost(found) == pytest.approx(min(map(lost, among)))
    assert lost(swapped(nearest_bucket(swapped(size), among))) == pytest.approx(lost(found))


@given(subjects(), TARGETS)
def test_the_crop_box_holds_the_subject_wherever_it_can(
    subject: tuple[Size, tuple[int, int, int, int]], target: Size
) -> None:
    (height, width), box = subject
    left, top, right, bottom = crop_box((height, width), target, box)
    for start, end, first, last, whole in ((left, right, box[0], box[2], width), (top, bottom, box[1], box[3], height)):
        assert 0 <= start < end <= whole
        if last - first <= end - start:
            assert start <= first + 1e-6
            assert last <= end + 1e-6
        else:
            assert first - 1e-6 <= start
            assert end <= last + 1e-6
            assert start + end == pytest.approx(first + last)


@given(SIZES, TARGETS)
def test_the_crop_box_is_the_largest_of_its_shape_and_centered(size: Size, target: Size) -> None:
    left, top, right, bottom = crop_box(size, target)
    assert (right - left) / (bottom - top) == pytest.approx(target[1] / target[0])
    assert right - left == pytest.approx(size[1]) or bottom - top == pytest.approx(size[0])
    assert left + right == pytest.approx(size[1])
    assert top + bottom == pytest.approx(size[0])


@settings(deadline=None)
@given(subjects(smallest=8), TARGETS, st.booleans())
def test_the_cropped_mask_marks_the_whole_subject(
    subject: tuple[Size, tuple[int, int, int, int]],
    target: Size,
    flip: bool,  # noqa: FBT001
) -> None:
    size, box = subject
    left, top, right, bottom = crop_box(size, target, box)
    across, down = target[1] / (right - left), target[0] / (bottom - top)
    wanted = np.array(
        [(box[0] - left) * across, (box[1] - top) * down, (box[2] - left) * across, (box[3] - top) * down]
    )
    wanted = wanted.clip(0, [target[1], target[0]] * 2)
    assume(wanted[2] - wanted[0] > 4 and wanted[3] - wanted[1] > 4)
    if flip:
        wanted[[0, 2]] = target[1] - wanted[[2, 0]]
    cut = crop(photo(size, box), target, flip=flip)
    assert cut.mask is not None
    assert np.abs(np.array(subject_box(cut.mask)) - wanted).max() <= 1.5
    red = Image.fromarray(np.asarray(cut.image)[..., 0])
    assert np.abs(np.array(subject_box(red)) - wanted).max() <= 1.5


@settings(deadline=None)
@given(SIZES, TARGETS, st.booleans())
def test_the_crop_has_exactly_the_size_asked_for(size: Size, target: Size, flip: bool) -> None:  # noqa: FBT001
    cut = crop(photo(size, (0, 0, 1, 1)), target, flip=flip)
    assert cut.mask is not None
    assert cut.image.mode == "RGB"
    assert cut.image.size == cut.mask.size == target[::-1]
    assert cut.framing.original == size
    assert cut.framing.target == target
    assert min(cut.framing.corner) >= 0


def test_proportions_are_kept() -> None:
    cut = crop(photo((256, 500), (200, 100, 300, 200)), (128, 128))
    assert cut.mask is not None
    left, top, right, bottom = subject_box(cut.mask) or (0, 0, 0, 0)
    assert right - left == bottom - top == 50


@pytest.mark.parametrize(("flip", "corner"), [(False, (0, 0)), (True, (0, 64))])
def test_the_corner_is_measured_in_the_scaled_and_mirrored_photo(flip: bool, corner: Size) -> None:  # noqa: FBT001
    assert crop(photo((200, 300), (0, 0, 20, 20)), (128, 128), flip=flip).framing.corner == corner


def test_flip_mirrors_exactly() -> None:
    whole = photo((97, 97), (10, 20, 40, 60))
    plain, mirrored = crop(whole, (64, 64)), crop(whole, (64, 64), flip=True)
    assert np.array_equal(np.asarray(plain.image)[:, ::-1], np.asarray(mirrored.image))


def test_a_crop_at_its_own_size_changes_nothing() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8))
    cut = crop(Photo(path=Path("photo.png"), image=image), (64, 96))
    assert np.array_equal(np.asarray(cut.image), np.asarray(image))
    assert cut.mask is None


def test_an_empty_mask_has_no_box() -> None:
    assert subject_box(Image.new("L", (8, 8), 127)) is None
    assert subject_box(Image.new("L", (8, 8), 128)) == (0, 0, 8, 8)
