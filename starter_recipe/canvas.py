"""What backgrounds are painted with: named colours, and a square canvas whose pen does not know the resolution."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

Rng = np.random.Generator
Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "red": (214, 48, 42), "orange": (245, 140, 40), "yellow": (240, 205, 50), "green": (60, 150, 70),
    "teal": (32, 145, 140), "blue": (50, 95, 215), "purple": (125, 65, 185), "pink": (245, 140, 190),
    "brown": (135, 85, 50), "gray": (145, 145, 150), "black": (28, 28, 32), "white": (250, 248, 248),
}  # fmt: skip


def jitter(colour: Colour, rng: Rng, by: int = 12) -> Colour:
    """Move a colour a little, so that no place is one flat value."""
    r, g, b = (int(np.clip(c + rng.integers(-by, by + 1), 0, 255)) for c in colour)
    return r, g, b


def gradient(side: int, top: Colour, bottom: Colour) -> Image.Image:
    """A vertical blend from `top` to `bottom`."""
    t = np.linspace(0, 1, side)[:, None, None]
    rows = np.asarray(top)[None, None] * (1 - t) + np.asarray(bottom)[None, None] * t
    return Image.fromarray(np.broadcast_to(rows, (side, side, 3)).astype(np.uint8).copy())


class Canvas:
    """A square picture with a pen whose coordinates run from 0 to 1."""

    def __init__(self, side: int, rng: Rng, sky: tuple[Colour, Colour]) -> None:
        self.side = side
        self.rng = rng
        self.picture = gradient(side, jitter(sky[0], rng), jitter(sky[1], rng))
        self.pen = ImageDraw.Draw(self.picture)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        """Fill a rectangle."""
        self.pen.rectangle([v * self.side for v in (x0, y0, x1, y1)], fill=jitter(colour, self.rng, 6))

    def disc(self, x: float, y: float, r: float, colour: Colour, squash: float = 1.0) -> None:
        """Fill a disc, or an ellipse `squash` times as high as wide."""
        s = self.side
        self.pen.ellipse([(x - r) * s, (y - r * squash) * s, (x + r) * s, (y + r * squash) * s], fill=colour)

    def shape(self, points: list[tuple[float, float]], colour: Colour) -> None:
        """Fill a polygon."""
        self.pen.polygon([(x * self.side, y * self.side) for x, y in points], fill=colour)

    def stone(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        """Fill a rectangle whose corners are round."""
        box = [v * self.side for v in (x0, y0, x1, y1)]
        self.pen.rounded_rectangle(box, radius=0.45 * min(box[2] - box[0], box[3] - box[1]), fill=colour)

    def ring(self, x: float, y: float, r: float, colour: Colour, *, squash: float) -> None:
        """Draw the outline of an ellipse `squash` times as high as wide."""
        s = self.side
        box = [(x - r) * s, (y - r * squash) * s, (x + r) * s, (y + r * squash) * s]
        self.pen.ellipse(box, outline=colour, width=max(1, round(0.014 * s)))

    def leaf(self, x: float, y: float, turn: float, length: float, colour: Colour) -> None:
        """Fill a pointed leaf with a light rib; it grows from (x, y) towards `turn`, in radians clockwise from the right."""
        along = np.linspace(0, 1, 9)
        half = 0.19 * np.sin(np.pi * along**0.8)
        ahead, across = np.concatenate([along, along[::-1]]), np.concatenate([half, -half[::-1]])
        xs = x + length * (ahead * np.cos(turn) - across * np.sin(turn))
        ys = y + length * (ahead * np.sin(turn) + across * np.cos(turn))
        self.shape(list(zip(xs.tolist(), ys.tolist(), strict=True)), colour)
        r, g, b = colour
        self.line([(x, y), (float(xs[8]), float(ys[8]))], (min(r + 70, 255), min(g + 60, 255), min(b + 30, 255)))

    def line(self, points: list[tuple[float, float]], colour: Colour, width: float = 0.012) -> None:
        """Draw a line."""
        pen_width = max(1, round(width * self.side))
        self.pen.line([(x * self.side, y * self.side) for x, y in points], fill=colour, width=pen_width)

    def hills(self, level: float, rough: float, colour: Colour) -> None:
        """Fill everything under a rolling horizon."""
        a, b = self.rng.uniform(0, 6.28, 2)
        xs = np.linspace(0, 1, 24)
        ys = level + rough * (np.sin(5 * xs + a) + 0.5 * np.sin(11 * xs + b))
        self.shape([(0, 1), *zip(xs.tolist(), ys.tolist(), strict=True), (1, 1)], colour)

    def scatter(self, count: int, low: float, high: float) -> list[tuple[float, float]]:
        """Draw `count` random points between two heights."""
        return [
            (float(x), float(y))
            for x, y in zip(self.rng.random(count), self.rng.uniform(low, high, count), strict=True)
        ]

    def clouds(self) -> None:
        """Put a few clouds into the sky."""
        for x, y in self.scatter(3, 0.05, 0.3):
            for dx in (-0.06, 0, 0.06):
                self.disc(x + dx, y, 0.06, (252, 252, 255), 0.6)
