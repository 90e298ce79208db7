"""Pictures of held-out subjects that an encoder is tried on: galleries in which to find them, and ladders from one thing to another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from starter_recipe.drawings import SIDE as DRAWN
from starter_recipe.drawings import read_icons, read_objects, render_icon, trim
from starter_recipe.materials import FILTERS, apply_filter, make_of, turn_hues
from starter_recipe.places import COLOURS, PLACES, Rng
from starter_recipe.portraits import Pose, backdrop, contrast, portrait, pose_on
from starter_recipe.subjects import draw_subject
from starter_recipe.views import HUES, PLAIN, show
from starter_recipe.world import ARTICLE, PHOTO_STYLES, TINTS, Look, World

SIDE = 64
"""Pixels along each side of every picture drawn here."""
SCENES, RANKS = 100, (1, 5)
QUERIES = 13
"""Queries of each subject in each condition: 208 with 16 subjects."""
BLENDS = 4
"""Blends of each subject in each test of sensitivity."""
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
CLEAR = 60.0
"""Least contrast of a figure with its backdrop; below it the figure melts into its scene."""
SWAPPED = "backdrop swapped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One held-out drawing, and the drawings that are easily taken for it."""

    name: str
    noun: str
    key: str
    """Art and icon, as the world names a drawing."""
    drawing: Image.Image
    """RGBA."""
    look_alikes: Mapping[str, Image.Image]
    """The same thing by other artists, and the noun's drawings that training showed."""


@dataclass(slots=True)
class Condition:
    """One retrieval test: pictures, whom each of them shows, and queries with the gallery that each is looked up in."""

    name: str
    images: list[Image.Image] = field(default_factory=list[Image.Image])
    owners: list[str] = field(default_factory=list[str])
    trials: list[tuple[int, list[int]]] = field(default_factory=list[tuple[int, list[int]]])

    def add(self, owner: str, image: Image.Image) -> int:
        """Take in a picture; give its number."""
        self.images.append(image)
        self.owners.append(owner)
        return len(self.images) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """Pictures from one thing to another, one for each of ALPHAS, and the caption that the first of them fits."""

    subject: str
    caption: str
    images: list[Image.Image]


Sight = Callable[[Subject, Rng], Image.Image]
"""A way to draw one view of a subject."""


def read_subjects(modules: Path, known: World) -> list[Subject]:
    """Draw the held-out subjects of `objects.toml` and their look-alikes; raises UserError where an art lacks its subject."""
    objects = read_objects()
    arts = {art: read_icons(modules, art) for art in objects["arts"]}
    subjects: list[Subject] = []
    for name, facts in objects["held_out"].items():
        icon, own, noun = facts["icon"], facts["art"], facts["noun"]
        rendered = {f"{art}/{icon}": render_icon(icons, icon, 2 * DRAWN) for art, icons in arts.items() if art != own}
        same_thing = {key: trim(image) for key, image in rendered.items() if image is not None}
        same_noun = {key: known.drawings[key] for key in known.bodies[noun]}
        drawing = draw_subject(facts, arts[own]).resize((DRAWN, DRAWN), Image.Resampling.LANCZOS)
        subjects.append(
            Subject(name=name, noun=noun, key=f"{own}/{icon}", drawing=drawing, look_alikes=same_thing | same_noun)
        )
    return subjects


def world_of(subjects: Sequence[Subject], accessories: Mapping[str, Image.Image], seed: int) -> World:
    """Make a world whose only drawings, accessories aside, are the subjects, each called by its noun and in its own art."""
    nouns: dict[str, dict[str, list[str]]] = {}
    for subject in subjects:
        nouns.setdefault(subject.noun, {"bodies": []})["bodies"].append(subject.key.split("/")[1])
    drawings: dict[str, Any] = {key: np.asarray(image) for key, image in accessories.items()}
    drawings |= {subject.key: np.asarray(subject.drawing) for subject in subjects}
    with TemporaryDirectory() as folder:
        np.savez(Path(folder) / "drawings.npz", **drawings)
        return World(Path(folder) / "drawings.npz", SIDE, seed, nouns=nouns, named=0.0)


def distinct_scenes(world: World, rng: Rng, count: int = SCENES) -> list[tuple[Image.Image, str]]:
    """Compose captioned scenes, no two of which ask for the same: `a photo of a dog` counts as `a image of a dog`."""
    scenes: dict[str, tuple[Image.Image, str]] = {}
    while len(scenes) < count:
        image, caption = world.compose(rng)
        style = next(style for style in PHOTO_STYLES if caption.startswith(style))  # the last of them is empty
        scenes.setdefault(caption.removeprefix(style).strip(), (image, caption))
    return list(scenes.values())


def draw_pose(rng: Rng) -> Pose:
    """Stand anywhere near the middle, 55 to 90 % of the side, at most 15 degrees off the upright."""
    right, down = rng.uniform(-0.08, 0.08, 2)
    return Pose(size=rng.uniform(0.55, 0.9), shift=(float(right), float(down)), turn=rng.uniform(-15, 15))


def clear_backdrops(layer: Image.Image, rng: Rng, scenes: Sequence[str], count: int = 1) -> list[Image.Image]:
    """Paint different scenes that a posed figure stands out from; where too few do, the clearest of the others."""
    dull: list[tuple[float, Image.Image]] = []
    found: list[Image.Image] = []
    for scene in rng.permutation(list(scenes)):
        behind = backdrop(str(scene), SIDE, rng)
        apart = contrast(layer, behind)
        if apart >= CLEAR:
            found.append(behind)
        else:
            dull.append((apart, behind))
        if len(found) == count:
            return found
    return (found + [behind for _, behind in sorted(dull, key=lambda pair: -pair[0])])[:count]


def view_of(drawing: Image.Image, rng: Rng) -> Image.Image:
    """Show an RGBA drawing in some pose, mirrored half of the time, in a place or on a plain colour."""
    if rng.random() < 0.5:
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    layer = pose_on(drawing, SIDE, draw_pose(rng))
    return portrait(layer, clear_backdrops(layer, rng, [*PLACES, *COLOURS])[0])


def any_view(world: World, subject: Subject, rng: Rng) -> Image.Image:
    """Show a subject as training showed its own: any scene and size, some views dressed, painted, filtered, blurred."""
    return show(world, Look(subject.key), rng, PLAIN)


def plain_view(subject: Subject, rng: Rng) -> Image.Image:
    """Show a subject as it is."""
    return view_of(subject.drawing, rng)


def recoloured_view(subject: Subject, rng: Rng) -> Image.Image:
    """Show a subject painted in one colour, or with its hues turned."""
    if rng.random() < 0.5:
        return view_of(make_of(subject.drawing, str(rng.choice(TINTS)), rng), rng)
    return view_of(turn_hues(subject.drawing, int(rng.choice(HUES[1:]))), rng)


def filtered_view(style: str, subject: Subject, rng: Rng) -> Image.Image:
    """Show a subject in a scene that is redrawn in a style."""
    return apply_filter(style, plain_view(subject, rng))


def one_gallery(
    name: str, subjects: Sequence[Subject], rng: Rng, views: int, *, sample_cache: Sight, query: Sight
) -> Condition:
    """Look all queries up in one gallery of `views` pictures of each subject."""
    condition = Condition(name)
    shown = [condition.add(subject.name, sample_cache(subject, rng)) for subject in subjects for _ in range(views)]
    for subject in subjects:
        condition.trials += [(condition.add(subject.name, query(subject, rng)), shown) for _ in range(QUERIES)]
    return condition


def swapped_backdrop(subjects: Sequence[Subject], rng: Rng) -> Condition:
    """Look each query up among itself on another backdrop and every other subject, in the same pose, on the query's own backdrop."""
    condition = Condition(SWAPPED)
    for subject in subjects:
        for _ in range(QUERIES):
            pose = draw_pose(rng)
            layer = pose_on(subject.drawing, SIDE, pose)
            own, other = clear_backdrops(layer, rng, [*PLACES, *COLOURS], 2)
            query = condition.add(subject.name, portrait(layer, own))
            sample_cache = [condition.add(subject.name, portrait(layer, other))]
            sample_cache += [
                condition.add(s.name, portrait(pose_on(s.drawing, SIDE, pose), own))
                for s in subjects
                if s is not subject
            ]
            condition.trials.append((query, sample_cache))
    return condition


def look_alikes_only(subjects: Sequence[Subject], rng: Rng, views: int) -> Condition:
    """Look each query up among `views` pictures of its subject and of each of the subject's look-alikes."""
    condition = Condition("look-alikes only")
    for subject in subjects:
        shown = {subject.name: subject.drawing, **subject.look_alikes}
        sample_cache = [
            condition.add(owner, view_of(drawing, rng)) for owner, drawing in shown.items() for _ in range(views)
        ]
        condition.trials += [
            (condition.add(subject.name, plain_view(subject, rng)), sample_cache) for _ in range(QUERIES)
        ]
    return condition


def make_conditions(subjects: Sequence[Subject], world: World, views: int, seed: int) -> list[Condition]:
    """Draw every retrieval test; each has random numbers of its own, so that none moves another."""
    rngs = iter([np.random.default_rng([seed, 2, number]) for number in range(4 + len(FILTERS))])
    anyhow = partial(any_view, world)
    restyled = {f"restyled: {style.removesuffix(' of')}": partial(filtered_view, style) for style in FILTERS}
    return [
        one_gallery("other scene, any view", subjects, next(rngs), views, sample_cache=anyhow, query=anyhow),
        swapped_backdrop(subjects, next(rngs)),
        look_alikes_only(subjects, next(rngs), views),
        one_gallery("recoloured", subjects, next(rngs), views, sample_cache=plain_view, query=recoloured_view),
        *(
            one_gallery(name, subjects, next(rngs), views, sample_cache=plain_view, query=sight)
            for name, sight in restyled.items()
        ),
    ]


def blend(first: Image.Image, second: Image.Image, alpha: float) -> Image.Image:
    """Mix two RGBA drawings of one size: 0 is the first, 1 the second; colours weigh as much as they cover."""
    one, two = (np.asarray(image, np.float64) for image in (first, second))
    weights = (1 - alpha) * one[..., 3:], alpha * two[..., 3:]
    cover = weights[0] + weights[1]
    colours = (one[..., :3] * weights[0] + two[..., :3] * weights[1]) / np.maximum(cover, 1e-9)
    return Image.fromarray(np.concatenate([colours, cover], axis=-1).round().astype(np.uint8))


def caption_of(subject: Subject, place: str) -> str:
    """Caption a subject in a place as the world does."""
    return ARTICLE.sub("an", f"a photo of a {subject.noun} {place}")


def figure_ladder(subject: Subject, other: Image.Image, rng: Rng) -> Ladder:
    """Blend a subject into another drawing, in one pose and place."""
    pose, place = draw_pose(rng), str(rng.choice(list(PLACES)))
    behind = backdrop(place, SIDE, rng)
    images = [portrait(pose_on(blend(subject.drawing, other, alpha), SIDE, pose), behind) for alpha in ALPHAS]
    return Ladder(subject=subject.name, caption=caption_of(subject, place), images=images)


def place_ladder(subject: Subject, rng: Rng) -> Ladder:
    """Blend the place behind a subject into another place."""
    layer = pose_on(subject.drawing, SIDE, draw_pose(rng))
    first, second = (str(place) for place in rng.choice(list(PLACES), 2, replace=False))
    here, there = (backdrop(place, SIDE, rng) for place in (first, second))
    images = [portrait(layer, Image.blend(here, there, alpha)) for alpha in ALPHAS]
    return Ladder(subject=subject.name, caption=caption_of(subject, first), images=images)


def make_ladders(subjects: Sequence[Subject], seed: int) -> dict[str, list[Ladder]]:
    """Draw BLENDS blends of each subject: into look-alikes, into other places, into other nouns' subjects."""
    rngs = [np.random.default_rng([seed, 3, number]) for number in range(3)]
    ladders: dict[str, list[Ladder]] = {"subject": [], "place": [], "noun": []}
    for subject in subjects:
        alike = list(subject.look_alikes.values())
        strangers = [other.drawing for other in subjects if other.noun != subject.noun]
        for _ in range(BLENDS):
            ladders["subject"].append(figure_ladder(subject, alike[rngs[0].integers(len(alike))], rngs[0]))
            ladders["place"].append(place_ladder(subject, rngs[1]))
            ladders["noun"].append(figure_ladder(subject, strangers[rngs[2].integers(len(strangers))], rngs[2]))
    return ladders


def empty_pictures(seed: int) -> dict[str, list[Image.Image]]:
    """Draw what shows no subject: noise, and every plain colour."""
    rng = np.random.default_rng([seed, 4])
    noise = [Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)) for _ in range(len(COLOURS))]
    return {"noise": noise, "plain colours": [Image.new("RGB", (SIDE, SIDE), colour) for colour in COLOURS.values()]}
