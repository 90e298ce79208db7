"""Laws of the measure of colours that move with the scene."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor

from mascot.evaluation.metrics.color_leakage import STILL, lab, scene_colors

SCENES = ("red", "yellow", "green", "blue")


def scene(behind: str, subject: str | tuple[int, ...], side: int = 64) -> Image.Image:
    """A square on a plain background."""
    image = Image.new("RGB", (side, side), behind)
    image.paste(Image.new("RGB", (side // 2, side // 2), subject), (side // 4, side // 4))
    return image


def tinted(behind: str, subject: str, share: float) -> tuple[int, ...]:
    """A colour moved towards another."""
    pairs = zip(ImageColor.getrgb(behind), ImageColor.getrgb(subject), strict=True)
    return tuple(round(share * there + (1 - share) * own) for there, own in pairs)


def followed(*scenes: Image.Image) -> float:
    found = scene_colors(scenes)
    assert found is not None
    assert found.followed is not None
    return found.followed


@given(subject=st.sampled_from(["white", "black", "orange", "purple"]), side=st.sampled_from([24, 64, 100]))
def test_a_subject_that_keeps_its_colours_follows_nothing(subject: str, side: int) -> None:
    assert followed(*(scene(behind, subject, side) for behind in SCENES)) == pytest.approx(0, abs=1e-9)


def test_a_picture_of_the_background_alone_follows_all_of_it() -> None:
    assert followed(*(scene(behind, behind) for behind in SCENES)) == pytest.approx(1, abs=1e-9)


def test_the_more_it_takes_over_the_higher() -> None:
    shares = [
        followed(*(scene(behind, tinted(behind, "white", share)) for behind in SCENES))
        for share in (0, 0.25, 0.5, 0.75, 1)
    ]
    assert shares == sorted(shares)
    assert shares[-1] - shares[0] > 0.9


def test_a_scene_that_does_not_change_says_nothing() -> None:
    still = scene_colors([scene("red", "white"), scene("red", "black")])
    assert still is not None
    assert still.followed is None
    assert still.scene < STILL < still.subject
    assert scene_colors([scene("red", "white")]) is None


@pytest.mark.parametrize(
    ("colour", "known"),
    [
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
    ],
)
def test_cielab_is_the_standard_s(colour: tuple[int, int, int], known: tuple[float, float, float]) -> None:
    assert lab(np.array([[colour]], dtype=np.uint8))[0, 0] == pytest.approx(known, abs=0.02)
