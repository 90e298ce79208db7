"""Image files: names, reading, and PNGs that carry the settings they were generated with."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mascot.errors import UserError
from mascot.storage.atomic_write import atomic_write


def write_image(image: Image.Image, path: Path, text: str) -> None:
    """Write a PNG atomically, with `text` as its `parameters` chunk (see `generation.knobs`).

    Raises:
        UserError: the file cannot be written.
    """
    info = PngInfo()
    info.add_itxt("parameters", text)
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=info)


def image_stem(prompt: str, seed: int) -> str:
    """Build a file name without its ending from a prompt and a seed: `a-dog-in-the-snow_7`.

    The prompt's part holds at most 80 characters and 200 bytes.
    """
    words = "".join(letter if letter.isalnum() else "-" for letter in prompt.lower())
    stem = "-".join(part for part in words.split("-") if part)[:80] or "picture"
    return f"{stem.encode()[:200].decode(errors='ignore')}_{seed}"  # file systems count bytes, up to 4 a letter


def open_image(path: Path) -> Image.Image:
    """Read a generated image as RGB.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for a damaged PNG
        raise UserError(f"the image {path} cannot be read; delete it, and it is generated again.") from error
