"""Backgrounds of scenes: places by the words of their captions, plain colors, patterns and rugs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from starter_training.scenes import built_places, landscapes
from starter_training.scenes.canvas import COLORS, Color, Rng, jitter

FLOORS: tuple[Color, ...] = ((185, 130, 80), (228, 216, 198))
"""Woods of the floor below a rug."""

PLACES: dict[str, Callable[[int, Rng], Image.Image]] = {
    "in the snow": landscapes.snow,
    "on a beach": landscapes.beach,
    "at night": landscapes.night,
    "in a forest": landscapes.forest,
    "in the city": built_places.city,
    "under water": landscapes.under_water,
    "in the desert": landscapes.desert,
    "in the mountains": landscapes.mountains,
    "in a room": built_places.room,
    "at sunset": landscapes.sunset,
    "in the rain": landscapes.rain,
    "in the sky": landscapes.sky,
    "in front of a brick wall": built_places.brick_wall,
    "on the grass": landscapes.grass,
    "in a garden": landscapes.garden,
    "in space": landscapes.space,
    "on a wooden floor": built_places.wooden_floor,
    "on a street": built_places.street,
    "in a wheat field": landscapes.wheat_field,
    "in autumn": landscapes.autumn,
    "in the jungle": landscapes.jungle,
    "on a cobblestone street": built_places.cobblestones,
    "on the moon": landscapes.moon,
    "on a stage": built_places.stage,
    "in a kitchen": built_places.kitchen,
    "floating on water": landscapes.open_water,
    "in front of a house": built_places.house,
    "in a cave": landscapes.cave,
}
"""Words of the caption -> painter; the order is part of what a seed decides."""


def paint(place: str, side: int, rng: Rng) -> Image.Image:
    """Paint a place at twice the size and halve it, so that edges are smooth."""
    return PLACES[place](2 * side, rng).resize((side, side), Image.Resampling.BOX)


def paint_plain(color: str, side: int, rng: Rng) -> Image.Image:
    """Paint a background of one color, slightly varied."""
    return Image.new("RGB", (side, side), jitter(COLORS[color], rng))


def paint_pattern(pattern: str, first: str, second: str, side: int, rng: Rng) -> Image.Image:
    """Paint stripes, dots or checks of two colors.

    Args:
        pattern: `striped`, `dotted` or `checkered`.
        first: color of the ground, a key of `COLORS`.
        second: color of the pattern, a key of `COLORS`.
        side: pixels along each side.
        rng: decides the exact tones.
    """
    image = Image.new("RGB", (side, side), jitter(COLORS[first], rng))
    pen, ink, cell = ImageDraw.Draw(image), jitter(COLORS[second], rng), side / 8
    for i in range(8):
        if pattern == "striped" and i % 2:
            pen.rectangle([i * cell, 0, (i + 1) * cell - 1, side], fill=ink)
        for j in range(8):
            x, y = i * cell, j * cell
            if pattern == "checkered" and (i + j) % 2:
                pen.rectangle([x, y, x + cell - 1, y + cell - 1], fill=ink)
            if pattern == "dotted":
                pen.ellipse([x + cell / 4, y + cell / 4, x + 3 * cell / 4, y + 3 * cell / 4], fill=ink)
    return image


def paint_rug(color: str, side: int, rng: Rng) -> Image.Image:
    """Paint a big rug of a color, oval or fringed, on a floor of boards with clear contrast."""
    tone = jitter(COLORS[color], rng)
    floors = [floor for floor in FLOORS if np.linalg.norm(np.subtract(COLORS[color], floor)) > 90]
    c = built_places.planks(2 * side, rng, floors[rng.integers(len(floors))])
    r, g, b = tone
    edge = (r * 7 // 10, g * 7 // 10, b * 7 // 10) if r + g + b > 150 else (92, 92, 98)
    left, top = rng.uniform(0.02, 0.06), rng.uniform(0.1, 0.16)
    if rng.random() < 0.5:
        for inset, ink in ((0, tone), (0.04, edge), (0.065, tone)):
            c.disc(0.5, 0.54, 0.5 - left - inset, ink, 0.86)
    else:
        for x in np.arange(left + 0.04, 0.97 - left, 0.035):
            c.line([(x, top - 0.04), (x, 1 - top / 2 + 0.04)], edge)
        for inset, ink in ((0, tone), (0.04, edge), (0.065, tone)):
            c.pen.rectangle(
                [2 * side * v for v in (left + inset, top + inset, 1 - left - inset, 1 - top / 2 - inset)], fill=ink
            )
    return c.image.resize((side, side), Image.Resampling.BOX)
