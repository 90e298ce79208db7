"""Photos of the held-out subjects, which evaluations use as a user's own subjects.

No training image shows their drawings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mascot.errors import UserError
from starter_training.atomic_folder import atomic_folder
from starter_training.drawings.icons import IconSet, read_icons, render_icon, trim
from starter_training.drawings.objects import HeldOut, Package, read_objects
from starter_training.scenes.backgrounds import PLACES
from starter_training.scenes.canvas import COLORS, Rng
from starter_training.scenes.caption_words import ALIVE
from starter_training.scenes.subject_photos import Pose, backdrop, contrast, portrait, pose_on

SIDE = 128
"""Pixels along each side of a photo."""
PLACES_EACH, COLORS_EACH = 3, 3
"""Photos of a subject in places and on plain colors."""
CLEAR = 75.0
"""Least contrast of a subject with its backdrop."""
HEADER = (
    "# Subject -> the class it belongs to, and where its drawing comes from; "
    "its photos are <subject>/1.png and so on.\n"
)


def random_pose(rng: Rng) -> Pose:
    """Choose a pose near the middle, 72 to 84 % of the side, at most 3 degrees off the upright."""
    right, down = rng.uniform(-0.04, 0.04, 2)
    return Pose(size=rng.uniform(0.72, 0.84), shift=(float(right), float(down)), turn=rng.uniform(-3, 3))


def clear_photos(drawing: Image.Image, scenes: Sequence[str], count: int, rng: Rng) -> Iterator[Image.Image]:
    """Yield up to `count` photos in different scenes.

    Scenes that the figure would blend into are left out.
    """
    for scene in rng.permutation(scenes):
        if count == 0:
            return
        layer, behind = pose_on(drawing, SIDE, random_pose(rng)), backdrop(str(scene), SIDE, rng)
        if contrast(layer, behind) >= CLEAR:
            count -= 1
            yield portrait(layer, behind)


def photos_of(drawing: Image.Image, rng: Rng) -> list[Image.Image]:
    """Make a subject's photos in three places and on three plain colors, alternating.

    Raises:
        ValueError: the subject stands out clearly from too few scenes.
    """
    places = list(clear_photos(drawing, list(PLACES), PLACES_EACH, rng))
    plain = list(clear_photos(drawing, list(COLORS), COLORS_EACH, rng))
    return [photo for pair in zip(places, plain, strict=True) for photo in pair]


def describe(name: str, subject: HeldOut, packages: dict[str, Package]) -> str:
    """Format one table of `subjects.toml`: class noun, art package, license, author, title."""
    package = f"@iconify-json/{subject['art']}"
    facts = packages[package]
    entries = {
        "class_noun": subject["noun"],
        "live": subject["noun"] in ALIVE,
        "package": package,
        "version": facts["version"],
        "icon": subject["icon"],
        "title": facts["title"],
        "author": facts["author"],
        "licence": facts["licence"],
    }
    return f"\n[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in entries.items())


def render_subject(subject: HeldOut, icons: IconSet) -> Image.Image:
    """Render a subject's drawing; its longer side fills the square of 512 pixels.

    Raises:
        UserError: its art has no such drawing.
    """
    drawing = render_icon(icons, subject["icon"], 4 * SIDE)
    if drawing is None:
        raise UserError(f"{subject['art']} has no drawing {subject['icon']!r}: correct [held_out] in objects.toml.")
    return trim(drawing, 4 * SIDE)


def make_subjects(work: Path, out: Path) -> int:
    """Write every held-out subject's photos and `subjects.toml`, the same bytes each time.

    Returns:
        The number of bytes written.

    Raises:
        UserError: the drawings' packages are not installed under `work`, or one lacks a drawing.
    """
    objects = read_objects()
    modules = work / "npm" / "node_modules"
    if not modules.exists():
        raise UserError(f"{modules} is missing: run `python -m starter_training collect --work {work}` first.")
    arts = {art: read_icons(modules, art) for art in sorted({s["art"] for s in objects["held_out"].values()})}
    with atomic_folder(out) as fresh:
        table = HEADER
        for number, (name, subject) in enumerate(objects["held_out"].items()):
            (fresh / name).mkdir()
            photos = photos_of(render_subject(subject, arts[subject["art"]]), np.random.default_rng([21, number]))
            for n, photo in enumerate(photos, 1):
                photo.save(fresh / name / f"{n}.png", optimize=True)
            table += describe(name, subject, objects["packages"])
        (fresh / "subjects.toml").write_text(table, encoding="utf-8")
    return sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
