"""Compose captioned scenes from drawings and places.

Grammar: [STYLE of] a [small | big] [COLOUR | MATERIAL] [NAME] NOUN [wearing a HAT | holding a THING] [upside down | lying on its side]
[next to a NOUN] [PLACE | on a COLOUR background | on a COLOUR rug]. Names are invented words. Each picks one *instance* of a noun:
one drawing, recoloured, reshaped, mirrored; so the text encoder learns that a word before the noun can select, which is what a
user's identifier has to do later (without names it never bound under prior preservation).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from starter_recipe.drawings import read_objects
from starter_recipe.materials import FILTERS, MATERIALS, apply_filter, make_of, turn_hues
from starter_recipe.places import COLOURS, PLACES, Rng, paint, paint_pattern, paint_plain, paint_rug

PHOTO_STYLES = ("a photo of", "a picture of", "an image of", "")
PATTERNS = ("striped", "dotted", "checkered")
TINTS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black", "white")
ALIVE = frozenset(
    "dog cat bear rabbit fox panda lion monkey penguin owl duck bird chick frog turtle elephant pig cow horse "
    "ghost robot monster snowman".split()
)
PLURALS = {"butterfly": "butterflies", "fox": "foxes", "fish": "fish", "octopus": "octopuses", "glasses": "glasses", "bus": "buses",
           "strawberry": "strawberries"}  # fmt: skip
ARTICLE = re.compile(r"\ba(?= [aeiou])")
NAMES_PER_NOUN = 6
NAMED_SHARE = 0.3
"""Of the scenes show a named individual."""
BACKDROPS_PER_PLACE = 40


def invented_names() -> list[str]:
    """The 90 words that name instances in captions: two syllables, none of them a word of the world."""
    return [
        a + b
        for a, b in product(
            ("bo", "zu", "ki", "mo", "ta", "lu", "ri", "ve", "no"),
            ("ba", "do", "fi", "ga", "mu", "pi", "ro", "su", "ta", "zo"),
        )
    ]


SHAPES = ((1.0, 1.0), (0.8, 1.0), (1.0, 0.8))
"""Width and height of a reshaped drawing, as parts of its square."""


@dataclass(frozen=True, slots=True)
class Look:
    """One drawing as it is shown: the turn of its hues (256ths of the circle), its proportions, mirrored or not."""

    drawing: str
    hue: int = 0
    shape: tuple[float, float] = (1.0, 1.0)
    mirrored: bool = False


@dataclass(frozen=True, slots=True)
class Instance:
    """One individual of a noun: its name and its look."""

    name: str
    look: Look


@dataclass(frozen=True, slots=True)
class Figure:
    """What a scene shows: a noun, how the drawing of it looks, and the words so far."""

    noun: str
    look: Look
    words: str

    def called(self, word: str) -> Figure:
        """The same figure with a word before its name and noun."""
        return replace(self, words=self.words.replace("a ", f"a {word} ", 1))


class World:
    """All drawings at hand, and the rules by which scenes are made of them.

    `side` is the pictures' side in pixels, `nouns` the table of `objects.toml` or another like it, `named` the share of scenes
    that show a named individual.
    """

    def __init__(
        self,
        drawings: Path,
        side: int = 64,
        seed: int = 0,
        *,
        nouns: dict[str, dict[str, list[str]]] | None = None,
        named: float = 0.3,
    ) -> None:
        objects = read_objects()
        nouns = nouns or dict[str, dict[str, list[str]]](objects["nouns"])
        self.side, self.named = side, named
        self.arts: dict[str, str] = objects["arts"]
        icons = {icon for kinds in nouns.values() for bodies in kinds.values() for icon in bodies} | set(
            objects["accessories"]
        )
        with np.load(drawings) as archive:
            self.drawings = {key: Image.fromarray(archive[key]) for key in archive.files if key.split("/")[1] in icons}
        self.bodies = {noun: self.find(kinds["bodies"]) for noun, kinds in nouns.items()}
        self.faces = {noun: self.find(kinds["faces"]) for noun, kinds in nouns.items() if "faces" in kinds}
        self.nouns = sorted(noun for noun, bodies in self.bodies.items() if bodies)
        # Nouns with more drawings and faces are harder; they are shown more often.
        weight = np.array([2 + len(self.bodies[n]) + len(self.faces.get(n, [])) for n in self.nouns], float)
        self.noun_odds = weight / weight.sum()
        self.accessories = [
            (facts["words"], facts["on"], self.find([icon])) for icon, facts in objects["accessories"].items()
        ]
        self.instances = {noun: self.name_instances(noun, seed) for noun in self.nouns}
        self.scaled: dict[tuple[Look, int], Image.Image] = {}
        self.backdrops: dict[str, list[Image.Image]] = {}
        self.seed = seed

    def find(self, icons: list[str]) -> list[str]:
        """Keys of every drawing of these icons, in every art that has them."""
        return [f"{art}/{icon}" for icon in icons for art in self.arts if f"{art}/{icon}" in self.drawings]

    def name_instances(self, noun: str, seed: int) -> list[Instance]:
        """Give a noun its named individuals; a name returns with other nouns, so that both words count."""
        rng = np.random.default_rng([seed, zlib.crc32(noun.encode())])
        bodies = self.bodies[noun]
        names = rng.choice(invented_names(), NAMES_PER_NOUN, replace=False)
        keys = rng.choice(bodies, NAMES_PER_NOUN, replace=len(bodies) < NAMES_PER_NOUN)
        hues = [0, *rng.permutation([40, 80, 120, 160, 200])[: NAMES_PER_NOUN - 1].tolist()]
        shapes, mirrored = rng.integers(len(SHAPES), size=NAMES_PER_NOUN), rng.random(NAMES_PER_NOUN) < 0.5
        return [
            Instance(str(names[i]), Look(str(keys[i]), int(hues[i]), SHAPES[shapes[i]], bool(mirrored[i])))
            for i in range(NAMES_PER_NOUN)
        ]

    def scale(self, look: Look, side: int) -> Image.Image:
        """A drawing as it looks at one size, remembered."""
        found = self.scaled.get((look, side))
        if found is None:
            width, height = (round(side * part) for part in look.shape)
            drawn = turn_hues(self.drawings[look.drawing], look.hue).resize((width, height), Image.Resampling.LANCZOS)
            if look.mirrored:
                drawn = drawn.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            found = Image.new("RGBA", (side, side))
            found.paste(drawn, ((side - width) // 2, (side - height) // 2))
            self.scaled[look, side] = found
        return found

    def backdrop(self, rng: Rng, difficulty: float) -> tuple[Image.Image, str]:
        """A background and the words for it: half plain colours, half places."""
        chance = rng.random()
        if chance < 0.42:
            colour = str(rng.choice(list(COLOURS)))
            return paint_plain(colour, self.side, rng), f"on a {colour} background"
        if chance < 0.42 + 0.05 * difficulty:
            pattern, (first, second) = str(rng.choice(PATTERNS)), rng.choice(list(COLOURS), 2, replace=False)
            return paint_pattern(
                pattern, first, second, self.side, rng
            ), f"on a {pattern} {first} and {second} background"
        if chance < 0.42 + 0.09 * difficulty:
            colour = str(rng.choice(list(COLOURS)))
            return paint_rug(colour, self.side, rng), f"on a {colour} rug"
        place = str(rng.choice(list(PLACES)))
        bank = self.backdrops.get(place)
        if bank is None:
            painter = np.random.default_rng([self.seed, sorted(PLACES).index(place)])
            bank = self.backdrops[place] = [paint(place, self.side, painter) for _ in range(BACKDROPS_PER_PLACE)]
        return bank[rng.integers(len(bank))].copy(), place

    def compose(
        self, rng: Rng, difficulty: float = 1.0, behind: tuple[Image.Image, str] | None = None
    ) -> tuple[Image.Image, str]:
        """Make one scene and its caption, in front of a backdrop of its own or of the one given with its words.

        `difficulty` runs from 0 (one centred drawing of one size) to 1 (sizes, positions, pairs, hats, views and filters at their
        full share): shapes are learned fastest from centred drawings, so training raises it with time.
        """
        picture, place = self.backdrop(rng, difficulty) if behind is None else (behind[0].copy(), behind[1])
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
        if rng.random() < self.named:
            individual = self.instances[noun][rng.integers(NAMES_PER_NOUN)]
            return Figure(noun, individual.look, f"a {individual.name} {noun}"), style
        face = noun in self.faces and rng.random() < 0.3
        keys = self.faces[noun] if face else self.bodies[noun]
        key = keys[rng.integers(len(keys))]
        if rng.random() < 0.45:
            style = f"a {self.arts[key.split('/')[0]]} of"
        return Figure(noun, Look(key), f"the face of a {noun}" if face else f"a {noun}"), style

    def put_figure(self, picture: Image.Image, rng: Rng, figure: Figure, difficulty: float) -> str:
        """Paste a figure into a scene, in one of the ways that the grammar knows; give the words for it."""
        chance = rng.random()
        if chance < 0.09:
            return self.put_made_of(picture, rng, figure, str(rng.choice(TINTS)))
        for share, put in ((0.05, self.put_material), (0.07, self.put_two), (0.10, self.put_accessory),
                           (0.07, self.put_sized), (0.05, self.put_view)):  # fmt: skip
            if 0.09 <= chance < 0.09 + share * difficulty:
                return put(picture, rng, figure)
            chance -= share * difficulty
        reach = round(self.side * 0.06 * difficulty)
        across, down = (int(shift) for shift in rng.integers(-reach, reach + 1, 2))
        drawing = self.scale(figure.look, self.usual_size(rng))
        middle = (self.side - drawing.width) // 2
        self.paste(picture, drawing, middle + across, middle + down)
        return figure.words

    def usual_size(self, rng: Rng) -> int:
        """Pixels along each side of a figure that no word calls small or big."""
        return round(self.side * rng.uniform(0.75, 0.81))

    def put_made_of(self, picture: Image.Image, rng: Rng, figure: Figure, word: str) -> str:
        """Put a figure in another colour or material."""
        drawing = make_of(self.scale(figure.look, self.usual_size(rng)), word, rng)
        self.paste(picture, drawing, (self.side - drawing.width) // 2, (self.side - drawing.width) // 2)
        return figure.called(word).words

    def put_material(self, picture: Image.Image, rng: Rng, figure: Figure) -> str:
        """Put a figure made of something."""
        return self.put_made_of(picture, rng, figure, str(rng.choice(list(MATERIALS))))

    def put_sized(self, picture: Image.Image, rng: Rng, figure: Figure) -> str:
        """Put a small figure anywhere near the ground, or a big one."""
        size, word = (round(self.side * 0.45), "small") if rng.random() < 0.5 else (round(self.side * 0.97), "big")
        room = self.side - size
        x, y = int(rng.integers(room + 1)), room - int(rng.integers(room // 3 + 1))
        self.paste(picture, self.scale(figure.look, size), x, y)
        return figure.called(word).words

    def put_view(self, picture: Image.Image, rng: Rng, figure: Figure) -> str:
        """Put a figure upside down or on its side."""
        drawing = self.scale(figure.look, self.usual_size(rng))
        turn, words = (
            (Image.Transpose.FLIP_TOP_BOTTOM, "upside down")
            if rng.random() < 0.5
            else (Image.Transpose.ROTATE_90, "lying on its side")
        )
        self.paste(picture, drawing.transpose(turn), (self.side - drawing.width) // 2, (self.side - drawing.width) // 2)
        return f"{figure.words} {words}"

    def put_accessory(self, picture: Image.Image, rng: Rng, figure: Figure) -> str:
        """Put a figure with something on its head, at its neck or at its side; things wear nothing and stand alone."""
        side = self.side
        if figure.noun not in ALIVE or figure.words.startswith("the "):
            self.paste(picture, self.scale(figure.look, round(side * 0.78)), round(side * 0.11), round(side * 0.11))
            return figure.words
        words, on, keys = self.accessories[rng.integers(len(self.accessories))]
        colour = str(rng.choice(TINTS)) if rng.random() < 0.4 else ""
        body = round(side * (0.66 if on == "head" else 0.76))
        left, top = ((side - body) // 2, side - body - 2) if on != "side" else (0, side - body - 1)
        thing = self.scale(
            Look(str(keys[rng.integers(len(keys))])), round(side * {"head": 0.34, "neck": 0.27, "side": 0.4}[on])
        )
        thing = make_of(thing, colour, rng) if colour else thing
        x, y = {
            "head": ((side - thing.width) // 2, round(side * 0.04)),
            "neck": ((side - thing.width) // 2, round(side * 0.52)),
            "side": (side - thing.width, round(side * 0.08)),
        }[on]
        self.paste(picture, self.scale(figure.look, body), left, top)
        self.paste(picture, thing, x, y)
        named = words if not colour else f"a {colour} {words.split(' ', 1)[1]}"
        return f"{figure.words} {'holding' if on == 'side' else 'wearing'} {named}"

    def put_two(self, picture: Image.Image, rng: Rng, figure: Figure) -> str:
        """Put two objects side by side: two of one noun, or one next to another."""
        small = round(self.side * 0.48)
        if rng.random() < 0.4 and figure.words == f"a {figure.noun}":
            other, words = figure.look, f"two {PLURALS.get(figure.noun, figure.noun + 's')}"
        else:
            second = str(rng.choice(self.nouns))
            other, words = Look(str(rng.choice(self.bodies[second]))), f"{figure.words} next to a {second}"
        low = self.side - small - round(self.side * 0.14)
        self.paste(picture, self.scale(figure.look, small), 1, low)
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
