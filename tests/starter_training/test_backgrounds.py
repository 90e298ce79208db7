"""Laws of the procedural backgrounds: size, seed, distinct places, and rugs of their color."""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from starter_training.scenes import backgrounds, built_places, canvas, landscapes
from starter_training.scenes.backgrounds import PLACES, paint, paint_rug
from starter_training.scenes.canvas import COLORS

SIDES = (64, 128)
REFERENCE, FRESH = range(6), range(100, 110)
"""Seeds whose images make a place's mean, and seeds whose images are then classified."""


def painted(place: str, seed: int, side: int = 64) -> Image.Image:
    return paint(place, side, np.random.default_rng(seed))


def visible(image: Image.Image) -> NDArray[np.float64]:
    """Scale an image to 16 pixels and blank the middle half of each side, which a subject hides."""
    values = np.asarray(image.resize((16, 16), Image.Resampling.BOX), dtype=np.float64)
    values[4:12, 4:12] = 0
    return values.ravel()


@cache
def means() -> NDArray[np.float64]:
    """One mean image per place, in the order of PLACES."""
    return np.stack([np.mean([visible(painted(place, seed)) for seed in REFERENCE], axis=0) for place in PLACES])


def recognized(place: str) -> float:
    """Return the share of a place's fresh images that are nearest to its own mean."""
    own = list(PLACES).index(place)
    nearest = [np.linalg.norm(means() - visible(painted(place, seed)), axis=1).argmin() for seed in FRESH]
    return float(np.mean([index == own for index in nearest]))


@pytest.mark.parametrize("side", SIDES)
def test_every_place_is_a_square_rgb_image_that_its_seed_decides(side: int) -> None:
    for place in PLACES:
        first, again, other = (painted(place, seed, side) for seed in (1, 1, 2))
        assert (first.mode, first.size) == ("RGB", (side, side)), place
        assert first.tobytes() == again.tobytes(), place
        assert first.tobytes() != other.tobytes(), place


def test_a_place_shows_the_same_scene_at_every_size() -> None:
    for place in PLACES:
        small, large = (
            np.asarray(painted(place, 5, side).resize((8, 8), Image.Resampling.BOX), dtype=float) for side in SIDES
        )
        assert np.abs(small - large).mean() < 6, place


def test_fresh_images_of_a_place_are_distinguished_from_every_other_place_by_their_borders() -> None:
    shares = {place: recognized(place) for place in PLACES}
    assert min(shares.values()) >= 0.9, {place: share for place, share in shares.items() if share < 0.9}


def test_no_two_places_share_a_painter_and_no_two_captions_differ_by_case_alone() -> None:
    assert len(set(PLACES.values())) == len(PLACES) == len({place.lower() for place in PLACES})


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("color", COLORS)
def test_a_rug_fills_the_middle_with_its_color_and_leaves_floor_in_the_corners(color: str, side: int) -> None:
    for seed in range(4):
        image = paint_rug(color, side, np.random.default_rng(seed))
        assert (image.mode, image.size) == ("RGB", (side, side))
        values = np.asarray(image, dtype=np.float64)
        middle = values[side // 4 : 3 * side // 4, side // 4 : 3 * side // 4].mean((0, 1))
        # The topmost row is the dark seam between two boards.
        rows = values[side // 32 : side // 16]
        corners = np.concatenate([rows[:, : side // 32], rows[:, -side // 32 :]], axis=1).mean((0, 1))
        distances = {name: float(np.linalg.norm(middle - value)) for name, value in COLORS.items()}
        assert min(distances, key=distances.__getitem__) == color
        assert np.linalg.norm(corners - middle) > 45


def test_rugs_differ_by_seed_and_not_otherwise() -> None:
    first, again, other = (paint_rug("red", 64, np.random.default_rng(seed)).tobytes() for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("module", [canvas, landscapes, built_places, backgrounds], ids=lambda module: module.__name__)
def test_painting_needs_pillow_and_numpy_only(module: object) -> None:
    tree = ast.parse(Path(str(getattr(module, "__file__", ""))).read_text(encoding="utf-8"))
    plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    named = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    foreign = {name for name in plain | named if name.partition(".")[0] not in sys.stdlib_module_names}
    own = {f"starter_training.scenes{name}" for name in ("", ".canvas")}
    assert foreign <= {"numpy", "PIL", *own}
