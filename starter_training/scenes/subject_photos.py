"""Photos of one figure: its drawing, its pose and the backdrop behind it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from starter_training.scenes.backgrounds import PLACES, paint, paint_plain
from starter_training.scenes.canvas import Rng


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """How a figure stands in its image."""

    size: float
    """Longer side of the upright figure, as a share of the image's side."""
    shift: tuple[float, float] = (0.0, 0.0)
    """Shift from the center, right and down, as shares of the side."""
    turn: float = 0.0
    """Degrees, counter-clockwise."""


def backdrop(scene: str, side: int, rng: Rng) -> Image.Image:
    """Paint a place by its words (`on a beach`) or a plain color by its name (`yellow`).

    The result is `side` pixels square.
    """
    return paint(scene, side, rng) if scene in PLACES else paint_plain(scene, side, rng)


def pose_on(drawing: Image.Image, side: int, pose: Pose) -> Image.Image:
    """Paste an RGBA drawing on a transparent square of `side` pixels."""
    turned = drawing.rotate(pose.turn, Image.Resampling.BICUBIC, expand=True)
    scale = pose.size * side / max(drawing.size)
    width, height = (max(1, round(length * scale)) for length in turned.size)
    figure = turned.resize((width, height), Image.Resampling.LANCZOS)
    layer = Image.new("RGBA", (side, side))
    layer.paste(
        figure, (round((side - width) / 2 + pose.shift[0] * side), round((side - height) / 2 + pose.shift[1] * side))
    )
    return layer


def portrait(layer: Image.Image, behind: Image.Image) -> Image.Image:
    """Paste a posed figure in front of a backdrop of its size and return an RGB image."""
    image = behind.convert("RGB")
    image.paste(layer, (0, 0), layer)
    return image


def contrast(layer: Image.Image, behind: Image.Image) -> float:
    """Measure how clearly a figure stands out from its backdrop.

    Returns:
        The RGB distance (0 to 441) from the backdrop that four fifths of the figure's rim reach.
        Below 60 the figure blends into its scene.
    """
    alpha = layer.getchannel("A")
    inside = alpha.filter(ImageFilter.MinFilter(7))
    rim = (np.asarray(alpha) > 128) & (np.asarray(inside) <= 128)
    apart = np.asarray(layer.convert("RGB"), np.float64) - np.asarray(behind.convert("RGB"), np.float64)
    return float(np.quantile(np.linalg.norm(apart, axis=-1)[rim], 0.2))
