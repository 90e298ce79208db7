"""Compose captioned scenes from the drawings and backdrops of a world.

Grammar of a caption:

    [STYLE of] a [small | big] [COLOR | MATERIAL] [NAME] NOUN
    [wearing a HAT | holding a THING] [upside down | lying on its side]
    [next to a NOUN | and a NOUN | to the left of a NOUN | to the right of a NOUN]
    [PLACE | on a COLOR background | on a COLOR rug]

Names are invented words. A name picks one *instance* of its noun: one drawing, recolored, reshaped
and mirrored. So the text encoder learns that a word before the noun can select an individual, which
is what a user's identifier token has to do later. Without names, the model never bound the
identifier to the subject under prior preservation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from starter_training.scenes.canvas import Rng
from starter_training.scenes.caption_words import ALIVE, ARTICLE, BESIDE, PHOTO_STYLES, PLURALS, PLUSH, RIGHT_OF, TINTS
from starter_training.scenes.textures import FILTERS, MATERIALS, apply_filter, make_of
from starter_training.scenes.world import NAMES_PER_NOUN, Look, World, paste, paste_centered

SILENT_SHARE = 0.16
"""Share of captions that do not say what is behind the figure.

A color of the figure then says nothing about the background.
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """What a scene shows: a noun, the look of its drawing, and the words so far."""

    noun: str
    look: Look
    words: str

    def with_adjective(self, word: str) -> Figure:
        """Return the same figure with a word before its name and noun."""
        return replace(self, words=self.words.replace("a ", f"a {word} ", 1))


def stream(world: World, seed: list[int], difficulty: float = 1.0) -> Iterator[tuple[Image.Image, str]]:
    """Yield scenes and captions forever, the same ones for the same seed."""
    rng = np.random.default_rng(seed)
    while True:
        yield compose(world, rng, difficulty)


def compose(
    world: World, rng: Rng, difficulty: float = 1.0, behind: tuple[Image.Image, str] | None = None
) -> tuple[Image.Image, str]:
    """Compose one scene and its caption.

    Args:
        world: the drawings and backdrops.
        rng: decides the scene.
        difficulty: from 0 (one centered drawing of one size) to 1 (sizes, positions, pairs,
            accessories, views and filters at their full share). Shapes are learned fastest from
            centered drawings, so training raises it with time.
        behind: a backdrop and its words; by default the world chooses one.
    """
    image, place = world.backdrop(rng, difficulty) if behind is None else (behind[0].copy(), behind[1])
    place = "" if behind is None and rng.random() < SILENT_SHARE else place
    figure, style = choose_figure(world, rng)
    words = paste_figure(world, image, rng, figure, difficulty)
    if rng.random() < 0.06 + 0.08 * difficulty:
        style = str(rng.choice(FILTERS))
        image = apply_filter(style, image)
    return image, ARTICLE.sub("an", f"{style} {words} {place}".strip())


def choose_figure(world: World, rng: Rng) -> tuple[Figure, str]:
    """Choose a figure and the style words at the start of the caption.

    The figure is a named individual, or any drawing of a noun, with or without the name of its art.
    """
    noun = str(rng.choice(world.nouns, p=world.noun_odds))
    style = str(rng.choice(PHOTO_STYLES))
    if rng.random() < world.named:
        individual = world.instances[noun][rng.integers(NAMES_PER_NOUN)]
        return Figure(noun, individual.look, f"a {individual.name} {noun}"), style
    face = noun in world.faces and rng.random() < 0.3
    keys = world.faces[noun] if face else world.bodies[noun]
    key = keys[rng.integers(len(keys))]
    if rng.random() < 0.45:
        style = f"a {world.arts[key.split('/')[0]]} of"
    look = Look(key, plush=noun in PLUSH)
    return Figure(noun, look, f"the face of a {noun}" if face else f"a {noun}"), style


def paste_figure(world: World, image: Image.Image, rng: Rng, figure: Figure, difficulty: float) -> str:
    """Paste a figure into a scene in one of the grammar's ways and return the words for it."""
    chance = rng.random()
    if chance < 0.09:
        return paste_made_of(world, image, rng, figure, str(rng.choice(TINTS)))
    for share, way in (
        (0.05, paste_in_material),
        (0.22, paste_pair),
        (0.10, paste_with_accessory),
        (0.10, paste_resized),
        (0.08, paste_turned),
    ):
        if 0.09 <= chance < 0.09 + share * difficulty:
            return way(world, image, rng, figure)
        chance -= share * difficulty
    reach = round(world.side * 0.06 * difficulty)
    across, down = (int(shift) for shift in rng.integers(-reach, reach + 1, 2))
    drawing = world.scale(figure.look, world.usual_size(rng))
    middle = (world.side - drawing.width) // 2
    paste(image, drawing, middle + across, middle + down)
    return figure.words


def paste_made_of(world: World, image: Image.Image, rng: Rng, figure: Figure, word: str) -> str:
    """Paste a figure in another color or material and return the words for it."""
    paste_centered(image, make_of(world.scale(figure.look, world.usual_size(rng)), word, rng))
    return figure.with_adjective(word).words


def paste_in_material(world: World, image: Image.Image, rng: Rng, figure: Figure) -> str:
    """Paste a figure in a random material and return the words for it."""
    return paste_made_of(world, image, rng, figure, str(rng.choice(list(MATERIALS))))


def paste_resized(world: World, image: Image.Image, rng: Rng, figure: Figure) -> str:
    """Paste a small figure near the ground or a big one, and return the words for it."""
    word, share = ("small", 0.45) if rng.random() < 0.65 else ("big", 0.97)
    size = round(world.side * share)
    room = world.side - size
    x, y = int(rng.integers(room + 1)), room - int(rng.integers(room // 3 + 1))
    paste(image, world.scale(figure.look, size), x, y)
    return figure.with_adjective(word).words


def paste_turned(world: World, image: Image.Image, rng: Rng, figure: Figure) -> str:
    """Paste a figure upside down or on its side and return the words for it."""
    drawing = world.scale(figure.look, world.usual_size(rng))
    upside_down = rng.random() < 0.5
    turn = Image.Transpose.FLIP_TOP_BOTTOM if upside_down else Image.Transpose.ROTATE_90
    paste_centered(image, drawing.transpose(turn))
    return f"{figure.words} {'upside down' if upside_down else 'lying on its side'}"


def paste_with_accessory(world: World, image: Image.Image, rng: Rng, figure: Figure) -> str:
    """Paste a figure with an accessory on its head, at its neck or at its side.

    Things that are not alive, and faces, get none. Returns the words for the figure.
    """
    side = world.side
    if figure.noun not in ALIVE or figure.words.startswith("the "):
        paste(image, world.scale(figure.look, round(side * 0.78)), round(side * 0.11), round(side * 0.11))
        return figure.words
    words, on, keys = world.accessories[rng.integers(len(world.accessories))]
    color = str(rng.choice(TINTS)) if rng.random() < 0.4 else ""
    body = round(side * (0.66 if on == "head" else 0.76))
    left, top = ((side - body) // 2, side - body - 2) if on != "side" else (0, side - body - 1)
    thing = world.scale(
        Look(str(keys[rng.integers(len(keys))])), round(side * {"head": 0.34, "neck": 0.27, "side": 0.4}[on])
    )
    thing = make_of(thing, color, rng) if color else thing
    x, y = {
        "head": ((side - thing.width) // 2, round(side * 0.04)),
        "neck": ((side - thing.width) // 2, round(side * 0.52)),
        "side": (side - thing.width, round(side * 0.08)),
    }[on]
    paste(image, world.scale(figure.look, body), left, top)
    paste(image, thing, x, y)
    named = words if not color else f"a {color} {words.split(' ', 1)[1]}"
    return f"{figure.words} {'holding' if on == 'side' else 'wearing'} {named}"


def paste_pair(world: World, image: Image.Image, rng: Rng, figure: Figure) -> str:
    """Paste two of one noun, or two nouns side by side, and return the words for them.

    The noun that is named first is at the left, except before "to the right of".
    """
    small = round(world.side * 0.48)
    left = figure.look
    if rng.random() < 0.3 and figure.words == f"a {figure.noun}":
        right, words = figure.look, f"two {PLURALS.get(figure.noun, figure.noun + 's')}"
    else:
        second = str(rng.choice(world.nouns))
        right = world.any_look(second, rng)
        if rng.random() < 0.12:
            left, right, words = right, left, f"{figure.words}{RIGHT_OF}{second}"
        else:
            words = f"{figure.words}{rng.choice(BESIDE, p=(0.6, 0.25, 0.15))}{second}"
    low = world.side - small - round(world.side * 0.14)
    paste(image, world.scale(left, small), 1, low)
    paste(image, world.scale(right, small), world.side - small - 1, low)
    return words
