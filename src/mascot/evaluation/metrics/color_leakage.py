"""Color leakage: how far the subject's colors follow the background's.

The metric is mascot's own. It compares the middle of an image with its outer ring, in CIELAB, over
images of one subject on several backgrounds.

Shape suffixes: N images, H height, W width, 3 coordinates of CIELAB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 24
"""Side in pixels that images are reduced to, so that colors are compared and not shapes."""

RING = 3
"""Width of the outer ring, in reduced pixels; the ring stands for the background."""

SMALLEST_SPREAD = 10.0
"""Spread of the backgrounds, in CIELAB, below which they count as equal.

Nothing can follow a background that does not change. A just noticeable difference is 2.3 (Mahy et
al. 1994); plain backgrounds of four colors have a spread of 75.
"""

_WHITE = np.array([0.95047, 1.0, 1.08883])  # D65

_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)  # of sRGB


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneColors:
    """Movement of colors over several backgrounds, in CIELAB."""

    subject_spread: float
    """Root mean square distance of the middle's mean color from its average over the images."""
    background_spread: float
    """The same of the background's median color."""
    leakage: float | None
    """Slope of the middle's color on the background's color.

    0: the subject keeps its colors. 1: the middle takes the background's color. None where the
    backgrounds are equal.
    """


def scene_colors(images: Sequence[Image.Image]) -> SceneColors | None:
    """Measure how far the subject's colors follow the background, over images of one seed.

    The middle third of the sides stands for the subject, and the outer ring, an eighth of the sides
    wide, for the background. A subject that is off the middle, or lets the background through,
    counts as following it. So compare the leakage with that of the base model at the same seeds.
    None with fewer than two images.
    """
    if len(images) < 2:
        return None
    middle_N3, ring_N3 = (_centered(rows) for rows in zip(*(_middle_and_ring(image) for image in images), strict=True))
    spread = _spread(ring_N3)
    leakage = float((middle_N3 * ring_N3).sum() / (ring_N3**2).sum()) if spread >= SMALLEST_SPREAD else None
    return SceneColors(subject_spread=_spread(middle_N3), background_spread=spread, leakage=leakage)


def lab(pixels_HW3: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Convert sRGB of 0..255 to CIELAB under D65 (CIE 15). Shape H x W x 3.

    L lies in 0..100, a and b around 0.
    """
    values = pixels_HW3 / 255.0
    linear = np.where(values > 0.04045, ((values + 0.055) / 1.055) ** 2.4, values / 12.92)
    ratio = linear @ _XYZ.T / _WHITE
    root = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _middle_and_ring(image: Image.Image) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean color of the middle and the median color of the ring."""
    colors = lab(np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)))
    outside = np.ones((SIDE, SIDE), dtype=bool)
    outside[RING:-RING, RING:-RING] = False
    third = SIDE // 3
    return colors[third:-third, third:-third].reshape(-1, 3).mean(axis=0), np.median(colors[outside], axis=0)


def _centered(rows: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    stacked = np.stack(rows)
    return stacked - stacked.mean(axis=0)


def _spread(centered: NDArray[np.float64]) -> float:
    return float(np.sqrt((centered**2).sum(axis=-1).mean()))
