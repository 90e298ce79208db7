"""TODO storage.image_files."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mascot.errors import UserError
from mascot.storage.atomic_write import atomic_write


def write_image(image: Image.Image, path: Path, text: str) -> None:
    """Write a PNG with its settings, whole or not at all."""
    info = PngInfo()
    info.add_itxt("parameters", text)
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=info)


def image_stem(prompt: str, seed: int) -> str:
    """Turn a prompt and a seed into the beginning of a file's name."""
    words = "".join(letter if letter.isalnum() else "-" for letter in prompt.lower())
    stem = "-".join(part for part in words.split("-") if part)[:80] or "picture"
    return f"{stem.encode()[:200].decode(errors='ignore')}_{seed}"  # file systems count bytes, of which a letter may have four


def open_image(path: Path) -> Image.Image:
    """Read a kept picture, RGB.

    Raises:
        UserError: it is not there or damaged.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:  # whatever Pillow says of a damaged PNG
        raise UserError(f"the picture {path} cannot be read; delete it, and it is drawn again.") from error
