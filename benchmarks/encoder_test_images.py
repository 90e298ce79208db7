"""Test images of held-out subjects for encoders: galleries to search, and blends of two things."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from starter_training.drawings.icons import SIDE as DRAWING_SIDE
from starter_training.drawings.icons import read_icons, render_icon, trim
from starter_training.drawings.objects import read_objects
from starter_training.scenes.augmentations import HUES, PLAIN, show
from starter_training.scenes.backgrounds import PLACES
from starter_training.scenes.canvas import COLORS, Rng
from starter_training.scenes.caption_words import ARTICLE, PHOTO_STYLES, TINTS
from starter_training.scenes.scene_grammar import compose
from starter_training.scenes.subject_photos import Pose, backdrop, contrast, portrait, pose_on
from starter_training.scenes.subjects import render_subject
from starter_training.scenes.textures import FILTERS, apply_filter, make_of, turn_hues
from starter_training.scenes.world import Look, World

SIDE = 64
"""Pixels along each side of every image composed here."""
SCENES, RANKS = 100, (1, 5)
QUERIES = 13
"""Queries of each subject in each condition: 208 with 16 subjects."""
BLENDS = 4
"""Blends of each subject in each test of sensitivity."""
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
CLEAR = 60.0
"""Least contrast of a figure with its backdrop; below it the figure blends into its scene."""
SWAPPED = "backdrop swapped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One held-out drawing, and the drawings that are easily confused with it."""

    name: str
    noun: str
    key: str
    """The drawing's key in a world: `art/icon`."""
    drawing: Image.Image
    """RGBA."""
    look_alikes: Mapping[str, Image.Image]
    """The same thing by other artists, and the noun's drawings in training."""


@dataclass(slots=True)
class Condition:
    """One retrieval test: images, the subject of each, and queries with their galleries."""

    name: str
    images: list[Image.Image] = field(default_factory=list[Image.Image])
    owners: list[str] = field(default_factory=list[str])
    """The subject that each image shows."""
    trials: list[tuple[int, list[int]]] = field(default_factory=list[tuple[int, list[int]]])
    """Index of each query, and the indices of its gallery."""

    def add(self, owner: str, image: Image.Image) -> int:
        """Add an image and return its index."""
        self.images.append(image)
        self.owners.append(owner)
        return len(self.images) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """Images that blend one thing into another, one for each of `ALPHAS`."""

    subject: str
    caption: str
    """The caption that fits the first image."""
    images: list[Image.Image]


View = Callable[[Subject, Rng], Image.Image]
"""Composes one view of a subject."""


def read_subjects(modules: Path, known: World) -> list[Subject]:
    """Render the held-out subjects of `objects.toml` and their look-alikes.

    Raises:
        UserError: an art lacks its subject.
    """
    objects = read_objects()
    arts = {art: read_icons(modules, art) for art in objects["arts"]}
    subjects: list[Subject] = []
    for name, facts in objects["held_out"].items():
        icon, own, noun = facts["icon"], facts["art"], facts["noun"]
        rendered = {
            f"{art}/{icon}": render_icon(icons, icon, 2 * DRAWING_SIDE) for art, icons in arts.items() if art != own
        }
        same_thing = {key: trim(image) for key, image in rendered.items() if image is not None}
        same_noun = {key: known.drawings[key] for key in known.bodies[noun]}
        drawing = render_subject(facts, arts[own]).resize((DRAWING_SIDE, DRAWING_SIDE), Image.Resampling.LANCZOS)
        subjects.append(
            Subject(name=name, noun=noun, key=f"{own}/{icon}", drawing=drawing, look_alikes=same_thing | same_noun)
        )
    return subjects


def world_of(subjects: Sequence[Subject], accessories: Mapping[str, Image.Image], seed: int) -> World:
    """Make a world whose only drawings are the subjects and the accessories.

    Captions name each subject by its noun and its own art.
    """
    nouns: dict[str, dict[str, list[str]]] = {}
    for subject in subjects:
        nouns.setdefault(subject.noun, {"bodies": []})["bodies"].append(subject.key.split("/")[1])
    drawings: dict[str, Any] = {key: np.asarray(image) for key, image in accessories.items()}
    drawings |= {subject.key: np.asarray(subject.drawing) for subject in subjects}
    with TemporaryDirectory() as folder:
        np.savez(Path(folder) / "drawings.npz", **drawings)
        return World(Path(folder) / "drawings.npz", SIDE, seed, nouns=nouns, named=0.0)


def distinct_scenes(world: World, rng: Rng, count: int = SCENES) -> list[tuple[Image.Image, str]]:
    """Compose captioned scenes with different content.

    `a photo of a dog` counts as the same content as `an image of a dog`.
    """
    scenes: dict[str, tuple[Image.Image, str]] = {}
    while len(scenes) < count:
        image, caption = compose(world, rng)
        style = next(style for style in PHOTO_STYLES if caption.startswith(style))  # the last of them is empty
        scenes.setdefault(caption.removeprefix(style).strip(), (image, caption))
    return list(scenes.values())


def random_pose(rng: Rng) -> Pose:
    """Choose a pose near the middle, 55 to 90 % of the side, at most 15 degrees off the upright."""
    right, down = rng.uniform(-0.08, 0.08, 2)
    return Pose(size=rng.uniform(0.55, 0.9), shift=(float(right), float(down)), turn=rng.uniform(-15, 15))


def clear_backdrops(layer: Image.Image, rng: Rng, scenes: Sequence[str], count: int = 1) -> list[Image.Image]:
    """Paint `count` different scenes from which a posed figure stands out.

    Where there are too few, the clearest of the others follow.
    """
    unclear: list[tuple[float, Image.Image]] = []
    found: list[Image.Image] = []
    for scene in rng.permutation(list(scenes)):
        behind = backdrop(str(scene), SIDE, rng)
        apart = contrast(layer, behind)
        if apart >= CLEAR:
            found.append(behind)
        else:
            unclear.append((apart, behind))
        if len(found) == count:
            return found
    return (found + [behind for _, behind in sorted(unclear, key=lambda pair: -pair[0])])[:count]


def view_of(drawing: Image.Image, rng: Rng) -> Image.Image:
    """Show an RGBA drawing in a random pose, mirrored half of the time, in front of a backdrop."""
    if rng.random() < 0.5:
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    layer = pose_on(drawing, SIDE, random_pose(rng))
    return portrait(layer, clear_backdrops(layer, rng, [*PLACES, *COLORS])[0])


def any_view(world: World, subject: Subject, rng: Rng) -> Image.Image:
    """Show a subject as in training: any scene and size, some views with accessories or blurred."""
    return show(world, Look(subject.key), rng, PLAIN)


def plain_view(subject: Subject, rng: Rng) -> Image.Image:
    """Show a subject in its own colors and style."""
    return view_of(subject.drawing, rng)


def recolored_view(subject: Subject, rng: Rng) -> Image.Image:
    """Show a subject painted in one color, or with its hues turned."""
    if rng.random() < 0.5:
        return view_of(make_of(subject.drawing, str(rng.choice(TINTS)), rng), rng)
    return view_of(turn_hues(subject.drawing, int(rng.choice(HUES[1:]))), rng)


def filtered_view(style: str, subject: Subject, rng: Rng) -> Image.Image:
    """Show a subject in a scene that is filtered to a style."""
    return apply_filter(style, plain_view(subject, rng))


def one_gallery(
    name: str, subjects: Sequence[Subject], rng: Rng, views: int, *, gallery: View, query: View
) -> Condition:
    """Make a condition in which all queries search one gallery of `views` images of each subject.

    Args:
        name: name of the condition.
        subjects: have `QUERIES` queries each.
        rng: decides all images.
        views: gallery images of each subject.
        gallery: composes a gallery image.
        query: composes a query.
    """
    condition = Condition(name)
    shown = [condition.add(subject.name, gallery(subject, rng)) for subject in subjects for _ in range(views)]
    for subject in subjects:
        condition.trials += [(condition.add(subject.name, query(subject, rng)), shown) for _ in range(QUERIES)]
    return condition


def swapped_backdrop(subjects: Sequence[Subject], rng: Rng) -> Condition:
    """Make a condition in which only the wrong gallery images have the query's backdrop.

    Each gallery has the query's subject on another backdrop, and every other subject in the same
    pose on the query's own backdrop.
    """
    condition = Condition(SWAPPED)
    for subject in subjects:
        for _ in range(QUERIES):
            pose = random_pose(rng)
            layer = pose_on(subject.drawing, SIDE, pose)
            own, other = clear_backdrops(layer, rng, [*PLACES, *COLORS], 2)
            query = condition.add(subject.name, portrait(layer, own))
            gallery = [condition.add(subject.name, portrait(layer, other))]
            gallery += [
                condition.add(s.name, portrait(pose_on(s.drawing, SIDE, pose), own))
                for s in subjects
                if s is not subject
            ]
            condition.trials.append((query, gallery))
    return condition


def look_alikes_only(subjects: Sequence[Subject], rng: Rng, views: int) -> Condition:
    """Make a condition whose galleries have `views` images of a subject and of each look-alike."""
    condition = Condition("look-alikes only")
    for subject in subjects:
        shown = {subject.name: subject.drawing, **subject.look_alikes}
        gallery = [
            condition.add(owner, view_of(drawing, rng)) for owner, drawing in shown.items() for _ in range(views)
        ]
        condition.trials += [(condition.add(subject.name, plain_view(subject, rng)), gallery) for _ in range(QUERIES)]
    return condition


def make_conditions(subjects: Sequence[Subject], world: World, views: int, seed: int) -> list[Condition]:
    """Compose every retrieval test.

    Each has its own random generator, so that a change of one test leaves the others as they are.
    """
    rngs = iter([np.random.default_rng([seed, 2, number]) for number in range(4 + len(FILTERS))])
    in_any_view = partial(any_view, world)
    restyled = {f"restyled: {style.removesuffix(' of')}": partial(filtered_view, style) for style in FILTERS}
    return [
        one_gallery("other scene, any view", subjects, next(rngs), views, gallery=in_any_view, query=in_any_view),
        swapped_backdrop(subjects, next(rngs)),
        look_alikes_only(subjects, next(rngs), views),
        one_gallery("recolored", subjects, next(rngs), views, gallery=plain_view, query=recolored_view),
        *(
            one_gallery(name, subjects, next(rngs), views, gallery=plain_view, query=view)
            for name, view in restyled.items()
        ),
    ]


def blend(first: Image.Image, second: Image.Image, alpha: float) -> Image.Image:
    """Blend two RGBA drawings of one size: `alpha` 0 gives the first, 1 the second.

    Colors are weighted by their coverage.
    """
    one, two = (np.asarray(image, np.float64) for image in (first, second))
    weights = (1 - alpha) * one[..., 3:], alpha * two[..., 3:]
    cover = weights[0] + weights[1]
    colors = (one[..., :3] * weights[0] + two[..., :3] * weights[1]) / np.maximum(cover, 1e-9)
    return Image.fromarray(np.concatenate([colors, cover], axis=-1).round().astype(np.uint8))


def caption_of(subject: Subject, place: str) -> str:
    """Caption a subject in a place as training does."""
    return ARTICLE.sub("an", f"a photo of a {subject.noun} {place}")


def figure_ladder(subject: Subject, other: Image.Image, rng: Rng) -> Ladder:
    """Blend a subject into another drawing, in one pose and place."""
    pose, place = random_pose(rng), str(rng.choice(list(PLACES)))
    behind = backdrop(place, SIDE, rng)
    images = [portrait(pose_on(blend(subject.drawing, other, alpha), SIDE, pose), behind) for alpha in ALPHAS]
    return Ladder(subject=subject.name, caption=caption_of(subject, place), images=images)


def place_ladder(subject: Subject, rng: Rng) -> Ladder:
    """Blend the place behind a subject into another place."""
    layer = pose_on(subject.drawing, SIDE, random_pose(rng))
    first, second = (str(place) for place in rng.choice(list(PLACES), 2, replace=False))
    here, there = (backdrop(place, SIDE, rng) for place in (first, second))
    images = [portrait(layer, Image.blend(here, there, alpha)) for alpha in ALPHAS]
    return Ladder(subject=subject.name, caption=caption_of(subject, first), images=images)


def make_ladders(subjects: Sequence[Subject], seed: int) -> dict[str, list[Ladder]]:
    """Compose `BLENDS` blends of each subject into look-alikes, other places and other nouns."""
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


def empty_images(seed: int) -> dict[str, list[Image.Image]]:
    """Make images that show no subject: noise, and every plain color."""
    rng = np.random.default_rng([seed, 4])
    noise = [Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)) for _ in range(len(COLORS))]
    return {"noise": noise, "plain colors": [Image.new("RGB", (SIDE, SIDE), color) for color in COLORS.values()]}
