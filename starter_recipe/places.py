"""Procedural backgrounds: each place is a function of a canvas and a random generator, at any resolution."""

from __future__ import annotations

from collections.abc import Callable

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
        return [(float(x), float(y)) for x, y in zip(self.rng.random(count), self.rng.uniform(low, high, count), strict=True)]

    def clouds(self) -> None:
        """Put a few clouds into the sky."""
        for x, y in self.scatter(3, 0.05, 0.3):
            for dx in (-0.06, 0, 0.06):
                self.disc(x + dx, y, 0.06, (252, 252, 255), 0.6)


def snow(side: int, rng: Rng) -> Image.Image:
    """Pale sky, white ground, flakes."""
    c = Canvas(side, rng, ((170, 195, 225), (225, 235, 245)))
    c.hills(rng.uniform(0.55, 0.7), 0.02, (246, 249, 255))
    for x, y in c.scatter(26, 0, 1):
        c.disc(x, y, 0.014, (255, 255, 255))
    return c.picture


def beach(side: int, rng: Rng) -> Image.Image:
    """Sky, sea, sand, sun."""
    c = Canvas(side, rng, ((90, 185, 245), (190, 230, 250)))
    c.disc(rng.uniform(0.1, 0.9), 0.14, 0.08, (255, 225, 90))
    level = rng.uniform(0.38, 0.5)
    c.box(0, level, 1, level + 0.22, (35, 150, 190))
    c.hills(level + 0.2, 0.01, (238, 215, 155))
    return c.picture


def night(side: int, rng: Rng) -> Image.Image:
    """Dark blue sky, stars, a moon."""
    c = Canvas(side, rng, ((14, 16, 48), (36, 40, 88)))
    for x, y in c.scatter(26, 0, 1):
        c.disc(x, y, 0.011, (255, 250, 205))
    x = rng.uniform(0.1, 0.9)
    c.disc(x, 0.15, 0.09, (250, 240, 190))
    c.disc(x + 0.04, 0.13, 0.075, (20, 22, 58))
    return c.picture


def forest(side: int, rng: Rng) -> Image.Image:
    """Green shade, trunks, crowns, a dark floor."""
    c = Canvas(side, rng, ((70, 125, 75), (50, 100, 60)))
    for x, _ in c.scatter(6, 0, 1):
        c.box(x - 0.03, 0.1, x + 0.03, 0.8, (92, 62, 38))
    for x, y in c.scatter(9, 0, 0.2):
        c.disc(x, y, 0.16, jitter((40, 105, 50), rng))
    c.hills(0.74, 0.02, (58, 84, 42))
    return c.picture


def city(side: int, rng: Rng) -> Image.Image:
    """Towers with lit windows, a road."""
    c = Canvas(side, rng, ((165, 185, 205), (215, 220, 228)))
    x = -0.02
    while x < 1:
        width, top = rng.uniform(0.14, 0.22), rng.uniform(0.12, 0.42)
        c.box(x, top, x + width, 0.8, (92, 100, 118))
        for wx in np.arange(x + 0.03, x + width - 0.03, 0.06):
            for wy in np.arange(top + 0.05, 0.7, 0.09):
                c.box(wx, wy, wx + 0.03, wy + 0.045, (250, 225, 130) if rng.random() < 0.6 else (60, 68, 85))
        x += width + 0.015
    c.box(0, 0.78, 1, 1, (75, 75, 80))
    return c.picture


def under_water(side: int, rng: Rng) -> Image.Image:
    """Blue deep, bubbles, weed, sand."""
    c = Canvas(side, rng, ((50, 175, 205), (15, 85, 140)))
    for x, _ in c.scatter(5, 0, 1):
        sway = rng.uniform(-0.05, 0.05)
        c.line([(x, 1), (x + sway, 0.82), (x - sway, 0.66)], (45, 150, 85), 0.03)
    for x, y in c.scatter(11, 0, 0.9):
        c.disc(x, y, rng.uniform(0.012, 0.03), (175, 228, 240))
    c.hills(0.93, 0.01, (205, 190, 135))
    return c.picture


def desert(side: int, rng: Rng) -> Image.Image:
    """Hot sky, dunes."""
    c = Canvas(side, rng, ((250, 200, 130), (255, 230, 180)))
    c.hills(0.5, 0.05, (226, 170, 95))
    c.hills(0.68, 0.04, (205, 145, 75))
    x = rng.choice([0.12, 0.88])
    c.line([(x, 0.72), (x, 0.48)], (60, 130, 70), 0.05)
    c.line([(x - 0.07, 0.52), (x - 0.07, 0.6), (x, 0.6)], (60, 130, 70), 0.035)
    return c.picture


def mountains(side: int, rng: Rng) -> Image.Image:
    """Peaks with snow caps, a meadow."""
    c = Canvas(side, rng, ((125, 180, 235), (205, 228, 245)))
    for x in (0.15, 0.85, rng.uniform(0.35, 0.65)):
        top = rng.uniform(0.14, 0.28)
        c.shape([(x - 0.36, 0.76), (x, top), (x + 0.36, 0.76)], jitter((120, 122, 140), rng))
        c.shape([(x - 0.08, top + 0.13), (x, top), (x + 0.08, top + 0.13)], (250, 250, 255))
    c.hills(0.74, 0.02, (110, 165, 85))
    return c.picture


def room(side: int, rng: Rng) -> Image.Image:
    """A wall, a window, floor boards."""
    wall = [(250, 215, 200), (222, 236, 205), (208, 222, 240), (245, 235, 200)][rng.integers(4)]
    c = Canvas(side, rng, (wall, wall))
    x = rng.choice([0.07, 0.67])
    c.box(x, 0.09, x + 0.26, 0.37, (255, 255, 255))
    c.box(x + 0.025, 0.115, x + 0.235, 0.345, (145, 200, 245))
    c.box(x + 0.118, 0.1, x + 0.142, 0.36, (255, 255, 255))
    c.box(0, 0.7, 1, 1, (170, 118, 72))
    for y in (0.8, 0.9):
        c.line([(0, y), (1, y)], (140, 94, 55))
    return c.picture


def sunset(side: int, rng: Rng) -> Image.Image:
    """Purple into orange, a low sun, dark ground."""
    c = Canvas(side, rng, ((120, 60, 130), (255, 165, 75)))
    c.disc(rng.uniform(0.15, 0.85), 0.66, 0.14, (255, 220, 105))
    c.hills(0.74, 0.02, (70, 42, 62))
    return c.picture


def rain(side: int, rng: Rng) -> Image.Image:
    """Gray sky, slanted streaks, puddles."""
    c = Canvas(side, rng, ((112, 118, 132), (152, 156, 168)))
    c.box(0, 0.8, 1, 1, (98, 104, 118))
    for x, y in c.scatter(30, -0.05, 1):
        c.line([(x, y), (x - 0.025, y + 0.085)], (205, 218, 238))
    return c.picture


def sky(side: int, rng: Rng) -> Image.Image:
    """Blue and clouds, no ground."""
    c = Canvas(side, rng, ((70, 150, 240), (150, 205, 250)))
    for _ in range(2):
        c.clouds()
    for x, y in c.scatter(3, 0.7, 0.95):
        c.disc(x, y, 0.11, (252, 252, 255), 0.6)
    return c.picture


def brick_wall(side: int, rng: Rng) -> Image.Image:
    """Bricks in mortar."""
    c = Canvas(side, rng, ((215, 205, 195), (215, 205, 195)))
    tone = jitter((165, 78, 62), rng)
    for row in range(11):
        y, shift = row * 0.094, 0.11 * (row % 2)
        for x in np.arange(-0.22 + shift, 1, 0.22):
            c.box(x, y, x + 0.2, y + 0.075, tone)
    return c.picture


def grass(side: int, rng: Rng) -> Image.Image:
    """Blue sky, a meadow."""
    c = Canvas(side, rng, ((110, 190, 250), (205, 232, 250)))
    c.clouds()
    c.hills(rng.uniform(0.55, 0.66), 0.025, (105, 180, 70))
    for x, y in c.scatter(20, 0.72, 1):
        c.line([(x, y), (x + 0.012, y - 0.05)], (70, 145, 50))
    return c.picture


def garden(side: int, rng: Rng) -> Image.Image:
    """A meadow full of flowers."""
    c = Canvas(side, rng, ((130, 200, 250), (215, 238, 250)))
    c.hills(0.5, 0.02, (95, 170, 75))
    for x, y in c.scatter(24, 0.56, 0.98):
        tone = [(245, 90, 120), (250, 210, 60), (250, 250, 250), (170, 100, 220)][rng.integers(4)]
        c.disc(x, y, 0.022, tone)
    return c.picture


def space(side: int, rng: Rng) -> Image.Image:
    """Black, stars, one ringed planet."""
    c = Canvas(side, rng, ((6, 4, 14), (26, 8, 40)))
    for x, y in c.scatter(40, 0, 1):
        c.disc(x, y, 0.008, (235, 235, 255))
    x, y = rng.choice([0.15, 0.85]), rng.uniform(0.12, 0.25)
    c.disc(x, y, 0.17, (240, 190, 120), 0.22)
    c.disc(x, y, 0.1, (215, 110, 70))
    return c.picture


def wooden_floor(side: int, rng: Rng) -> Image.Image:
    """Planks seen from above."""
    tone = jitter((185, 130, 80), rng)
    c = Canvas(side, rng, (tone, tone))
    for row in range(6):
        y = row / 6
        c.box(0, y, 1, y + 0.155, tone)
        c.line([(0, y), (1, y)], (120, 78, 45))
        x = rng.random()
        c.line([(x, y), (x, y + 1 / 6)], (120, 78, 45))
    return c.picture


def street(side: int, rng: Rng) -> Image.Image:
    """A road with a dashed line and pavements."""
    c = Canvas(side, rng, ((150, 200, 240), (205, 225, 240)))
    c.box(0, 0.42, 1, 0.52, (190, 185, 175))
    c.box(0, 0.52, 1, 1, (88, 88, 94))
    for x in np.arange(-0.1 + 0.2 * rng.random(), 1, 0.3):
        c.box(x, 0.86, x + 0.16, 0.9, (240, 235, 200))
    return c.picture


def wheat_field(side: int, rng: Rng) -> Image.Image:
    """Golden stalks under a blue sky."""
    c = Canvas(side, rng, ((120, 185, 240), (215, 230, 240)))
    c.hills(0.45, 0.02, (225, 185, 80))
    for x, y in c.scatter(70, 0.55, 1.05):
        c.line([(x, y), (x + 0.01, y - 0.1)], jitter((200, 150, 50), rng))
    return c.picture


def autumn(side: int, rng: Rng) -> Image.Image:
    """Orange trees and fallen leaves."""
    c = Canvas(side, rng, ((200, 215, 225), (235, 230, 215)))
    for x in (0.12, 0.88, rng.uniform(0.35, 0.65)):
        c.box(x - 0.03, 0.25, x + 0.03, 0.7, (95, 65, 45))
        c.disc(x, 0.2, 0.18, jitter((225, 115, 35), rng, 25))
    c.hills(0.66, 0.02, (170, 125, 70))
    for x, y in c.scatter(26, 0.7, 1):
        c.disc(x, y, 0.02, jitter((215, 90, 35), rng, 30), 0.6)
    return c.picture


PLACES: dict[str, Callable[[int, Rng], Image.Image]] = {
    "in the snow": snow, "on a beach": beach, "at night": night, "in a forest": forest, "in the city": city,
    "under water": under_water, "in the desert": desert, "in the mountains": mountains, "in a room": room,
    "at sunset": sunset, "in the rain": rain, "in the sky": sky, "in front of a brick wall": brick_wall,
    "on the grass": grass, "in a garden": garden, "in space": space, "on a wooden floor": wooden_floor,
    "on a street": street, "in a wheat field": wheat_field, "in autumn": autumn,
}  # fmt: skip


def paint(place: str, side: int, rng: Rng) -> Image.Image:
    """Paint a place at twice the size and halve it, so that edges are smooth."""
    return PLACES[place](2 * side, rng).resize((side, side), Image.Resampling.BOX)


def paint_plain(colour: str, side: int, rng: Rng) -> Image.Image:
    """One colour."""
    return Image.new("RGB", (side, side), jitter(COLOURS[colour], rng))


def paint_pattern(pattern: str, first: str, second: str, side: int, rng: Rng) -> Image.Image:
    """Stripes, dots or checks of two colours."""
    picture = Image.new("RGB", (side, side), jitter(COLOURS[first], rng))
    pen, ink, cell = ImageDraw.Draw(picture), jitter(COLOURS[second], rng), side / 8
    for i in range(8):
        if pattern == "striped" and i % 2:
            pen.rectangle([i * cell, 0, (i + 1) * cell - 1, side], fill=ink)
        for j in range(8):
            x, y = i * cell, j * cell
            if pattern == "checkered" and (i + j) % 2:
                pen.rectangle([x, y, x + cell - 1, y + cell - 1], fill=ink)
            if pattern == "dotted":
                pen.ellipse([x + cell / 4, y + cell / 4, x + 3 * cell / 4, y + 3 * cell / 4], fill=ink)
    return picture
