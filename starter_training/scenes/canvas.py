"""Named colors, and a square canvas whose coordinates do not depend on the resolution."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

Rng = np.random.Generator
Color = tuple[int, int, int]

COLORS: dict[str, Color] = {
    "red": (214, 48, 42),
    "orange": (245, 140, 40),
    "yellow": (240, 205, 50),
    "green": (60, 150, 70),
    "teal": (32, 145, 140),
    "blue": (50, 95, 215),
    "purple": (125, 65, 185),
    "pink": (245, 140, 190),
    "brown": (135, 85, 50),
    "gray": (145, 145, 150),
    "black": (28, 28, 32),
    "white": (250, 248, 248),
}
"""Color word of captions -> RGB."""


def jitter(color: Color, rng: Rng, by: int = 12) -> Color:
    """Shift each channel of a color at random by at most `by`, so that no area is flat."""
    r, g, b = (int(np.clip(c + rng.integers(-by, by + 1), 0, 255)) for c in color)
    return r, g, b


def gradient(side: int, top: Color, bottom: Color) -> Image.Image:
    """Return a square image that blends vertically from `top` to `bottom`."""
    t = np.linspace(0, 1, side)[:, None, None]
    rows = np.asarray(top)[None, None] * (1 - t) + np.asarray(bottom)[None, None] * t
    return Image.fromarray(np.broadcast_to(rows, (side, side, 3)).astype(np.uint8).copy())


class Canvas:
    """A square image and a pen whose coordinates run from 0 to 1, from the top left corner."""

    def __init__(self, side: int, rng: Rng, sky: tuple[Color, Color]) -> None:
        self.side = side
        self.rng = rng
        self.image = gradient(side, jitter(sky[0], rng), jitter(sky[1], rng))
        self.pen = ImageDraw.Draw(self.image)

    def box(self, x0: float, y0: float, x1: float, y1: float, color: Color) -> None:
        """Fill a rectangle."""
        self.pen.rectangle([v * self.side for v in (x0, y0, x1, y1)], fill=jitter(color, self.rng, 6))

    def disc(self, x: float, y: float, r: float, color: Color, squash: float = 1.0) -> None:
        """Fill a disc of radius `r`, or an ellipse `squash` times as high as wide."""
        s = self.side
        self.pen.ellipse([(x - r) * s, (y - r * squash) * s, (x + r) * s, (y + r * squash) * s], fill=color)

    def shape(self, points: list[tuple[float, float]], color: Color) -> None:
        """Fill a polygon."""
        self.pen.polygon([(x * self.side, y * self.side) for x, y in points], fill=color)

    def stone(self, x0: float, y0: float, x1: float, y1: float, color: Color) -> None:
        """Fill a rectangle with round corners."""
        box = [v * self.side for v in (x0, y0, x1, y1)]
        self.pen.rounded_rectangle(box, radius=0.45 * min(box[2] - box[0], box[3] - box[1]), fill=color)

    def ring(self, x: float, y: float, r: float, color: Color, *, squash: float) -> None:
        """Draw the outline of an ellipse `squash` times as high as wide."""
        s = self.side
        box = [(x - r) * s, (y - r * squash) * s, (x + r) * s, (y + r * squash) * s]
        self.pen.ellipse(box, outline=color, width=max(1, round(0.014 * s)))

    def leaf(self, x: float, y: float, turn: float, length: float, color: Color) -> None:
        """Fill a pointed leaf with a light rib.

        It grows from (x, y) in the direction `turn`, in radians clockwise from the right.
        """
        along = np.linspace(0, 1, 9)
        half = 0.19 * np.sin(np.pi * along**0.8)
        ahead, across = np.concatenate([along, along[::-1]]), np.concatenate([half, -half[::-1]])
        xs = x + length * (ahead * np.cos(turn) - across * np.sin(turn))
        ys = y + length * (ahead * np.sin(turn) + across * np.cos(turn))
        self.shape(list(zip(xs.tolist(), ys.tolist(), strict=True)), color)
        r, g, b = color
        self.line([(x, y), (float(xs[8]), float(ys[8]))], (min(r + 70, 255), min(g + 60, 255), min(b + 30, 255)))

    def line(self, points: list[tuple[float, float]], color: Color, width: float = 0.012) -> None:
        """Draw a line through points."""
        pen_width = max(1, round(width * self.side))
        self.pen.line([(x * self.side, y * self.side) for x, y in points], fill=color, width=pen_width)

    def hills(self, level: float, rough: float, color: Color) -> None:
        """Fill everything below a rolling horizon whose mean height is `level`."""
        a, b = self.rng.uniform(0, 6.28, 2)
        xs = np.linspace(0, 1, 24)
        ys = level + rough * (np.sin(5 * xs + a) + 0.5 * np.sin(11 * xs + b))
        self.shape([(0, 1), *zip(xs.tolist(), ys.tolist(), strict=True), (1, 1)], color)

    def scatter(self, count: int, low: float, high: float) -> list[tuple[float, float]]:
        """Draw `count` random points between the heights `low` and `high`."""
        return [
            (float(x), float(y))
            for x, y in zip(self.rng.random(count), self.rng.uniform(low, high, count), strict=True)
        ]

    def clouds(self) -> None:
        """Paint three clouds into the sky."""
        for x, y in self.scatter(3, 0.05, 0.3):
            for dx in (-0.06, 0, 0.06):
                self.disc(x + dx, y, 0.06, (252, 252, 255), 0.6)
