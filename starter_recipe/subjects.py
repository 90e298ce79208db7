"""Photos of the held-out subjects: drawings that no training picture shows, each a user's own subject in evaluations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mascot.errors import UserError
from starter_recipe.drawings import read_icons, read_objects, render_icon, trim
from starter_recipe.folders import whole_folder
from starter_recipe.places import COLOURS, PLACES, Rng
from starter_recipe.portraits import Pose, backdrop, contrast, portrait, pose_on
from starter_recipe.world import ALIVE

SIDE = 128
"""Pixels along each side of a photo."""
PLACES_EACH, COLOURS_EACH = 3, 3
CLEAR = 75.0
"""Least contrast of a subject with its backdrop."""
HEADER = "# Subject -> the class it belongs to, and where its drawing comes from; its photos are <subject>/1.png and so on.\n"


def draw_pose(rng: Rng) -> Pose:
    """Stand nearly in the middle, 72 to 84 % of the side, at most 3 degrees off the upright."""
    right, down = rng.uniform(-0.04, 0.04, 2)
    return Pose(size=rng.uniform(0.72, 0.84), shift=(float(right), float(down)), turn=rng.uniform(-3, 3))


def clear_photos(drawing: Image.Image, scenes: Sequence[str], count: int, rng: Rng) -> Iterator[Image.Image]:
    """Yield up to `count` photos in different scenes, passing over those that the figure would melt into."""
    for scene in rng.permutation(scenes):
        if count == 0:
            return
        layer, behind = pose_on(drawing, SIDE, draw_pose(rng)), backdrop(str(scene), SIDE, rng)
        if contrast(layer, behind) >= CLEAR:
            count -= 1
            yield portrait(layer, behind)


def photos_of(drawing: Image.Image, rng: Rng) -> list[Image.Image]:
    """Photos in three places and on three plain colours, in turn; raises ValueError where too few scenes are clear."""
    places = list(clear_photos(drawing, list(PLACES), PLACES_EACH, rng))
    plain = list(clear_photos(drawing, list(COLOURS), COLOURS_EACH, rng))
    return [photo for pair in zip(places, plain, strict=True) for photo in pair]


def describe(name: str, subject: dict[str, Any], packages: dict[str, Any]) -> str:
    """One table of `subjects.toml`: class noun, art package, licence, author, title of the art."""
    package = f"@iconify-json/{subject['art']}"
    facts = packages[package]
    entries = {
        "class_noun": subject["noun"], "live": subject["noun"] in ALIVE, "package": package, "version": facts["version"],
        "icon": subject["icon"], "title": facts["title"], "author": facts["author"], "licence": facts["licence"],
    }  # fmt: skip
    return f"\n[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in entries.items())


def draw_subject(subject: dict[str, Any], icons: dict[str, Any]) -> Image.Image:
    """Render a subject's drawing, its longer side filling the square; raises UserError where its art lacks it."""
    drawing = render_icon(icons, subject["icon"], 4 * SIDE)
    if drawing is None:
        raise UserError(f"{subject['art']} has no drawing {subject['icon']!r}: correct [held_out] in objects.toml.")
    return trim(drawing, 4 * SIDE)


def make_subjects(work: Path, out: Path) -> int:
    """Write every held-out subject's photos and `subjects.toml`, the same bytes each time. Returns the bytes written.

    Raises UserError where the drawings' packages are not installed under `work` or lack a drawing.
    """
    objects = read_objects()
    modules = work / "npm" / "node_modules"
    if not modules.exists():
        raise UserError(f"{modules} is missing: run `python -m starter_recipe collect --work {work}` first.")
    arts = {art: read_icons(modules, art) for art in sorted({s["art"] for s in objects["held_out"].values()})}
    with whole_folder(out) as fresh:
        table = HEADER
        for number, (name, subject) in enumerate(objects["held_out"].items()):
            (fresh / name).mkdir()
            photos = photos_of(draw_subject(subject, arts[subject["art"]]), np.random.default_rng([21, number]))
            for n, photo in enumerate(photos, 1):
                photo.save(fresh / name / f"{n}.png", optimize=True)
            table += describe(name, subject, objects["packages"])
        (fresh / "subjects.toml").write_text(table, encoding="utf-8")
    return sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
