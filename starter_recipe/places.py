"""Procedural backgrounds: each place is a function of a side in pixels and a random generator, at any resolution."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from starter_recipe.canvas import COLOURS, Canvas, Colour, Rng, jitter


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


def planks(side: int, rng: Rng, wood: Colour) -> Canvas:
    """Boards of a wood, seen from above, to paint on."""
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
    """Planks seen from above."""
    return planks(side, rng, (185, 130, 80)).picture


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


def jungle(side: int, rng: Rng) -> Image.Image:
    """A bright green thicket: fans of big leaves from every border, vines from above."""
    c = Canvas(side, rng, ((175, 225, 95), (45, 140, 60)))
    for x, y in c.scatter(34, 0.1, 0.95):
        c.leaf(x, y, rng.uniform(0, 6.28), rng.uniform(0.18, 0.28), (70 - int(35 * y), 160 - int(55 * y), 62))
    for x, _ in c.scatter(7, 0, 1):
        drop, sway = rng.uniform(0.3, 0.75), rng.uniform(-0.06, 0.06)
        c.line([(x, 0), (x + sway, drop / 2), (x, drop)], (30, 85, 38), 0.02)
        c.leaf(x, drop, rng.uniform(0.5, 2.6), 0.13, (60, 165, 60))
    for x, y, turn in (
        (0, 0.1, 0.5),
        (1, 0.1, 2.6),
        (0, 0.55, 0),
        (1, 0.55, 3.1),
        (0.1, 1.02, -1.2),
        (0.9, 1.02, -1.9),
    ):
        base, tone = y + rng.uniform(-0.1, 0.1), jitter((60, 190, 50), rng, 24)
        for spread in (-0.9, 0.9, -0.45, 0.45, 0):
            c.leaf(x, base, turn + spread + rng.uniform(-0.15, 0.15), rng.uniform(0.3, 0.42), jitter(tone, rng, 16))
    return c.picture


def cobblestones(side: int, rng: Rng) -> Image.Image:
    """House fronts above rows of rounded gray stones that grow towards us."""
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
    return c.picture


def moon(side: int, rng: Rng) -> Image.Image:
    """Gray craters under a black sky with stars and the blue earth."""
    c = Canvas(side, rng, ((5, 5, 10), (10, 10, 16)))
    for x, y in c.scatter(24, 0, 0.5):
        c.disc(x, y, 0.009, (245, 245, 250))
    x, y = rng.choice([0.14, 0.86]), rng.uniform(0.12, 0.2)
    c.disc(x, y, 0.09, (55, 125, 225))
    c.disc(x - 0.03, y - 0.01, 0.035, (90, 170, 90), 1.4)
    c.disc(x + 0.02, y - 0.05, 0.04, (245, 250, 255), 0.4)
    c.hills(rng.uniform(0.44, 0.52), 0.015, jitter((165, 165, 168), rng, 6))
    for row in (0.6, 0.74, 0.9):
        for x in np.arange(rng.uniform(-0.05, 0.12), 1.1, 0.27):
            r, y = rng.uniform(0.06, 0.11) * (row + 0.2), row + rng.uniform(-0.03, 0.03)
            c.disc(x, y, r, (205, 205, 208), 0.5)
            c.disc(x + 0.008, y + 0.008, 0.82 * r, (112, 112, 118), 0.46)
    return c.picture


def stage(side: int, rng: Rng) -> Image.Image:
    """Red curtains at both sides, a spotlight, boards."""
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
    return c.picture


def kitchen(side: int, rng: Rng) -> Image.Image:
    """A tiled wall, a shelf of jars, a counter, and a stove with a pot."""
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
        c.box(x, rng.uniform(0.1, 0.17), x + 0.065, 0.26, list(COLOURS.values())[rng.integers(7)])
    return c.picture


def open_water(side: int, rng: Rng) -> Image.Image:
    """Calm water up to a high horizon, ripples, rings around what floats."""
    c = Canvas(side, rng, ((190, 225, 245), (225, 240, 245)))
    level = rng.uniform(0.1, 0.18)
    for i, y in enumerate(np.linspace(level, 1, 12)):
        c.box(0, y, 1, 1, (75 - 5 * i, 185 - 6 * i, 205 - 3 * i))
    for x, y in c.scatter(34, level + 0.04, 1):
        reach = 0.03 + 0.09 * y
        tone = (165, 225, 232) if rng.random() < 0.6 else (15, 95, 140)
        c.disc(x, y, reach, tone, 0.09)
    y = rng.uniform(0.76, 0.82)
    for r in (0.36, 0.43, 0.5):
        c.ring(0.5, y, r, (190, 236, 240), squash=0.3)
    return c.picture


def house(side: int, rng: Rng) -> Image.Image:
    """A wide house: roof, chimney, door at one side, windows, a lawn."""
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
    return c.picture


def cave(side: int, rng: Rng) -> Image.Image:
    """A vault of dark rock around an opening full of light, stalactites above."""
    c = Canvas(side, rng, ((52, 42, 38), (84, 70, 60)))
    mouth = rng.uniform(0.35, 0.65)
    turns = np.linspace(0, 2 * np.pi, 15)[:-1]
    for reach, tone in ((0.44, (74, 60, 52)), (0.36, (104, 86, 72)), (0.27, (215, 228, 205))):
        radii = reach * rng.uniform(0.82, 1.15, len(turns))
        c.shape([(mouth + r * np.cos(t), 0.5 + 1.25 * r * np.sin(t)) for r, t in zip(radii, turns, strict=True)], tone)
    c.hills(0.78, 0.02, (92, 78, 66))
    for x in np.arange(rng.uniform(-0.02, 0.05), 1.05, 0.12):
        half, tip = rng.uniform(0.04, 0.07), rng.uniform(0.14, 0.3) + 0.15 * abs(x - 0.5)
        c.shape([(x - half, 0), (x + half, 0), (x, tip)], jitter((122, 102, 86), rng, 14))
        c.shape([(x, 0), (x + half, 0), (x, tip)], (38, 31, 29))
    for x in (rng.uniform(0.02, 0.14), rng.uniform(0.86, 0.98)):
        c.shape([(x - 0.09, 1), (x, rng.uniform(0.62, 0.74)), (x + 0.09, 1)], jitter((122, 102, 86), rng, 14))
    return c.picture


PLACES: dict[str, Callable[[int, Rng], Image.Image]] = {
    "in the snow": snow, "on a beach": beach, "at night": night, "in a forest": forest, "in the city": city,
    "under water": under_water, "in the desert": desert, "in the mountains": mountains, "in a room": room,
    "at sunset": sunset, "in the rain": rain, "in the sky": sky, "in front of a brick wall": brick_wall,
    "on the grass": grass, "in a garden": garden, "in space": space, "on a wooden floor": wooden_floor,
    "on a street": street, "in a wheat field": wheat_field, "in autumn": autumn, "in the jungle": jungle,
    "on a cobblestone street": cobblestones, "on the moon": moon, "on a stage": stage, "in a kitchen": kitchen,
    "floating on water": open_water, "in front of a house": house, "in a cave": cave,
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


FLOORS: tuple[Colour, ...] = ((185, 130, 80), (228, 216, 198))


def paint_rug(colour: str, side: int, rng: Rng) -> Image.Image:
    """A big rug of a colour, oval or fringed, on a floor of boards that it stands out from."""
    tone = jitter(COLOURS[colour], rng)
    floors = [floor for floor in FLOORS if np.linalg.norm(np.subtract(COLOURS[colour], floor)) > 90]
    c = planks(2 * side, rng, floors[rng.integers(len(floors))])
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
    return c.picture.resize((side, side), Image.Resampling.BOX)
