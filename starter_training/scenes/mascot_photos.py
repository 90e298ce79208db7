"""Photos of the demo's mascot, from its drawing `examples/mascot/mascot.svg`."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

from starter_training.atomic_folder import atomic_folder
from starter_training.scenes.subject_photos import Pose, backdrop, portrait, pose_on

SIDE = 256
"""Pixels along each side of a photo."""
PHOTOS: dict[str, Pose] = {
    "on the grass": Pose(size=0.80, shift=(0.0, 0.03)),
    "yellow": Pose(size=0.84, turn=4),
    "in a room": Pose(size=0.77, shift=(-0.03, 0.05), turn=-3),
    "purple": Pose(size=0.79, shift=(0.03, 0.0), turn=-5),
    "on a beach": Pose(size=0.82, shift=(0.02, 0.04), turn=2),
    "white": Pose(size=0.76, shift=(-0.02, -0.02)),
}
"""Scene -> pose: three places and three plain colors, none of which the mascot has itself."""


def render_mascot(drawing: Path, side: int) -> Image.Image:
    """Render a square SVG as RGBA, `side` pixels wide."""
    png = bytes(resvg_py.svg_to_bytes(svg_string=drawing.read_text(), width=side))
    return Image.open(io.BytesIO(png)).convert("RGBA")


def make_photos(folder: Path) -> None:
    """Write `photos/1.png` and so on beside `mascot.svg`, the same bytes each time."""
    drawing = render_mascot(folder / "mascot.svg", 4 * SIDE)
    with atomic_folder(folder / "photos") as out:
        for number, (scene, pose) in enumerate(PHOTOS.items(), 1):
            behind = backdrop(scene, SIDE, np.random.default_rng([20, number]))
            portrait(pose_on(drawing, SIDE, pose), behind).save(out / f"{number}.png", optimize=True)
