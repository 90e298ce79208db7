"""What every base is asked to draw: prompts by kind, each beside what the recipe's own world composes for the same words."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
from PIL import Image

from mascot.errors import UserError
from starter_recipe.materials import FILTERS, apply_filter
from starter_recipe.places import COLOURS, PLACES, Rng, paint, paint_plain
from starter_recipe.world import ALIVE, ARTICLE, TINTS, Figure, Look, World

EXAM = 1000
"""The first number of all seeds here: no training composes with it."""
AMONG = 100
"""Prompts from which the right one is to be found."""
LIKENESSES = 4
"""Composed pictures of each named individual."""
PATIENCE = 50
"""Scenes composed for each prompt wanted before a kind is said to have no more."""

Setting = Callable[[World, Rng], tuple[Image.Image, str]]
Put = Callable[[World, Image.Image, Rng, Figure], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A prompt, a picture that the world composed for it, and what is right about it."""

    prompt: str
    image: Image.Image
    nouns: tuple[str, ...] = ()
    """Naming any of these is right."""
    place: str = ""
    """The place that the prompt asks for, if it asks for one."""
    individual: int = 0
    """Which of its noun's named individuals is asked for; only the kind "names" asks."""
    seed: int = 0
    """Of the drawn picture's noise."""


Draw = Callable[[Sequence[Scene], float], list[Image.Image]]
"""Scenes and a guidance scale -> one picture for each scene."""


def anywhere(world: World, rng: Rng) -> tuple[Image.Image, str]:
    """Any background of the world, about which the prompt says nothing."""
    return world.backdrop(rng, 1.0)[0], ""


def in_a_place(world: World, rng: Rng) -> tuple[Image.Image, str]:
    """A place, painted anew."""
    place = str(rng.choice(list(PLACES)))
    return paint(place, world.side, rng), place


def on_a_colour(world: World, rng: Rng) -> tuple[Image.Image, str]:
    """A plain background."""
    colour = str(rng.choice(list(COLOURS)))
    return paint_plain(colour, world.side, rng), f"on a {colour} background"


def stand(world: World, image: Image.Image, rng: Rng, figure: Figure) -> str:
    """Put a figure in the middle, at the usual size, as it is."""
    drawing = world.scale(figure.look, world.usual_size(rng))
    middle = (world.side - drawing.width) // 2
    world.paste(image, drawing, middle, middle)
    return figure.words


def put_tinted(world: World, image: Image.Image, rng: Rng, figure: Figure) -> str:
    """Put a figure in another colour."""
    return world.put_made_of(image, rng, figure, str(rng.choice(TINTS)))


def any_look(world: World, rng: Rng, noun: str) -> Look:
    """One of a noun's drawings."""
    return Look(str(rng.choice(world.bodies[noun])))


def compose(
    world: World, rng: Rng, noun: str, *, setting: Setting = anywhere, put: Put = stand, style: str = "", look: Look | None = None,
    name: str = "",
) -> Scene:  # fmt: skip
    """Compose one scene of a kind, through the world's own ways of putting figures; its words are its prompt."""
    image, place = setting(world, rng)
    figure = Figure(noun, look or any_look(world, rng, noun), f"a {name} {noun}" if name else f"a {noun}")
    words = put(world, image, rng, figure)
    image = apply_filter(style, image) if style in FILTERS else image
    nouns = tuple(filter(None, (noun, words.partition(" next to a ")[2])))
    prompt = ARTICLE.sub("an", " ".join(filter(None, (style, words, place))))
    return Scene(prompt=prompt, image=image, nouns=nouns, place=place if place in PLACES else "")


def compose_styled(world: World, rng: Rng, noun: str) -> Scene:
    """Compose a scene in one of the filter styles, or of a drawing whose art is named; as often the one as the other."""
    look = any_look(world, rng, noun)
    style = str(rng.choice(FILTERS)) if rng.random() < 0.5 else f"a {world.arts[look.drawing.split('/')[0]]} of"
    return compose(world, rng, noun, style=style, look=look)


def compose_named(world: World, rng: Rng, noun: str) -> Scene:
    """Compose a scene of one of a noun's named individuals."""
    number = int(rng.integers(len(world.instances[noun])))
    individual = world.instances[noun][number]
    scene = compose(world, rng, noun, style="a photo of", look=individual.look, name=individual.name)
    return replace(scene, individual=number)


KINDS: Mapping[str, Callable[[World, Rng, str], Scene]] = {
    "plain": partial(compose, style="a photo of"),
    "places": partial(compose, setting=in_a_place),
    "backgrounds": partial(compose, setting=on_a_colour),
    "colours": partial(compose, put=put_tinted),
    "materials": partial(compose, put=World.put_material),
    "styles": compose_styled,
    "accessories": partial(compose, put=World.put_accessory),
    "views": partial(compose, put=World.put_view),
    "sizes": partial(compose, put=World.put_sized),
    "two things": partial(compose, put=World.put_two),
    "names": compose_named,
}
"""What is asked for -> how the world composes a prompt and a picture of it."""


def choose(world: World, kind: str, each: int, seed: int) -> list[Scene]:
    """Compose `each` scenes of a kind with different prompts, the nouns in turn; equal seeds give equal scenes.

    Raises:
        UserError: the kind has fewer prompts.
    """
    rng = np.random.default_rng([EXAM, seed, zlib.crc32(kind.encode())])
    nouns = rng.permutation([noun for noun in world.nouns if kind != "accessories" or noun in ALIVE]).tolist()
    found: dict[str, Scene] = {}
    for number in range(PATIENCE * each):
        scene = KINDS[kind](world, rng, nouns[number % len(nouns)])
        found.setdefault(scene.prompt, replace(scene, seed=picture_seed(seed, kind, len(found))))
        if len(found) == each:
            return list(found.values())
    raise UserError(f"the kind {kind!r} has only {len(found)} different prompts; give --each {len(found)} or fewer.")


def picture_seed(seed: int, kind: str, number: int) -> int:
    """The seed of one drawn picture: the same for every base, whatever else is drawn."""
    return zlib.crc32(f"{seed} {kind} {number}".encode())


def captioned(world: World, purpose: str, count: int, seed: int, *, distinct: bool = False) -> list[Scene]:
    """Compose scenes of all kinds as training composes them, with other seeds; on demand no caption twice."""
    stream = world.stream([EXAM, seed, zlib.crc32(purpose.encode())])
    if distinct:
        stream = iter({caption: (image, caption) for image, caption in islice(stream, 4 * count)}.values())
    scenes = [
        Scene(prompt=c, image=p, seed=picture_seed(seed, purpose, i)) for i, (p, c) in enumerate(islice(stream, count))
    ]
    assert len(scenes) == count
    return scenes


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """All that is asked of every base."""

    nouns: list[str]
    kinds: dict[str, list[Scene]]
    likenesses: dict[str, list[list[Image.Image]]]
    """Noun -> for each of its named individuals a few composed pictures; of the nouns that the kind "names" asks for."""
    retrieval: list[Scene]
    whole: list[Scene]
    """Captioned as in training: a set to compare as a whole."""
    fresh: list[Image.Image]
    """The set it is compared with."""


def write_exam(world: World, *, each: int, count: int, seed: int, among: int = AMONG) -> Exam:
    """Compose the whole exam; equal seeds give equal exams. A `count` of 0 leaves the comparison of sets out."""
    kinds = {kind: choose(world, kind, each, seed) for kind in KINDS}
    rng = np.random.default_rng([EXAM, seed])
    likenesses = {
        noun: [
            [compose(world, rng, noun, look=who.look).image for _ in range(LIKENESSES)] for who in world.instances[noun]
        ]
        for noun in sorted({scene.nouns[0] for scene in kinds["names"]})
    }
    return Exam(
        nouns=world.nouns,
        kinds=kinds,
        likenesses=likenesses,
        retrieval=captioned(world, "retrieval", among, seed, distinct=True),
        whole=captioned(world, "whole", count, seed),
        fresh=[scene.image for scene in captioned(world, "fresh", count, seed)],
    )
