"""Textures change a drawing's colors and keep its outline: turned hues, paints and materials.

Filters restyle a whole scene.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from starter_training.scenes.canvas import COLORS, Color, Rng

FILTERS = ("a pencil sketch of", "a black and white photo of", "a watercolor painting of", "pixel art of")
"""Style words of captions that a filter makes; the other styles are arts of drawings."""


def turn_hues(image: Image.Image, hue: int) -> Image.Image:
    """Turn every hue of an RGBA drawing by `hue` 256ths of the circle.

    Black, gray and white stay as they are.
    """
    if hue == 0:
        return image
    h, s, v = image.convert("RGB").convert("HSV").split()
    turned = Image.merge("HSV", (h.point(lambda x: (x + hue) % 256), s, v)).convert("RGB")
    turned.putalpha(image.getchannel("A"))
    return turned


def light_of(image: Image.Image) -> NDArray[np.float32]:
    """Return the lightness of each pixel, stretched to 0..1 over what the drawing covers.

    Shape H x W.
    """
    covered = image.getchannel("A").point(lambda a: 255 if a > 128 else 0)
    return np.asarray(ImageOps.autocontrast(image.convert("L"), mask=covered), np.float32) / np.float32(255)


def shade(image: Image.Image, tones: NDArray[np.float32]) -> Image.Image:
    """Paint a drawing and keep its light and dark and its outline.

    `tones` is one tone (3) or a tone for each pixel (H x W x 3), in 0..255.
    """
    light = light_of(image)[..., None]
    shaded = np.where(light < 0.6, tones * (0.25 + light * 1.25), tones + (255 - tones) * (light - 0.6) * 0.9)
    painted = Image.fromarray(shaded.clip(0, 255).astype(np.uint8))
    painted.putalpha(image.getchannel("A"))
    return painted


def tint(image: Image.Image, color: Color) -> Image.Image:
    """Paint a drawing in one color."""
    return shade(image, np.asarray(color, np.float32))


def gold(image: Image.Image, rng: Rng) -> Image.Image:
    """Paint a drawing as yellow metal with bright bands."""
    rows, columns = np.mgrid[0 : image.height, 0 : image.width] / image.width
    gleam = 0.5 + 0.5 * np.sin((rows + columns) * 9 + rng.uniform(0, 6.28))
    tones = (
        np.asarray((196, 140, 22), np.float32) * (1 - gleam[..., None])
        + np.asarray((255, 226, 110), np.float32) * gleam[..., None]
    )
    return shade(image, tones.astype(np.float32))


def wood(image: Image.Image, rng: Rng) -> Image.Image:
    """Paint a drawing as brown wood with a wavy grain."""
    rows, columns = np.mgrid[0 : image.height, 0 : image.width] / image.width
    grain = 0.5 + 0.5 * np.sin(48 * (rows + 0.04 * np.sin(9 * columns + rng.uniform(0, 6.28))))
    tones = np.asarray((188, 128, 72), np.float32) - grain[..., None] * np.asarray((70, 56, 40), np.float32)
    return shade(image, tones.astype(np.float32))


def stone(image: Image.Image, rng: Rng) -> Image.Image:
    """Paint a drawing gray and speckled."""
    specks = rng.uniform(95, 190, (image.height // 6 + 1, image.width // 6 + 1)).astype(np.uint8)
    gray = np.asarray(Image.fromarray(specks).resize(image.size, Image.Resampling.BILINEAR), np.float32)
    return shade(image, np.repeat(gray[..., None], 3, axis=2))


def rainbow(image: Image.Image, rng: Rng) -> Image.Image:
    """Paint a drawing in all hues from top to bottom."""
    first = int(rng.integers(0, 40))
    hues = (np.linspace(first, first + 215, image.height) % 256).astype(np.uint8)
    bands = Image.fromarray(np.broadcast_to(hues[:, None], (image.height, image.width)).copy())
    wheel = Image.merge("HSV", (bands, Image.new("L", image.size, 190), Image.new("L", image.size, 235)))
    return shade(image, np.asarray(wheel.convert("RGB"), np.float32))


def sew(image: Image.Image) -> Image.Image:
    """Make a drawing of plush: softer colors, a fuzzy outline, a woolly grain and a seam inside.

    The same drawing always gets the same fur.
    """
    rng = np.random.default_rng([image.width, image.height])
    wool = rng.uniform(-1, 1, (image.height, image.width)).astype(np.float32)
    pixels = np.asarray(image.convert("RGB").filter(ImageFilter.GaussianBlur(image.width / 90)), np.float32)
    soft = pixels * 0.82 + 0.18 * 200 + 16 * wool[..., None]
    alpha = image.getchannel("A")
    inner = np.asarray(alpha.filter(ImageFilter.GaussianBlur(image.width / 26)), np.float32) / 255
    soft = np.where(((inner > 0.8) & (inner < 0.87))[..., None], soft * 0.72, soft)
    fuzz = np.asarray(alpha.filter(ImageFilter.GaussianBlur(image.width / 48)), np.float32) / 255 + 0.22 * wool
    sewn = Image.fromarray(soft.clip(0, 255).astype(np.uint8))
    sewn.putalpha(Image.fromarray(((fuzz - 0.3) * 4 * 255).clip(0, 255).astype(np.uint8)))
    return sewn


def overlay(image: Image.Image, ink: Image.Image) -> Image.Image:
    """Paint a pattern over what a drawing covers."""
    painted = image.convert("RGB")
    painted.paste(ink, (0, 0), ink)
    painted.putalpha(image.getchannel("A"))
    return painted


def stripes(image: Image.Image, rng: Rng) -> Image.Image:
    """Paint dark bars across a drawing, with its own colors between them."""
    ink = Image.new("RGBA", image.size)
    pen, width = ImageDraw.Draw(ink), image.width / 9
    start = rng.uniform(-1, 0) * width
    for i in range(0, 22, 2):
        x = start + (i - 9) * width
        pen.polygon(
            [(x, 0), (x + width, 0), (x + width * 3, image.height), (x + width * 2, image.height)],
            fill=(40, 30, 45, 255),
        )
    return overlay(image, ink)


def spots(image: Image.Image, rng: Rng) -> Image.Image:
    """Paint white discs on a drawing, with its own colors between them."""
    ink = Image.new("RGBA", image.size)
    pen, cell = ImageDraw.Draw(ink), image.width / 6
    right, down = rng.uniform(0, cell, 2)
    for row in range(-1, 7):
        for column in range(-1, 7):
            x, y = right + (column + 0.5 * (row % 2)) * cell, down + row * cell
            pen.ellipse([x - cell * 0.26, y - cell * 0.26, x + cell * 0.26, y + cell * 0.26], fill=(252, 250, 245, 255))
    return overlay(image, ink)


MATERIALS: dict[str, Callable[[Image.Image, Rng], Image.Image]] = {
    "golden": gold,
    "wooden": wood,
    "stone": stone,
    "rainbow": rainbow,
    "striped": stripes,
    "spotted": spots,
}
"""Material word of captions -> painter."""


def make_of(image: Image.Image, word: str, rng: Rng) -> Image.Image:
    """Paint a drawing in a color or a material: `word` is a key of `COLORS` or of `MATERIALS`."""
    return tint(image, COLORS[word]) if word in COLORS else MATERIALS[word](image, rng)


def apply_filter(style: str, image: Image.Image) -> Image.Image:
    """Restyle a whole scene; `style` is one of `FILTERS`."""
    side = image.width
    if style == "a black and white photo of":
        return image.convert("L").convert("RGB")
    if style == "pixel art of":
        small = image.resize((side // 4, side // 4), Image.Resampling.BOX).quantize(24).convert("RGB")
        return small.resize((side, side), Image.Resampling.NEAREST)
    if style == "a watercolor painting of":
        soft = image.filter(ImageFilter.ModeFilter(max(3, side // 28) | 1)).filter(ImageFilter.GaussianBlur(side / 128))
        return Image.blend(soft, Image.new("RGB", image.size, (255, 250, 240)), 0.3)
    gray = image.convert("L")
    edges = np.asarray(gray, np.float32) - np.asarray(gray.filter(ImageFilter.GaussianBlur(side / 28)), np.float32)
    ink = 250 - 4.0 * np.maximum(-edges, 0) - 0.12 * (255 - np.asarray(gray, np.float32))
    return Image.fromarray(ink.clip(0, 255).astype(np.uint8)).convert("RGB")
