"""Render single drawings of an iconify set as RGBA images."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import resvg_py
from PIL import Image

SIDE = 128
"""Pixels along each side of a rendered drawing; scenes scale it down."""

IconSet = dict[str, Any]
"""The JSON of an iconify package: `icons`, `aliases`, and default sizes."""


def read_icons(modules: Path, art: str) -> IconSet:
    """Read one art's iconify set; emojione names some heads `x-face`, which are added as `x`."""
    icons = json.loads((modules / "@iconify-json" / art / "icons.json").read_text())
    if art == "emojione":
        for head in ("bear", "fox", "lion", "panda", "monkey", "rabbit", "robot", "frog", "unicorn"):
            if head not in icons["icons"] and f"{head}-face" in icons["icons"]:
                icons["icons"][head] = icons["icons"][f"{head}-face"]
    return icons


def render_icon(icons: IconSet, name: str, side: int = SIDE) -> Image.Image | None:
    """Render one drawing of an iconify set as RGBA, or return None if the set lacks it."""
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


def trim(image: Image.Image, side: int = SIDE) -> Image.Image:
    """Cut the transparent border off and center the drawing in a square of `side` pixels.

    All drawings then have the same size.
    """
    box = image.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox()
    assert box is not None
    image = image.crop(box)
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (side, side))
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square
