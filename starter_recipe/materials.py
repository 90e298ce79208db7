"""What changes a drawing's looks and not its outline: turned hues, paints, materials; and the filters that redraw a whole scene."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from starter_recipe.places import COLOURS, Colour, Rng

FILTERS = ("a pencil sketch of", "a black and white photo of", "a watercolor painting of", "pixel art of")


def turn_hues(picture: Image.Image, hue: int) -> Image.Image:
    """Turn every hue of an RGBA drawing by `hue` 256ths of the circle; blacks, grays and whites stay."""
    if hue == 0:
        return picture
    h, s, v = picture.convert("RGB").convert("HSV").split()
    turned = Image.merge("HSV", (h.point(lambda x: (x + hue) % 256), s, v)).convert("RGB")
    turned.putalpha(picture.getchannel("A"))
    return turned


def light_of(picture: Image.Image) -> NDArray[np.float32]:
    """H x W in 0..1: how light each pixel is, stretched over what the drawing covers."""
    covered = picture.getchannel("A").point(lambda a: 255 if a > 128 else 0)
    return np.asarray(ImageOps.autocontrast(picture.convert("L"), mask=covered), np.float32) / np.float32(255)


def shade(picture: Image.Image, tones: NDArray[np.float32]) -> Image.Image:
    """Paint a drawing in a tone (3) or in a tone per pixel (H x W x 3) and keep its light and dark and its outline."""
    light = light_of(picture)[..., None]
    shaded = np.where(light < 0.6, tones * (0.25 + light * 1.25), tones + (255 - tones) * (light - 0.6) * 0.9)
    painted = Image.fromarray(shaded.clip(0, 255).astype(np.uint8))
    painted.putalpha(picture.getchannel("A"))
    return painted


def tint(picture: Image.Image, colour: Colour) -> Image.Image:
    """Paint a drawing in one colour."""
    return shade(picture, np.asarray(colour, np.float32))


def gold(picture: Image.Image, rng: Rng) -> Image.Image:
    """Yellow metal: bright bands cross it where light falls."""
    rows, columns = np.mgrid[0 : picture.height, 0 : picture.width] / picture.width
    gleam = 0.5 + 0.5 * np.sin((rows + columns) * 9 + rng.uniform(0, 6.28))
    tones = (
        np.asarray((196, 140, 22), np.float32) * (1 - gleam[..., None])
        + np.asarray((255, 226, 110), np.float32) * gleam[..., None]
    )
    return shade(picture, tones.astype(np.float32))


def wood(picture: Image.Image, rng: Rng) -> Image.Image:
    """Brown boards with a wavy grain."""
    rows, columns = np.mgrid[0 : picture.height, 0 : picture.width] / picture.width
    grain = 0.5 + 0.5 * np.sin(48 * (rows + 0.04 * np.sin(9 * columns + rng.uniform(0, 6.28))))
    tones = np.asarray((188, 128, 72), np.float32) - grain[..., None] * np.asarray((70, 56, 40), np.float32)
    return shade(picture, tones.astype(np.float32))


def stone(picture: Image.Image, rng: Rng) -> Image.Image:
    """Gray and speckled."""
    specks = rng.uniform(95, 190, (picture.height // 6 + 1, picture.width // 6 + 1)).astype(np.uint8)
    gray = np.asarray(Image.fromarray(specks).resize(picture.size, Image.Resampling.BILINEAR), np.float32)
    return shade(picture, np.repeat(gray[..., None], 3, axis=2))


def rainbow(picture: Image.Image, rng: Rng) -> Image.Image:
    """All hues from top to bottom."""
    first = int(rng.integers(0, 40))
    hues = (np.linspace(first, first + 215, picture.height) % 256).astype(np.uint8)
    bands = Image.fromarray(np.broadcast_to(hues[:, None], (picture.height, picture.width)).copy())
    wheel = Image.merge("HSV", (bands, Image.new("L", picture.size, 190), Image.new("L", picture.size, 235)))
    return shade(picture, np.asarray(wheel.convert("RGB"), np.float32))


def overlay(picture: Image.Image, ink: Image.Image) -> Image.Image:
    """Lay a pattern over what a drawing covers."""
    painted = picture.convert("RGB")
    painted.paste(ink, (0, 0), ink)
    painted.putalpha(picture.getchannel("A"))
    return painted


def stripes(picture: Image.Image, rng: Rng) -> Image.Image:
    """Dark bars across it, its own colours between them."""
    ink = Image.new("RGBA", picture.size)
    pen, width = ImageDraw.Draw(ink), picture.width / 9
    start = rng.uniform(-1, 0) * width
    for i in range(0, 22, 2):
        x = start + (i - 9) * width
        pen.polygon(
            [(x, 0), (x + width, 0), (x + width * 3, picture.height), (x + width * 2, picture.height)],
            fill=(40, 30, 45, 255),
        )
    return overlay(picture, ink)


def spots(picture: Image.Image, rng: Rng) -> Image.Image:
    """White discs all over it, its own colours between them."""
    ink = Image.new("RGBA", picture.size)
    pen, cell = ImageDraw.Draw(ink), picture.width / 6
    right, down = rng.uniform(0, cell, 2)
    for row in range(-1, 7):
        for column in range(-1, 7):
            x, y = right + (column + 0.5 * (row % 2)) * cell, down + row * cell
            pen.ellipse([x - cell * 0.26, y - cell * 0.26, x + cell * 0.26, y + cell * 0.26], fill=(252, 250, 245, 255))
    return overlay(picture, ink)


MATERIALS: dict[str, Callable[[Image.Image, Rng], Image.Image]] = {
    "golden": gold, "wooden": wood, "stone": stone, "rainbow": rainbow, "striped": stripes, "spotted": spots,
}  # fmt: skip


def make_of(picture: Image.Image, word: str, rng: Rng) -> Image.Image:
    """A drawing as a colour or a material has it: `word` is a key of COLOURS or of MATERIALS."""
    return tint(picture, COLOURS[word]) if word in COLOURS else MATERIALS[word](picture, rng)


def apply_filter(style: str, picture: Image.Image) -> Image.Image:
    """Redraw a whole scene in one of the filter styles."""
    side = picture.width
    if style == "a black and white photo of":
        return picture.convert("L").convert("RGB")
    if style == "pixel art of":
        small = picture.resize((16, 16), Image.Resampling.BOX).quantize(24).convert("RGB")
        return small.resize((side, side), Image.Resampling.NEAREST)
    if style == "a watercolor painting of":
        soft = picture.filter(ImageFilter.ModeFilter(max(3, side // 16) | 1)).filter(
            ImageFilter.GaussianBlur(side / 64)
        )
        return Image.blend(soft, Image.new("RGB", picture.size, (255, 250, 240)), 0.3)
    gray = picture.convert("L")
    edges = np.asarray(gray, np.float32) - np.asarray(gray.filter(ImageFilter.GaussianBlur(side / 28)), np.float32)
    ink = 250 - 4.0 * np.maximum(-edges, 0) - 0.12 * (255 - np.asarray(gray, np.float32))
    return Image.fromarray(ink.clip(0, 255).astype(np.uint8)).convert("RGB")
