"""Do the subject's colours move with the scene? What the middle of a picture takes over when its background changes.

Shape suffixes: N scenes, H height, W width, 3 coordinates of CIELAB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 24
"""Pixels a side that pictures are reduced to: colours, not drawing, are compared."""


RING = 3
"""Width of the outer ring that is taken for the background."""


STILL = 10.0
"""Spread of the backgrounds, in CIELAB, below which the scene did not change, so that nothing can follow it. A just noticeable difference
is 2.3 (Mahy et al. 1994); plain backgrounds of four colours spread by 75."""


_WHITE = np.array([0.95047, 1.0, 1.08883])  # D65


_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)  # of sRGB


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneColors:
    """How colours moved over some scenes, all in CIELAB."""

    subject: float
    """Spread of the middle's mean colour: root mean square distance from its mean."""
    scene: float
    """Spread of the background's median colour, likewise."""
    followed: float | None
    """How much of the background's movement the middle made too: the slope of the middle's colour on the background's. 0: the subject keeps
    its colours; 1: the middle is the background. None where the background did not move."""


def scene_colors(scenes: Sequence[Image.Image]) -> SceneColors | None:
    """Compare pictures of one subject in several scenes, the same seed each: what does its middle take over from its surroundings?

    The middle third of the sides stands for the subject, the outer ring (an eighth of the sides wide) for the scene: what stands off the
    middle, or lets the scene through, counts as following it, so read the number beside the untouched base's, drawn at the same seeds.
    None with fewer than two pictures.
    """
    if len(scenes) < 2:
        return None
    middle_N3, ring_N3 = (_centred(rows) for rows in zip(*(_middle_and_ring(scene) for scene in scenes), strict=True))
    scene = _spread(ring_N3)
    followed = float((middle_N3 * ring_N3).sum() / (ring_N3**2).sum()) if scene >= STILL else None
    return SceneColors(subject=_spread(middle_N3), scene=scene, followed=followed)


def lab(pixels_HW3: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Convert sRGB of 0..255 to CIELAB under D65 (CIE 15): L of 0..100, a and b around 0. Shape H x W x 3."""
    values = pixels_HW3 / 255.0
    linear = np.where(values > 0.04045, ((values + 0.055) / 1.055) ** 2.4, values / 12.92)
    ratio = linear @ _XYZ.T / _WHITE
    root = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _middle_and_ring(image: Image.Image) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean colour of the middle and median colour of the ring."""
    colours = lab(np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)))
    outside = np.ones((SIDE, SIDE), dtype=bool)
    outside[RING:-RING, RING:-RING] = False
    third = SIDE // 3
    return colours[third:-third, third:-third].reshape(-1, 3).mean(axis=0), np.median(colours[outside], axis=0)


def _centred(rows: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    stacked = np.stack(rows)
    return stacked - stacked.mean(axis=0)


def _spread(centred: NDArray[np.float64]) -> float:
    return float(np.sqrt((centred**2).sum(axis=-1).mean()))
