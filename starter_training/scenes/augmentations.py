"""Views of one subject in different scenes and looks: the identity encoder's training images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from starter_training.scenes.canvas import Rng
from starter_training.scenes.caption_words import TINTS
from starter_training.scenes.textures import FILTERS, apply_filter, make_of, turn_hues
from starter_training.scenes.world import Look, World, paste

CROWD_SIZES = (0.14, 0.2, 0.28, 0.4)
"""Sides of the drawings in a crowd, as shares of the scene's."""
HUES = (0, 40, 80, 120, 160, 200)
"""Turns of hue that make a drawing another individual, in 256ths of the circle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """Shares of views with each kind of change."""

    restyled: float = 0.35
    """Filtered as a whole."""
    recolored: float = 0.3
    softened: float = 0.4
    """Blurred."""
    dressed: float = 0.08
    """With an accessory."""
    lit: float = 0.3
    """With another brightness, contrast and saturation."""


TRAINING = Variation()
PLAIN = Variation(restyled=0, recolored=0)
"""Views in the subject's own colors and style, in any scene and pose."""


@dataclass(frozen=True, slots=True)
class DrawingFamily:
    """Drawings of one thing by several artists.

    Each drawing is a subject of its own; the others are its look-alikes.
    """

    keys: tuple[str, ...]


def families_of(world: World) -> list[DrawingFamily]:
    """Group the world's drawings by icon, in sorted order."""
    by_icon: dict[str, list[str]] = {}
    for key in sorted(world.drawings):
        by_icon.setdefault(key.split("/")[1], []).append(key)
    return [DrawingFamily(tuple(keys)) for _, keys in sorted(by_icon.items())]


def choose_subjects(families: list[DrawingFamily], rng: Rng, count: int) -> list[Look]:
    """Choose `count` subjects in pairs of look-alikes.

    A pair is one thing by two artists, or one drawing with two turns of its hues where only one
    artist drew the thing.
    """
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
    """Compose one view of a subject, `world.side` pixels square.

    The scene, size and position are random. Half of the views are turned by up to 20 degrees, and
    half are mirrored.
    """
    image, _ = world.backdrop(rng, 1.0)
    size = round(world.side * rng.uniform(0.4, 0.95))
    drawing = vary_drawing(world, look, rng, variation).resize((size, size), Image.Resampling.BOX)
    room = world.side - size
    x, y = (int(rng.integers(-room // 4, room + room // 4 + 1)) for _ in range(2))
    paste(image, drawing, x, y)
    if rng.random() < variation.dressed:
        _, _, keys = world.accessories[rng.integers(len(world.accessories))]
        accessory = world.scale(Look(str(rng.choice(keys))), round(size * 0.4))
        paste(image, accessory, x + size // 2 - accessory.width // 2, y - accessory.width // 4)
    return finish(image, rng, variation)


def vary_drawing(world: World, look: Look, rng: Rng, variation: Variation) -> Image.Image:
    """Recolor, mirror and turn a subject's drawing, each with its share."""
    drawing = world.drawings[look.drawing]
    drawing = world.scale(look, 96) if look.hue else drawing
    if rng.random() < variation.recolored:
        drawing = (
            make_of(drawing, str(rng.choice(TINTS)), rng)
            if rng.random() < 0.5
            else turn_hues(drawing, int(rng.choice(HUES[1:])))
        )
    if rng.random() < 0.5:
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.5:
        drawing = drawing.rotate(rng.uniform(-20, 20), Image.Resampling.BILINEAR)
    return drawing


def finish(image: Image.Image, rng: Rng, variation: Variation) -> Image.Image:
    """Vary style, light and sharpness, as a camera or a decoder does.

    Generated images are softer than composed ones, so views are blurred too.
    """
    if rng.random() < variation.restyled:
        image = apply_filter(str(rng.choice(FILTERS)), image)
    if rng.random() < variation.lit:
        image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.75, 1.25))
        image = ImageEnhance.Contrast(image).enhance(rng.uniform(0.75, 1.25))
        image = ImageEnhance.Color(image).enhance(rng.uniform(0.7, 1.3))
    if rng.random() < variation.softened:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.1)))
    return image


def generate_views(
    world: World, looks: list[Look], rng: Rng, count: int, variation: Variation = TRAINING
) -> NDArray[np.uint8]:
    """Compose `count` views of each subject, a subject's views side by side.

    Returns:
        Shape (subjects x count) x H x W x 3, uint8.
    """
    return np.stack([np.asarray(show(world, look, rng, variation)) for look in looks for _ in range(count)])


def crowd(world: World, rng: Rng) -> Image.Image:
    """Compose a scene of 8 to 24 small drawings: the autoencoder's lesson in small details."""
    image, _ = world.backdrop(rng, 1.0)
    keys = sorted(world.drawings)
    for _ in range(rng.integers(8, 25)):
        size = round(world.side * rng.choice(CROWD_SIZES))
        look = Look(keys[rng.integers(len(keys))], int(rng.choice(HUES)), mirrored=rng.random() < 0.5)
        paste(image, world.scale(look, size), *rng.integers(-size // 3, world.side - 2 * size // 3, 2).tolist())
    return image
