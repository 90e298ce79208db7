"""Pictures of one subject in different scenes, views, sizes and looks: what the identity encoder learns to hold together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from starter_recipe.materials import FILTERS, apply_filter, make_of, turn_hues
from starter_recipe.places import Rng
from starter_recipe.world import TINTS, Look, World

HUES = (0, 40, 80, 120, 160, 200)
"""Turns of hue that make a drawing another individual."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """Shares of views that are redrawn in a style, recoloured, blurred, wear something, differ in light."""

    restyled: float = 0.35
    recoloured: float = 0.3
    softened: float = 0.4
    dressed: float = 0.08
    lit: float = 0.3


TRAINING = Variation()
PLAIN = Variation(restyled=0, recoloured=0)
"""A subject as it is, in any scene and view."""


@dataclass(frozen=True, slots=True)
class Family:
    """Drawings of one thing by several artists: each is a subject of its own, and the others are its look-alikes."""

    keys: tuple[str, ...]


def families_of(world: World) -> list[Family]:
    """Every icon of the world with all of its drawings."""
    by_icon: dict[str, list[str]] = {}
    for key in sorted(world.drawings):
        by_icon.setdefault(key.split("/")[1], []).append(key)
    return [Family(tuple(keys)) for _, keys in sorted(by_icon.items())]


def choose_subjects(families: list[Family], rng: Rng, count: int) -> list[Look]:
    """Choose `count` subjects in pairs of look-alikes: one thing by two artists, or one drawing with its hues turned where it has one."""
    looks: list[Look] = []
    for number in rng.choice(len(families), count // 2, replace=False):
        keys = families[number].keys
        hue = int(rng.choice(HUES)) if rng.random() < 0.5 else 0
        if len(keys) > 1:
            looks += [Look(str(key), hue) for key in rng.choice(keys, 2, replace=False)]
        else:
            key = str(rng.choice(keys))
            looks += [Look(key, int(turn)) for turn in rng.choice(HUES, 2, replace=False)]
    return looks


def show(world: World, look: Look, rng: Rng, variation: Variation = TRAINING) -> Image.Image:
    """One view of a subject, `world.side` pixels square: any scene, size, place, turn of up to 20 degrees, mirrored half of the time."""
    picture, _ = world.backdrop(rng, 1.0)
    size = round(world.side * rng.uniform(0.4, 0.95))
    drawing = world.drawings[look.drawing]
    drawing = world.scale(look, 96) if look.hue else drawing
    if rng.random() < variation.recoloured:
        drawing = (
            make_of(drawing, str(rng.choice(TINTS)), rng)
            if rng.random() < 0.5
            else turn_hues(drawing, int(rng.choice(HUES[1:])))
        )
    if rng.random() < 0.5:
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.5:
        drawing = drawing.rotate(rng.uniform(-20, 20), Image.Resampling.BILINEAR)
    drawing = drawing.resize((size, size), Image.Resampling.BOX)
    room = world.side - size
    x, y = (int(rng.integers(-room // 4, room + room // 4 + 1)) for _ in range(2))
    world.paste(picture, drawing, x, y)
    if rng.random() < variation.dressed:
        _, _, keys = world.accessories[rng.integers(len(world.accessories))]
        applied = world.scale(Look(str(rng.choice(keys))), round(size * 0.4))
        world.paste(picture, applied, x + size // 2 - applied.width // 2, y - applied.width // 4)
    return finish(picture, rng, variation)


def finish(picture: Image.Image, rng: Rng, variation: Variation) -> Image.Image:
    """Vary what a camera or a decoder varies: style, light, sharpness. A drawn picture is softer than a composed one."""
    if rng.random() < variation.restyled:
        picture = apply_filter(str(rng.choice(FILTERS)), picture)
    if rng.random() < variation.lit:
        picture = ImageEnhance.Brightness(picture).enhance(rng.uniform(0.75, 1.25))
        picture = ImageEnhance.Contrast(picture).enhance(rng.uniform(0.75, 1.25))
        picture = ImageEnhance.Color(picture).enhance(rng.uniform(0.7, 1.3))
    if rng.random() < variation.softened:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.1)))
    return picture


def draw_views(world: World, looks: list[Look], rng: Rng, count: int, variation: Variation = TRAINING) -> np.ndarray:
    """`count` views of each subject: (subjects x count) x H x W x 3 uint8, a subject's views side by side."""
    return np.stack([np.asarray(show(world, look, rng, variation)) for look in looks for _ in range(count)])
