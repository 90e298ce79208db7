"""Procedural backgrounds of landscapes, sky, water and space.

Each function takes a side in pixels and a random generator; coordinates do not depend on the side.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from starter_training.scenes.canvas import Canvas, Rng, jitter


def snow(side: int, rng: Rng) -> Image.Image:
    """Paint a pale sky, white ground and snowflakes."""
    c = Canvas(side, rng, ((170, 195, 225), (225, 235, 245)))
    c.hills(rng.uniform(0.55, 0.7), 0.02, (246, 249, 255))
    for x, y in c.scatter(26, 0, 1):
        c.disc(x, y, 0.014, (255, 255, 255))
    return c.image


def beach(side: int, rng: Rng) -> Image.Image:
    """Paint sky, sun, sea and sand."""
    c = Canvas(side, rng, ((90, 185, 245), (190, 230, 250)))
    c.disc(rng.uniform(0.1, 0.9), 0.14, 0.08, (255, 225, 90))
    level = rng.uniform(0.38, 0.5)
    c.box(0, level, 1, level + 0.22, (35, 150, 190))
    c.hills(level + 0.2, 0.01, (238, 215, 155))
    return c.image


def night(side: int, rng: Rng) -> Image.Image:
    """Paint a dark blue sky with stars and a moon."""
    c = Canvas(side, rng, ((14, 16, 48), (36, 40, 88)))
    for x, y in c.scatter(26, 0, 1):
        c.disc(x, y, 0.011, (255, 250, 205))
    x = rng.uniform(0.1, 0.9)
    c.disc(x, 0.15, 0.09, (250, 240, 190))
    c.disc(x + 0.04, 0.13, 0.075, (20, 22, 58))
    return c.image


def forest(side: int, rng: Rng) -> Image.Image:
    """Paint trunks and crowns in green shade over a dark floor."""
    c = Canvas(side, rng, ((70, 125, 75), (50, 100, 60)))
    for x, _ in c.scatter(6, 0, 1):
        c.box(x - 0.03, 0.1, x + 0.03, 0.8, (92, 62, 38))
    for x, y in c.scatter(9, 0, 0.2):
        c.disc(x, y, 0.16, jitter((40, 105, 50), rng))
    c.hills(0.74, 0.02, (58, 84, 42))
    return c.image


def under_water(side: int, rng: Rng) -> Image.Image:
    """Paint deep blue water with bubbles, weed and sand."""
    c = Canvas(side, rng, ((50, 175, 205), (15, 85, 140)))
    for x, _ in c.scatter(5, 0, 1):
        sway = rng.uniform(-0.05, 0.05)
        c.line([(x, 1), (x + sway, 0.82), (x - sway, 0.66)], (45, 150, 85), 0.03)
    for x, y in c.scatter(11, 0, 0.9):
        c.disc(x, y, rng.uniform(0.012, 0.03), (175, 228, 240))
    c.hills(0.93, 0.01, (205, 190, 135))
    return c.image


def desert(side: int, rng: Rng) -> Image.Image:
    """Paint dunes and a cactus under a hot sky."""
    c = Canvas(side, rng, ((250, 200, 130), (255, 230, 180)))
    c.hills(0.5, 0.05, (226, 170, 95))
    c.hills(0.68, 0.04, (205, 145, 75))
    x = rng.choice([0.12, 0.88])
    c.line([(x, 0.72), (x, 0.48)], (60, 130, 70), 0.05)
    c.line([(x - 0.07, 0.52), (x - 0.07, 0.6), (x, 0.6)], (60, 130, 70), 0.035)
    return c.image


def mountains(side: int, rng: Rng) -> Image.Image:
    """Paint peaks with snow caps behind a meadow."""
    c = Canvas(side, rng, ((125, 180, 235), (205, 228, 245)))
    for x in (0.15, 0.85, rng.uniform(0.35, 0.65)):
        top = rng.uniform(0.14, 0.28)
        c.shape([(x - 0.36, 0.76), (x, top), (x + 0.36, 0.76)], jitter((120, 122, 140), rng))
        c.shape([(x - 0.08, top + 0.13), (x, top), (x + 0.08, top + 0.13)], (250, 250, 255))
    c.hills(0.74, 0.02, (110, 165, 85))
    return c.image


def sunset(side: int, rng: Rng) -> Image.Image:
    """Paint a sky from purple to orange, a low sun and dark ground."""
    c = Canvas(side, rng, ((120, 60, 130), (255, 165, 75)))
    c.disc(rng.uniform(0.15, 0.85), 0.66, 0.14, (255, 220, 105))
    c.hills(0.74, 0.02, (70, 42, 62))
    return c.image


def rain(side: int, rng: Rng) -> Image.Image:
    """Paint a gray sky with slanted streaks over wet ground."""
    c = Canvas(side, rng, ((112, 118, 132), (152, 156, 168)))
    c.box(0, 0.8, 1, 1, (98, 104, 118))
    for x, y in c.scatter(30, -0.05, 1):
        c.line([(x, y), (x - 0.025, y + 0.085)], (205, 218, 238))
    return c.image


def sky(side: int, rng: Rng) -> Image.Image:
    """Paint a blue sky with clouds and no ground."""
    c = Canvas(side, rng, ((70, 150, 240), (150, 205, 250)))
    for _ in range(2):
        c.clouds()
    for x, y in c.scatter(3, 0.7, 0.95):
        c.disc(x, y, 0.11, (252, 252, 255), 0.6)
    return c.image


def grass(side: int, rng: Rng) -> Image.Image:
    """Paint a meadow under a blue sky."""
    c = Canvas(side, rng, ((110, 190, 250), (205, 232, 250)))
    c.clouds()
    c.hills(rng.uniform(0.55, 0.66), 0.025, (105, 180, 70))
    for x, y in c.scatter(20, 0.72, 1):
        c.line([(x, y), (x + 0.012, y - 0.05)], (70, 145, 50))
    return c.image


def garden(side: int, rng: Rng) -> Image.Image:
    """Paint a meadow full of flowers."""
    c = Canvas(side, rng, ((130, 200, 250), (215, 238, 250)))
    c.hills(0.5, 0.02, (95, 170, 75))
    for x, y in c.scatter(24, 0.56, 0.98):
        tone = [(245, 90, 120), (250, 210, 60), (250, 250, 250), (170, 100, 220)][rng.integers(4)]
        c.disc(x, y, 0.022, tone)
    return c.image


def space(side: int, rng: Rng) -> Image.Image:
    """Paint black space with stars and one ringed planet."""
    c = Canvas(side, rng, ((6, 4, 14), (26, 8, 40)))
    for x, y in c.scatter(40, 0, 1):
        c.disc(x, y, 0.008, (235, 235, 255))
    x, y = rng.choice([0.15, 0.85]), rng.uniform(0.12, 0.25)
    c.disc(x, y, 0.17, (240, 190, 120), 0.22)
    c.disc(x, y, 0.1, (215, 110, 70))
    return c.image


def wheat_field(side: int, rng: Rng) -> Image.Image:
    """Paint golden stalks under a blue sky."""
    c = Canvas(side, rng, ((120, 185, 240), (215, 230, 240)))
    c.hills(0.45, 0.02, (225, 185, 80))
    for x, y in c.scatter(70, 0.55, 1.05):
        c.line([(x, y), (x + 0.01, y - 0.1)], jitter((200, 150, 50), rng))
    return c.image


def autumn(side: int, rng: Rng) -> Image.Image:
    """Paint orange trees and fallen leaves."""
    c = Canvas(side, rng, ((200, 215, 225), (235, 230, 215)))
    for x in (0.12, 0.88, rng.uniform(0.35, 0.65)):
        c.box(x - 0.03, 0.25, x + 0.03, 0.7, (95, 65, 45))
        c.disc(x, 0.2, 0.18, jitter((225, 115, 35), rng, 25))
    c.hills(0.66, 0.02, (170, 125, 70))
    for x, y in c.scatter(26, 0.7, 1):
        c.disc(x, y, 0.02, jitter((215, 90, 35), rng, 30), 0.6)
    return c.image


def jungle(side: int, rng: Rng) -> Image.Image:
    """Paint a bright green thicket: fans of big leaves at every border, vines from above."""
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
    return c.image


def moon(side: int, rng: Rng) -> Image.Image:
    """Paint gray craters under a black sky with stars and the blue earth."""
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
    return c.image


def open_water(side: int, rng: Rng) -> Image.Image:
    """Paint calm water up to a high horizon, with ripples and rings around what floats."""
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
    return c.image


def cave(side: int, rng: Rng) -> Image.Image:
    """Paint a vault of dark rock around a bright opening, with stalactites above."""
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
    return c.image
