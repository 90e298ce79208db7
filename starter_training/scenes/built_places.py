"""Procedural backgrounds of streets, buildings, floors and rooms.

Each function takes a side in pixels and a random generator; coordinates do not depend on the side.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from starter_training.scenes.canvas import COLORS, Canvas, Color, Rng, jitter


def city(side: int, rng: Rng) -> Image.Image:
    """Paint towers with lit windows behind a road."""
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
    return c.image


def room(side: int, rng: Rng) -> Image.Image:
    """Paint a wall with a window above floor boards."""
    wall = [(250, 215, 200), (222, 236, 205), (208, 222, 240), (245, 235, 200)][rng.integers(4)]
    c = Canvas(side, rng, (wall, wall))
    x = rng.choice([0.07, 0.67])
    c.box(x, 0.09, x + 0.26, 0.37, (255, 255, 255))
    c.box(x + 0.025, 0.115, x + 0.235, 0.345, (145, 200, 245))
    c.box(x + 0.118, 0.1, x + 0.142, 0.36, (255, 255, 255))
    c.box(0, 0.7, 1, 1, (170, 118, 72))
    for y in (0.8, 0.9):
        c.line([(0, y), (1, y)], (140, 94, 55))
    return c.image


def brick_wall(side: int, rng: Rng) -> Image.Image:
    """Paint bricks in mortar."""
    c = Canvas(side, rng, ((215, 205, 195), (215, 205, 195)))
    tone = jitter((165, 78, 62), rng)
    for row in range(11):
        y, shift = row * 0.094, 0.11 * (row % 2)
        for x in np.arange(-0.22 + shift, 1, 0.22):
            c.box(x, y, x + 0.2, y + 0.075, tone)
    return c.image


def planks(side: int, rng: Rng, wood: Color) -> Canvas:
    """Paint wooden boards seen from above, on a canvas that the caller may paint on."""
    tone = jitter(wood, rng)
    seam = (wood[0] * 13 // 20, wood[1] * 12 // 20, wood[2] * 9 // 16)
    c = Canvas(side, rng, (tone, tone))
    for row in range(6):
        y = row / 6
        c.box(0, y, 1, y + 0.155, tone)
        c.line([(0, y), (1, y)], seam)
        x = rng.random()
        c.line([(x, y), (x, y + 1 / 6)], seam)
    return c


def wooden_floor(side: int, rng: Rng) -> Image.Image:
    """Paint wooden boards seen from above."""
    return planks(side, rng, (185, 130, 80)).image


def street(side: int, rng: Rng) -> Image.Image:
    """Paint a road with a dashed line and pavements."""
    c = Canvas(side, rng, ((150, 200, 240), (205, 225, 240)))
    c.box(0, 0.42, 1, 0.52, (190, 185, 175))
    c.box(0, 0.52, 1, 1, (88, 88, 94))
    for x in np.arange(-0.1 + 0.2 * rng.random(), 1, 0.3):
        c.box(x, 0.86, x + 0.16, 0.9, (240, 235, 200))
    return c.image


def cobblestones(side: int, rng: Rng) -> Image.Image:
    """Paint house fronts above rows of rounded gray stones that grow towards the viewer."""
    c = Canvas(side, rng, ((150, 195, 235), (205, 225, 240)))
    fronts = rng.permutation(np.array([(235, 200, 130), (215, 140, 115), (190, 205, 215), (240, 225, 205)]))
    for i, front in enumerate(fronts.tolist()):
        x, top = i / 4, rng.uniform(0.02, 0.12)
        c.box(x, top, x + 0.24, 0.4, front)
        for wx, wy in ((0.04, 0.06), (0.14, 0.06), (0.04, 0.18), (0.14, 0.18)):
            c.box(x + wx, top + wy, x + wx + 0.06, top + wy + 0.08, (75, 80, 100))
    c.box(0, 0.38, 1, 1, (70, 70, 76))
    y, height = 0.39, 0.055
    while y < 1:
        for x in np.arange(-2 * height * rng.random(), 1, 1.7 * height):
            gray = int(rng.integers(130, 190))
            c.stone(x, y, x + 1.5 * height, y + 0.86 * height, jitter((gray, gray, gray + 4), rng, 5))
        y, height = y + height, 1.16 * height
    return c.image


def stage(side: int, rng: Rng) -> Image.Image:
    """Paint red curtains at both sides, a spotlight and boards."""
    c = Canvas(side, rng, ((40, 22, 48), (62, 34, 62)))
    floor, aim = rng.uniform(0.72, 0.78), rng.uniform(0.4, 0.6)
    c.box(0, floor, 1, 1, (150, 98, 58))
    for x in np.linspace(-0.6, 1.6, 16):
        c.line([(0.5 + 0.6 * (x - 0.5), floor), (x, 1)], (105, 64, 36))
    lamp = rng.uniform(0.25, 0.75)
    c.shape([(lamp - 0.05, 0), (lamp + 0.05, 0), (aim + 0.36, floor + 0.1), (aim - 0.36, floor + 0.1)], (150, 128, 118))
    c.disc(aim, floor + 0.11, 0.37, (250, 228, 165), 0.26)
    red, width = jitter((190, 26, 36), rng, 16), rng.uniform(0.035, 0.045)
    for i in range(5):
        fold = (red[0] - 60 * (i % 2), red[1] - 14 * (i % 2), red[2] - 14 * (i % 2))
        for x in (i * width, 1 - (i + 1) * width):
            c.box(x, 0, x + width, floor + 0.1, fold)
    for i in range(8):
        c.disc(i / 7, 0.03, 0.09, (red[0] - 30 * (i % 2), red[1], red[2]), 1.1)
    return c.image


def kitchen(side: int, rng: Rng) -> Image.Image:
    """Paint a tiled wall, a shelf of jars, a counter, and a stove with a pot."""
    tile = [(225, 240, 240), (200, 230, 215), (250, 240, 205), (205, 225, 245)][rng.integers(4)]
    c = Canvas(side, rng, (tile, tile))
    for v in np.arange(0, 1, 0.1):
        c.line([(v, 0), (v, 0.66)], (168, 182, 186))
        c.line([(0, v), (1, v)], (168, 182, 186))
    c.box(0, 0.62, 1, 1, [(240, 236, 226), (120, 165, 160), (205, 165, 120)][rng.integers(3)])
    c.box(0, 0.6, 1, 0.67, (110, 74, 50))
    stove, shelf = ((0.02, 0.62), (0.66, 0.04))[rng.integers(2)]
    c.box(stove, 0.6, stove + 0.34, 1, (58, 60, 66))
    c.box(stove + 0.05, 0.76, stove + 0.29, 0.95, (240, 165, 70))
    for x in np.arange(stove + 0.06, stove + 0.3, 0.07):
        c.disc(x, 0.69, 0.018, (230, 230, 232))
    c.box(stove + 0.05, 0.46, stove + 0.25, 0.59, jitter((205, 70, 60), rng, 30))
    c.box(stove + 0.01, 0.485, stove + 0.29, 0.515, (50, 50, 56))
    c.box(shelf, 0.26, shelf + 0.3, 0.3, (120, 80, 52))
    for x in np.arange(shelf + 0.02, shelf + 0.26, 0.09):
        c.box(x, rng.uniform(0.1, 0.17), x + 0.065, 0.26, list(COLORS.values())[rng.integers(7)])
    return c.image


def house(side: int, rng: Rng) -> Image.Image:
    """Paint a wide house with roof, chimney, door at one side and windows, on a lawn."""
    c = Canvas(side, rng, ((120, 190, 245), (205, 230, 250)))
    wall = [(250, 225, 150), (240, 240, 232), (240, 180, 165), (170, 205, 225)][rng.integers(4)]
    eaves, trim = rng.uniform(0.3, 0.36), (252, 252, 252)
    x, roof = rng.choice([0.2, 0.7]), jitter((175, 62, 48), rng, 25)
    c.box(x, 0.02, x + 0.1, 0.25, (140, 80, 65))
    c.box(0.05, eaves, 0.95, 0.86, wall)
    c.shape([(-0.02, eaves + 0.03), (0.16, 0.09), (0.84, 0.09), (1.02, eaves + 0.03)], roof)
    door, window = ((0.08, 0.74), (0.74, 0.08))[rng.integers(2)]
    c.box(door, 0.52, door + 0.18, 0.86, jitter((105, 62, 40), rng, 30))
    c.disc(door + 0.15, 0.7, 0.014, (240, 210, 90))
    for x, y in ((window, 0.56), (window, 0.4), (0.41, 0.44), (door, 0.39)):
        high = 0.1 if y < 0.5 else 0.18
        c.box(x, y, x + 0.18, y + high, trim)
        c.box(x + 0.02, y + 0.02, x + 0.08, y + high - 0.02, (95, 150, 200))
        c.box(x + 0.1, y + 0.02, x + 0.16, y + high - 0.02, (95, 150, 200))
    c.hills(0.86, 0.008, (100, 175, 75))
    return c.image
