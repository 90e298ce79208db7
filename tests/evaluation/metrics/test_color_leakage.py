"""Laws of color leakage: how far the subject's colors follow the background's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor

from mascot.evaluation.metrics.color_leakage import SMALLEST_SPREAD, lab, scene_colors

BACKGROUNDS = ("red", "yellow", "green", "blue")


def scene(background: str, subject: str | tuple[int, ...], side: int = 64) -> Image.Image:
    """A square on a plain background."""
    image = Image.new("RGB", (side, side), background)
    image.paste(Image.new("RGB", (side // 2, side // 2), subject), (side // 4, side // 4))
    return image


def tinted(background: str, subject: str, share: float) -> tuple[int, ...]:
    """The subject's color, moved towards the background's."""
    pairs = zip(ImageColor.getrgb(background), ImageColor.getrgb(subject), strict=True)
    return tuple(round(share * there + (1 - share) * own) for there, own in pairs)


def leakage(*scenes: Image.Image) -> float:
    colors = scene_colors(scenes)
    assert colors is not None
    assert colors.leakage is not None
    return colors.leakage


@given(subject=st.sampled_from(["white", "black", "orange", "purple"]), side=st.sampled_from([24, 64, 100]))
def test_a_subject_that_keeps_its_colors_has_no_leakage(subject: str, side: int) -> None:
    assert leakage(*(scene(background, subject, side) for background in BACKGROUNDS)) == pytest.approx(0, abs=1e-9)


def test_an_image_of_the_background_alone_has_full_leakage() -> None:
    assert leakage(*(scene(background, background) for background in BACKGROUNDS)) == pytest.approx(1, abs=1e-9)


def test_leakage_grows_with_what_the_subject_takes_over() -> None:
    shares = [
        leakage(*(scene(background, tinted(background, "white", share)) for background in BACKGROUNDS))
        for share in (0, 0.25, 0.5, 0.75, 1)
    ]
    assert shares == sorted(shares)
    assert shares[-1] - shares[0] > 0.9


def test_equal_backgrounds_have_no_leakage() -> None:
    equal = scene_colors([scene("red", "white"), scene("red", "black")])
    assert equal is not None
    assert equal.leakage is None
    assert equal.background_spread < SMALLEST_SPREAD < equal.subject_spread
    assert scene_colors([scene("red", "white")]) is None


@pytest.mark.parametrize(
    ("color", "known"),
    [
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
    ],
)
def test_cielab_is_the_standard_s(color: tuple[int, int, int], known: tuple[float, float, float]) -> None:
    assert lab(np.array([[color]], dtype=np.uint8))[0, 0] == pytest.approx(known, abs=0.02)
