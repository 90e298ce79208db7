"""Compose captioned scenes from drawings and places.

Grammar: [STYLE of] a [small | big] [COLOUR] [NAME] NOUN [wearing a HAT] [upside down] [next to a NOUN] [PLACE | on a COLOUR background].
Names are invented words. Each picks one *instance* of a noun: one drawing, recoloured; so the text encoder learns that a word
before the noun can select, which is what a user's identifier has to do later (without names it never bound under prior preservation).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from starter_recipe.drawings import read_objects
from starter_recipe.places import COLOURS, PLACES, Colour, Rng, paint, paint_pattern, paint_plain

PHOTO_STYLES = ("a photo of", "a picture of", "an image of", "")
FILTERS = ("a pencil sketch of", "a black and white photo of", "a watercolor painting of", "pixel art of")
PATTERNS = ("striped", "dotted", "checkered")
TINTS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black", "white")
ALIVE = frozenset(
    "dog cat bear rabbit fox panda lion monkey penguin owl duck bird chick frog turtle elephant pig cow horse "
    "ghost robot monster snowman".split()
)
PLURALS = {"butterfly": "butterflies", "fox": "foxes", "fish": "fish", "octopus": "octopuses", "glasses": "glasses", "bus": "buses",
           "strawberry": "strawberries"}  # fmt: skip
ARTICLE = re.compile(r"\ba(?= [aeiou])")
NAMES_PER_NOUN = 4
NAMED_SHARE = 0.3
"""Of the scenes show a named individual."""
BACKDROPS_PER_PLACE = 40


def invented_names() -> list[str]:
    """The 90 words that name instances in captions: two syllables, none of them a word of the world."""
    return [
        a + b
        for a, b in product(
            ("bo", "zu", "ki", "mo", "ta", "lu", "ri", "ve", "no"), ("ba", "do", "fi", "ga", "mu", "pi", "ro", "su", "ta", "zo")
        )
    ]


@dataclass(frozen=True, slots=True)
class Instance:
    """One individual of a noun: a drawing and the turn of its hues."""

    name: str
    drawing: str
    hue: int
    """Degrees / 360 * 256 by which every colour is turned."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What a scene shows: a noun, the drawing of it, the turn of its hues, and the words so far."""

    noun: str
    key: str
    hue: int
    words: str


def turn_hues(picture: Image.Image, hue: int) -> Image.Image:
    """Turn every hue of an RGBA drawing; blacks, grays and whites stay."""
    if hue == 0:
        return picture
    h, s, v = picture.convert("RGB").convert("HSV").split()
    turned = Image.merge("HSV", (h.point(lambda x: (x + hue) % 256), s, v)).convert("RGB")
    turned.putalpha(picture.getchannel("A"))
    return turned


def tint(picture: Image.Image, colour: Colour) -> Image.Image:
    """Paint a drawing in one colour and keep its light and dark."""
    gray = (
        np.asarray(
            ImageOps.autocontrast(picture.convert("L"), mask=picture.getchannel("A").point(lambda a: 255 if a > 128 else 0)), np.float32
        )
        / 255
    )
    tone = np.asarray(colour, np.float32)
    light = gray[..., None]
    shaded = np.where(light < 0.6, tone * (0.25 + light * 1.25), tone + (255 - tone) * (light - 0.6) * 0.9)
    painted = Image.fromarray(shaded.clip(0, 255).astype(np.uint8))
    painted.putalpha(picture.getchannel("A"))
    return painted


def apply_filter(style: str, picture: Image.Image) -> Image.Image:
    """Redraw a whole scene in one of the filter styles."""
    side = picture.width
    if style == "a black and white photo of":
        return picture.convert("L").convert("RGB")
    if style == "pixel art of":
        small = picture.resize((16, 16), Image.Resampling.BOX).quantize(24).convert("RGB")
        return small.resize((side, side), Image.Resampling.NEAREST)
    if style == "a watercolor painting of":
        soft = picture.filter(ImageFilter.ModeFilter(max(3, side // 16) | 1)).filter(ImageFilter.GaussianBlur(side / 64))
        return Image.blend(soft, Image.new("RGB", picture.size, (255, 250, 240)), 0.3)
    gray = picture.convert("L")
    edges = np.asarray(gray, np.float32) - np.asarray(gray.filter(ImageFilter.GaussianBlur(side / 28)), np.float32)
    ink = 250 - 4.0 * np.maximum(-edges, 0) - 0.12 * (255 - np.asarray(gray, np.float32))
    return Image.fromarray(ink.clip(0, 255).astype(np.uint8)).convert("RGB")


class World:
    """All drawings at hand, and the rules by which scenes are made of them. `side` is the pictures' side in pixels."""

    def __init__(self, drawings: Path, side: int = 64, seed: int = 0) -> None:
        objects = read_objects()
        self.side = side
        self.arts: dict[str, str] = objects["arts"]
        with np.load(drawings) as archive:
            self.drawings = {key: Image.fromarray(archive[key]) for key in archive.files}
        self.bodies = {noun: self.find(kinds["bodies"]) for noun, kinds in objects["nouns"].items()}
        self.faces = {noun: self.find(kinds["faces"]) for noun, kinds in objects["nouns"].items() if "faces" in kinds}
        self.nouns = sorted(self.bodies)
        # Nouns with more drawings and faces are harder; they are shown more often.
        weight = np.array([2 + len(self.bodies[n]) + len(self.faces.get(n, [])) for n in self.nouns], float)
        self.noun_odds = weight / weight.sum()
        self.hats = {words: self.find([icon]) for icon, words in objects["accessories"].items()}
        self.instances = self.name_instances(seed)
        self.scaled: dict[tuple[str, int, int], Image.Image] = {}
        self.backdrops: dict[str, list[Image.Image]] = {}
        self.seed = seed

    def find(self, icons: list[str]) -> list[str]:
        """Keys of every drawing of these icons, in every art that has them."""
        return [f"{art}/{icon}" for icon in icons for art in self.arts if f"{art}/{icon}" in self.drawings]

    def name_instances(self, seed: int) -> dict[str, list[Instance]]:
        """Give each noun its named individuals; a name returns with other nouns, so that both words count."""
        rng, names = np.random.default_rng(seed), invented_names()
        instances: dict[str, list[Instance]] = {}
        for noun in self.nouns:
            chosen = rng.choice(names, NAMES_PER_NOUN, replace=False)
            keys = rng.choice(self.bodies[noun], NAMES_PER_NOUN, replace=len(self.bodies[noun]) < NAMES_PER_NOUN)
            hues = [0, *rng.choice([48, 88, 128, 168, 208], NAMES_PER_NOUN - 1, replace=False).tolist()]
            instances[noun] = [Instance(str(n), str(k), int(h)) for n, k, h in zip(chosen, keys, hues, strict=True)]
        return instances

    def scale(self, key: str, side: int, hue: int = 0) -> Image.Image:
        """A drawing at one size and turn of hue, remembered."""
        found = self.scaled.get((key, side, hue))
        if found is None:
            found = turn_hues(self.drawings[key], hue).resize((side, side), Image.Resampling.LANCZOS)
            self.scaled[key, side, hue] = found
        return found

    def backdrop(self, rng: Rng, difficulty: float) -> tuple[Image.Image, str]:
        """A background and the words for it: half plain colours, half places."""
        chance = rng.random()
        if chance < 0.42:
            colour = str(rng.choice(list(COLOURS)))
            return paint_plain(colour, self.side, rng), f"on a {colour} background"
        if chance < 0.42 + 0.05 * difficulty:
            pattern, (first, second) = str(rng.choice(PATTERNS)), rng.choice(list(COLOURS), 2, replace=False)
            return paint_pattern(pattern, first, second, self.side, rng), f"on a {pattern} {first} and {second} background"
        place = str(rng.choice(list(PLACES)))
        bank = self.backdrops.get(place)
        if bank is None:
            painter = np.random.default_rng([self.seed, sorted(PLACES).index(place)])
            bank = self.backdrops[place] = [paint(place, self.side, painter) for _ in range(BACKDROPS_PER_PLACE)]
        return bank[rng.integers(len(bank))].copy(), place

    def compose(self, rng: Rng, difficulty: float = 1.0) -> tuple[Image.Image, str]:
        """Make one scene and its caption.

        `difficulty` runs from 0 (one centred drawing of one size) to 1 (sizes, positions, pairs, hats, views and filters at their
        full share): shapes are learned fastest from centred drawings, so training raises it with time.
        """
        picture, place = self.backdrop(rng, difficulty)
        figure, style = self.choose_figure(rng)
        words = self.put_figure(picture, rng, figure, difficulty)
        if rng.random() < 0.06 + 0.08 * difficulty:
            style = str(rng.choice(FILTERS))
            picture = apply_filter(style, picture)
        return picture, ARTICLE.sub("an", f"{style} {words} {place}".strip())

    def choose_figure(self, rng: Rng) -> tuple[Figure, str]:
        """Choose what to show and how the caption begins: a named individual, or any drawing of a noun, its art named or not."""
        noun = str(rng.choice(self.nouns, p=self.noun_odds))
        style = str(rng.choice(PHOTO_STYLES))
        if rng.random() < NAMED_SHARE:
            individual = self.instances[noun][rng.integers(NAMES_PER_NOUN)]
            return Figure(noun, individual.drawing, individual.hue, f"a {individual.name} {noun}"), style
        face = noun in self.faces and rng.random() < 0.3
        keys = self.faces[noun] if face else self.bodies[noun]
        key = keys[rng.integers(len(keys))]
        if rng.random() < 0.45:
            style = f"a {self.arts[key.split('/')[0]]} of"
        return Figure(noun, key, 0, f"the face of a {noun}" if face else f"a {noun}"), style

    def put_figure(self, picture: Image.Image, rng: Rng, figure: Figure, difficulty: float) -> str:
        """Paste a figure into a scene, in one of the ways that the grammar knows; give the words for it."""
        side, words = self.side, figure.words
        size = round(side * rng.uniform(0.75, 0.81))
        middle = (side - size) // 2
        event = rng.random()
        if event < 0.1:
            colour = str(rng.choice(TINTS))
            self.paste(picture, tint(self.scale(figure.key, size, figure.hue), COLOURS[colour]), middle, middle)
            return words.replace("a ", f"a {colour} ", 1)
        if event < 0.1 + 0.08 * difficulty:
            return self.put_two(picture, rng, figure)
        if event < 0.1 + 0.14 * difficulty and figure.noun in ALIVE and words.startswith("a "):
            return self.put_hat(picture, rng, figure)
        if event < 0.1 + 0.22 * difficulty:
            size, word = (round(side * 0.45), "small") if rng.random() < 0.5 else (round(side * 0.97), "big")
            room = side - size
            x, y = int(rng.integers(room + 1)), room - int(rng.integers(room // 3 + 1))
            self.paste(picture, self.scale(figure.key, size, figure.hue), x, y)
            return words.replace("a ", f"a {word} ", 1)
        drawing = self.scale(figure.key, size, figure.hue)
        if event < 0.1 + 0.26 * difficulty:
            self.paste(picture, drawing.transpose(Image.Transpose.FLIP_TOP_BOTTOM), middle, middle)
            return f"{words} upside down"
        reach = round(side * 0.06 * difficulty)
        across, down = (int(shift) for shift in rng.integers(-reach, reach + 1, 2))
        self.paste(picture, drawing, middle + across, middle + down)
        return words

    def put_hat(self, picture: Image.Image, rng: Rng, figure: Figure) -> str:
        """Put a figure and a hat on its head."""
        worn = str(rng.choice(list(self.hats)))
        body = round(self.side * 0.66)
        self.paste(picture, self.scale(figure.key, body, figure.hue), (self.side - body) // 2, self.side - body - 2)
        hat = self.scale(self.hats[worn][rng.integers(len(self.hats[worn]))], round(self.side * 0.34))
        self.paste(picture, hat, (self.side - hat.width) // 2, round(self.side * 0.04))
        return f"{figure.words} wearing {worn}"

    def put_two(self, picture: Image.Image, rng: Rng, figure: Figure) -> str:
        """Put two objects side by side: two of one noun, or one next to another."""
        small = round(self.side * 0.48)
        if rng.random() < 0.4 and figure.words == f"a {figure.noun}":
            other, words = figure.key, f"two {PLURALS.get(figure.noun, figure.noun + 's')}"
        else:
            second = str(rng.choice(self.nouns))
            other, words = self.bodies[second][rng.integers(len(self.bodies[second]))], f"{figure.words} next to a {second}"
        low = self.side - small - round(self.side * 0.14)
        self.paste(picture, self.scale(figure.key, small, figure.hue), 1, low)
        self.paste(picture, self.scale(other, small), self.side - small - 1, low)
        return words

    @staticmethod
    def paste(picture: Image.Image, drawing: Image.Image, x: int, y: int) -> None:
        """Lay a drawing over a scene."""
        picture.paste(drawing, (x, y), drawing)

    def stream(self, seed: list[int], difficulty: float = 1.0) -> Iterator[tuple[Image.Image, str]]:
        """Yield scenes for ever, the same ones for the same seed."""
        rng = np.random.default_rng(seed)
        while True:
            yield self.compose(rng, difficulty)
