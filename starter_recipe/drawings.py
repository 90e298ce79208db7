"""Collect the openly licensed drawings from their npm packages and render each one once."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from PIL import Image

HERE = Path(__file__).parent
SIDE = 96
"""Pixels along each side of a rendered drawing; scenes scale it down."""


def read_objects() -> dict[str, Any]:
    """Read `objects.toml`: arts, packages, nouns, accessories, held-out subjects."""
    return tomllib.loads((HERE / "objects.toml").read_text())


def install_packages(work: Path) -> Path:
    """Install the exact npm packages under `work/npm` and check each one's licence field."""
    folder = work / "npm"
    folder.mkdir(parents=True, exist_ok=True)
    packages = read_objects()["packages"]
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("npm is not installed: install Node.js, whose registry carries the drawings.")
    wanted = [f"{name}@{facts['version']}" for name, facts in packages.items()]
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder), *wanted]
    subprocess.run(command, check=True)  # noqa: S603 - the arguments are this file's own
    for name, facts in packages.items():
        found = json.loads((folder / "node_modules" / name / "package.json").read_text())["license"]
        if found != facts["licence"]:
            raise SystemExit(f"{name} is licensed {found}, not {facts['licence']}: read it before it is used.")
    return folder / "node_modules"


def render_icon(icons: dict[str, Any], name: str, side: int = SIDE) -> Image.Image | None:
    """Render one drawing of an iconify set as RGBA, or None where the set lacks it."""
    name = icons.get("aliases", {}).get(name, {}).get("parent", name)
    icon = icons["icons"].get(name)
    if icon is None:
        return None
    width, height = (icon.get(key, icons.get(key, 16)) for key in ("width", "height"))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}" '
        f'width="{side}" height="{side}">{icon["body"]}</svg>'
    )
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")


def read_icons(modules: Path, art: str) -> dict[str, Any]:
    """Read one art's iconify set; emojione calls some heads `x-face`."""
    icons = json.loads((modules / "@iconify-json" / art / "icons.json").read_text())
    if art == "emojione":
        for head in ("bear", "fox", "lion", "panda", "monkey", "rabbit", "robot", "frog", "unicorn"):
            if head not in icons["icons"] and f"{head}-face" in icons["icons"]:
                icons["icons"][head] = icons["icons"][f"{head}-face"]
    return icons


def trim(picture: Image.Image, side: int = SIDE) -> Image.Image:
    """Cut the transparent border off and centre the drawing in a square, so every one has the same size."""
    box = picture.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox()
    assert box is not None
    picture = picture.crop(box)
    scale = side / max(picture.size)
    picture = picture.resize(tuple(max(1, round(s * scale)) for s in picture.size), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (side, side))
    square.paste(picture, tuple((side - s) // 2 for s in picture.size))
    return square


def held_out_icons() -> set[str]:
    """Every icon that no training picture may show, in any art."""
    return {subject["icon"] for subject in read_objects()["held_out"].values()}


def wanted_icons() -> set[str]:
    """Every icon that the base may be shown, in any art: never a held-out one."""
    objects = read_objects()
    icons = {icon for noun in objects["nouns"].values() for kind in noun.values() for icon in kind}
    icons |= set(objects["accessories"])
    assert not icons & held_out_icons(), f"held-out drawings in training: {icons & held_out_icons()}"
    return icons


THINGS = (3, 4, 5, 6, 7)
"""Emojibase's groups of animals, food, travel, activities and objects."""
DIALS = re.compile(r"o.clock|-thirty")


def read_catalogue(modules: Path) -> dict[str, str]:
    """Icon -> label of every animal and thing that has an emoji, but held-out ones: what the encoders learn to tell apart.

    The base itself knows far fewer (`wanted_icons`); an encoder that has to judge subjects nobody has seen needs many to learn from.
    """
    records = json.loads((modules / "emojibase-data" / "en" / "data.json").read_text())
    labels = [
        record["label"].lower()
        for record in records
        if record.get("group") in THINGS and not DIALS.search(record["label"])
    ]
    icons = {re.sub(r"[^a-z0-9]+", "-", label).strip("-"): label for label in labels}
    return {icon: label for icon, label in icons.items() if icon not in held_out_icons()}


def collect(work: Path) -> None:
    """Render all drawings to `work/drawings.npz` (key `art/icon`, RGBA uint8): those of the base and those of the catalogue."""
    modules = install_packages(work)
    drawings: dict[str, np.ndarray] = {}
    icons = sorted(wanted_icons() | set(read_catalogue(modules)))
    for art in read_objects()["arts"]:
        pack = read_icons(modules, art)
        for name in icons:
            picture = render_icon(pack, name, 2 * SIDE)
            if picture is not None:
                drawings[f"{art}/{name}"] = np.asarray(trim(picture))
    np.savez_compressed(work / "drawings.npz", **drawings)  # pyright: ignore[reportArgumentType]
    shown = sum(key.split("/")[1] in wanted_icons() for key in drawings)
    print(f"{len(drawings)} drawings of {len(icons)} icons, {shown} of them for the base")
