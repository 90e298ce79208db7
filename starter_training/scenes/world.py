"""What scenes are made of: scaled drawings, named individuals of each noun, painted backdrops."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from starter_training.drawings.objects import read_objects
from starter_training.scenes.backgrounds import PLACES, paint, paint_pattern, paint_plain, paint_rug
from starter_training.scenes.canvas import COLORS, Rng
from starter_training.scenes.caption_words import PATTERNS, PLUSH, invented_names
from starter_training.scenes.textures import sew, turn_hues

SIDE = 128
"""Pixels along each side of a scene that the base is trained on."""
NAMES_PER_NOUN = 6
NAMED_SHARE = 0.3
"""Share of scenes that show a named individual."""
BACKDROPS_PER_PLACE = 40
"""Backdrops that are painted once for each place and then reused."""
MOST_DRAWINGS = 20
"""Drawings from which on a noun is not shown more often."""
SHAPES = ((1.0, 1.0), (0.8, 1.0), (1.0, 0.8))
"""Width and height of a reshaped drawing, as shares of its square."""


@dataclass(frozen=True, slots=True)
class Look:
    """One drawing and how it is shown."""

    drawing: str
    """Key of the drawing: `art/icon`."""
    hue: int = 0
    """How far its hues are turned, in 256ths of the circle."""
    shape: tuple[float, float] = (1.0, 1.0)
    """Width and height, as shares of its square."""
    mirrored: bool = False
    plush: bool = False
    """Whether it is sewn of plush, as a stuffed animal."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One individual of a noun: its name and its look."""

    name: str
    look: Look


class World:
    """All drawings, individuals and backdrops from which scenes are composed.

    Args:
        drawings: the archive that `drawings.collect` writes.
        side: pixels along each side of a scene.
        seed: decides the individuals and the painted backdrops.
        nouns: noun -> `bodies` and perhaps `faces` -> icons; by default those of `objects.toml`.
        named: share of scenes that show a named individual.
    """

    def __init__(
        self,
        drawings: Path,
        side: int = SIDE,
        seed: int = 0,
        *,
        nouns: dict[str, dict[str, list[str]]] | None = None,
        named: float = NAMED_SHARE,
    ) -> None:
        objects = read_objects()
        nouns = nouns or objects["nouns"]
        self.side, self.named = side, named
        self.arts = objects["arts"]
        icons = {icon for kinds in nouns.values() for bodies in kinds.values() for icon in bodies}
        icons |= set(objects["accessories"])
        with np.load(drawings) as archive:
            self.drawings = {key: Image.fromarray(archive[key]) for key in archive.files if key.split("/")[1] in icons}
        self.bodies = {noun: self.find(kinds["bodies"]) for noun, kinds in nouns.items()}
        self.faces = {noun: self.find(kinds["faces"]) for noun, kinds in nouns.items() if "faces" in kinds}
        self.nouns = sorted(noun for noun, bodies in self.bodies.items() if bodies)
        # Nouns with more drawings and faces are harder; they are shown more often.
        drawings_of = [len(self.bodies[n]) + len(self.faces.get(n, [])) for n in self.nouns]
        weight = 4 + np.minimum(drawings_of, MOST_DRAWINGS).astype(float)
        self.noun_odds = weight / weight.sum()
        self.accessories = [
            (facts["words"], facts["on"], self.find([icon])) for icon, facts in objects["accessories"].items()
        ]
        """Words, position on the figure, and keys of the drawings of each accessory."""
        self.instances = {noun: name_instances(noun, self.bodies[noun], seed) for noun in self.nouns}
        self.scaled: dict[tuple[Look, int], Image.Image] = {}
        self.backdrops: dict[str, list[Image.Image]] = {}
        self.seed = seed

    def find(self, icons: list[str]) -> list[str]:
        """Return the keys of every drawing of these icons, in every art that has them."""
        return [f"{art}/{icon}" for icon in icons for art in self.arts if f"{art}/{icon}" in self.drawings]

    def scale(self, look: Look, side: int) -> Image.Image:
        """Return the drawing of a look on a transparent square of `side` pixels, from a cache."""
        found = self.scaled.get((look, side))
        if found is None:
            width, height = (round(side * part) for part in look.shape)
            figure = turn_hues(self.drawings[look.drawing], look.hue)
            figure = sew(figure) if look.plush else figure
            figure = figure.resize((width, height), Image.Resampling.LANCZOS)
            if look.mirrored:
                figure = figure.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            found = Image.new("RGBA", (side, side))
            found.paste(figure, ((side - width) // 2, (side - height) // 2))
            self.scaled[look, side] = found
        return found

    def kin(self, noun: str) -> list[str]:
        """Return a noun and all that share a drawing with it, as dog and puppy do."""
        own = {*self.bodies[noun], *self.faces.get(noun, [])}
        return [noun, *(n for n in self.nouns if n != noun and own & {*self.bodies[n], *self.faces.get(n, [])})]

    def any_look(self, noun: str, rng: Rng) -> Look:
        """Choose any drawing of a noun."""
        keys = self.bodies[noun]
        return Look(keys[rng.integers(len(keys))], plush=noun in PLUSH)

    def usual_size(self, rng: Rng) -> int:
        """Choose the side in pixels of a figure that no word calls small or big."""
        return round(self.side * rng.uniform(0.75, 0.81))

    def backdrop(self, rng: Rng, difficulty: float) -> tuple[Image.Image, str]:
        """Choose a background and the words for it: 42 % plain colors, most of the rest places.

        Patterns and rugs take up to 9 % at a difficulty of 1.
        """
        chance = rng.random()
        if chance < 0.42:
            color = str(rng.choice(list(COLORS)))
            return paint_plain(color, self.side, rng), f"on a {color} background"
        if chance < 0.42 + 0.05 * difficulty:
            pattern, (first, second) = str(rng.choice(PATTERNS)), rng.choice(list(COLORS), 2, replace=False)
            words = f"on a {pattern} {first} and {second} background"
            return paint_pattern(pattern, first, second, self.side, rng), words
        if chance < 0.42 + 0.09 * difficulty:
            color = str(rng.choice(list(COLORS)))
            return paint_rug(color, self.side, rng), f"on a {color} rug"
        place = str(rng.choice(list(PLACES)))
        bank = self.painted(place)
        return bank[rng.integers(len(bank))].copy(), place

    def painted(self, place: str) -> list[Image.Image]:
        """Return the backdrops of a place, painted at the first call.

        They depend on the world's seed and the place alone.
        """
        bank = self.backdrops.get(place)
        if bank is None:
            painter = np.random.default_rng([self.seed, sorted(PLACES).index(place)])
            bank = self.backdrops[place] = [paint(place, self.side, painter) for _ in range(BACKDROPS_PER_PLACE)]
        return bank


def name_instances(noun: str, bodies: list[str], seed: int) -> list[Instance]:
    """Give a noun its named individuals, six looks of its drawings.

    Most names occur with several nouns, so that the name and the noun both matter.

    Args:
        noun: decides the individuals, together with the seed.
        bodies: keys of the noun's drawings.
        seed: the world's seed.
    """
    rng = np.random.default_rng([seed, zlib.crc32(noun.encode())])
    names = rng.choice(invented_names(), NAMES_PER_NOUN, replace=False)
    keys = rng.choice(bodies, NAMES_PER_NOUN, replace=len(bodies) < NAMES_PER_NOUN)
    hues = [0, *rng.permutation([40, 80, 120, 160, 200])[: NAMES_PER_NOUN - 1].tolist()]
    shapes, mirrored = rng.integers(len(SHAPES), size=NAMES_PER_NOUN), rng.random(NAMES_PER_NOUN) < 0.5
    return [
        Instance(str(names[i]), Look(str(keys[i]), int(hues[i]), SHAPES[shapes[i]], bool(mirrored[i]), noun in PLUSH))
        for i in range(NAMES_PER_NOUN)
    ]


def paste(image: Image.Image, drawing: Image.Image, x: int, y: int) -> None:
    """Paste an RGBA drawing into a scene, its top left corner at (x, y)."""
    image.paste(drawing, (x, y), drawing)


def paste_centered(image: Image.Image, drawing: Image.Image) -> None:
    """Paste a square RGBA drawing into the middle of a square scene."""
    corner = (image.width - drawing.width) // 2
    paste(image, drawing, corner, corner)
