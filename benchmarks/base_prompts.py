"""Prompts for measuring a base, by kind, each with a composed image of the same words."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
from PIL import Image

from mascot.errors import UserError
from starter_training.scenes.backgrounds import PLACES, paint, paint_plain
from starter_training.scenes.canvas import COLORS, Rng
from starter_training.scenes.caption_words import ALIVE, ARTICLE, SECOND, TINTS
from starter_training.scenes.scene_grammar import (
    Figure,
    paste_in_material,
    paste_made_of,
    paste_pair,
    paste_resized,
    paste_turned,
    paste_with_accessory,
    stream,
)
from starter_training.scenes.textures import FILTERS, apply_filter
from starter_training.scenes.world import Look, World, paste_centered

SEED_PREFIX = 1000
"""First number of all seeds here; no training composes scenes with it."""
RETRIEVAL_PROMPTS = 100
"""Prompts among which the right one has to be found."""
IMAGES_EACH = 4
"""Composed images of each named individual."""
ATTEMPTS = 50
"""Scenes composed for each wanted prompt before a kind is considered exhausted."""

Background = Callable[[World, Rng], tuple[Image.Image, str]]
Paste = Callable[[World, Image.Image, Rng, Figure], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A prompt, an image that the world composed for it, and the right answers about it."""

    prompt: str
    image: Image.Image
    nouns: tuple[str, ...] = ()
    """Naming any of these is right: the prompt's nouns, and those that share drawings with them."""
    place: str = ""
    """The place in the prompt, or an empty text."""
    individual: int = 0
    """Index of the named individual among its noun's; only the kind "names" uses it."""
    seed: int = 0
    """Seed of the generated image's noise."""


Generate = Callable[[Sequence[Scene], float], list[Image.Image]]
"""Scenes and a guidance scale -> one generated image for each scene."""


def any_background(world: World, rng: Rng) -> tuple[Image.Image, str]:
    """Choose any background of the world, which the prompt does not mention."""
    return world.backdrop(rng, 1.0)[0], ""


def place_background(world: World, rng: Rng) -> tuple[Image.Image, str]:
    """Paint a new background of a random place."""
    place = str(rng.choice(list(PLACES)))
    return paint(place, world.side, rng), place


def color_background(world: World, rng: Rng) -> tuple[Image.Image, str]:
    """Paint a plain background of a random color."""
    color = str(rng.choice(list(COLORS)))
    return paint_plain(color, world.side, rng), f"on a {color} background"


def paste_unchanged(world: World, image: Image.Image, rng: Rng, figure: Figure) -> str:
    """Paste a figure in the middle, at the usual size, and return its words."""
    paste_centered(image, world.scale(figure.look, world.usual_size(rng)))
    return figure.words


def paste_tinted(world: World, image: Image.Image, rng: Rng, figure: Figure) -> str:
    """Paste a figure in another color and return the words for it."""
    return paste_made_of(world, image, rng, figure, str(rng.choice(TINTS)))


def compose_kind(
    world: World,
    rng: Rng,
    noun: str,
    *,
    background: Background = any_background,
    paste: Paste = paste_unchanged,
    style: str = "",
    look: Look | None = None,
    name: str = "",
) -> Scene:
    """Compose one scene of a kind; its words are its prompt.

    Args:
        world: the drawings and backdrops.
        rng: decides the scene.
        noun: what the scene shows.
        background: paints the background and returns its words.
        paste: pastes the figure and returns its words.
        style: words at the start of the prompt; a filter style also filters the image.
        look: the figure's look; by default any drawing of the noun.
        name: name of the individual, if it has one.
    """
    image, place = background(world, rng)
    figure = Figure(noun, look or world.any_look(noun, rng), f"a {name} {noun}" if name else f"a {noun}")
    words = paste(world, image, rng, figure)
    image = apply_filter(style, image) if style in FILTERS else image
    second = SECOND.search(words)
    asked = (noun,) if second is None else (noun, second.group(1))
    nouns = tuple(dict.fromkeys(alike for one in asked for alike in world.kin(one)))
    prompt = ARTICLE.sub("an", " ".join(filter(None, (style, words, place))))
    return Scene(prompt=prompt, image=image, nouns=nouns, place=place if place in PLACES else "")


def compose_styled(world: World, rng: Rng, noun: str) -> Scene:
    """Compose a scene in a filter style, or of a drawing whose art is named."""
    look = world.any_look(noun, rng)
    style = str(rng.choice(FILTERS)) if rng.random() < 0.5 else f"a {world.arts[look.drawing.split('/')[0]]} of"
    return compose_kind(world, rng, noun, style=style, look=look)


def compose_named(world: World, rng: Rng, noun: str) -> Scene:
    """Compose a scene of one of a noun's named individuals."""
    index = int(rng.integers(len(world.instances[noun])))
    individual = world.instances[noun][index]
    scene = compose_kind(world, rng, noun, style="a photo of", look=individual.look, name=individual.name)
    return replace(scene, individual=index)


KINDS: Mapping[str, Callable[[World, Rng, str], Scene]] = {
    "plain": partial(compose_kind, style="a photo of"),
    "places": partial(compose_kind, background=place_background),
    "backgrounds": partial(compose_kind, background=color_background),
    "colours": partial(compose_kind, paste=paste_tinted),
    "materials": partial(compose_kind, paste=paste_in_material),
    "styles": compose_styled,
    "accessories": partial(compose_kind, paste=paste_with_accessory),
    "views": partial(compose_kind, paste=paste_turned),
    "sizes": partial(compose_kind, paste=paste_resized),
    "two things": partial(compose_kind, paste=paste_pair),
    "names": compose_named,
}
"""Kind of prompt -> how the world composes one; the kind's name is part of its seed."""


def choose(world: World, kind: str, each: int, seed: int) -> list[Scene]:
    """Compose `each` scenes of a kind with different prompts, the nouns in turn.

    Equal seeds give equal scenes.

    Raises:
        UserError: the kind has fewer prompts.
    """
    rng = np.random.default_rng([SEED_PREFIX, seed, zlib.crc32(kind.encode())])
    nouns = rng.permutation([noun for noun in world.nouns if kind != "accessories" or noun in ALIVE]).tolist()
    found: dict[str, Scene] = {}
    for number in range(ATTEMPTS * each):
        scene = KINDS[kind](world, rng, nouns[number % len(nouns)])
        found.setdefault(scene.prompt, replace(scene, seed=image_seed(seed, kind, len(found))))
        if len(found) == each:
            return list(found.values())
    raise UserError(f"the kind {kind!r} has only {len(found)} different prompts; give --each {len(found)} or fewer.")


def image_seed(seed: int, kind: str, number: int) -> int:
    """Return the seed of one generated image: the same for every base and every other option."""
    return zlib.crc32(f"{seed} {kind} {number}".encode())


def captioned_scenes(world: World, purpose: str, count: int, seed: int, *, distinct: bool = False) -> list[Scene]:
    """Compose scenes of all kinds as training does, with other seeds.

    Args:
        world: the drawings and backdrops.
        purpose: is part of the seed.
        count: number of scenes.
        seed: decides the scenes.
        distinct: whether no two scenes have the same caption.
    """
    scenes = stream(world, [SEED_PREFIX, seed, zlib.crc32(purpose.encode())])
    if distinct:
        scenes = iter({caption: (image, caption) for image, caption in islice(scenes, 4 * count)}.values())
    found = [
        Scene(prompt=caption, image=image, seed=image_seed(seed, purpose, i))
        for i, (image, caption) in enumerate(islice(scenes, count))
    ]
    assert len(found) == count
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class BasePrompts:
    """All prompts for which bases generate images, and the composed images to compare with."""

    nouns: list[str]
    kinds: dict[str, list[Scene]]
    individuals: dict[str, list[list[Image.Image]]]
    """Noun -> a few composed images of each named individual; for the nouns of the kind "names"."""
    retrieval: list[Scene]
    set_scenes: list[Scene]
    """Scenes captioned as in training, to compare as a set by the Frechet distance."""
    reference_set: list[Image.Image]
    """The set of composed images with which they are compared."""


def compose_prompts(world: World, *, each: int, count: int, seed: int, among: int = RETRIEVAL_PROMPTS) -> BasePrompts:
    """Compose all prompts; equal seeds give equal prompts.

    Args:
        world: the drawings and backdrops.
        each: prompts of each kind.
        count: scenes in a set; 0 omits the comparison of sets.
        seed: decides everything.
        among: prompts for retrieval.
    """
    kinds = {kind: choose(world, kind, each, seed) for kind in KINDS}
    rng = np.random.default_rng([SEED_PREFIX, seed])
    individuals = {
        noun: [
            [compose_kind(world, rng, noun, look=individual.look).image for _ in range(IMAGES_EACH)]
            for individual in world.instances[noun]
        ]
        for noun in sorted({scene.nouns[0] for scene in kinds["names"]})
    }
    return BasePrompts(
        nouns=world.nouns,
        kinds=kinds,
        individuals=individuals,
        retrieval=captioned_scenes(world, "retrieval", among, seed, distinct=True),
        set_scenes=captioned_scenes(world, "whole", count, seed),
        reference_set=[scene.image for scene in captioned_scenes(world, "fresh", count, seed)],
    )
