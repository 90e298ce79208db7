"""Image files: names, reading, and PNGs that carry the settings they were generated with."""

from __future__ import annotations

import hashlib
import logging
import os
import struct
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mascot.errors import UserError
from mascot.storage.atomic_write import atomic_write, write_new
from mascot.storage.untrusted_files import UnreadableFile, read_bytes

logger = logging.getLogger(__name__)

IMAGE_LIMIT = 2**28
"""Most bytes of a generated image."""
PIXEL_LIMIT = 178_000_000
"""Most pixels of a generated image, or of a grid of them; Pillow's own limit is just above."""

SEAL = "seal"
"""Name of the chunk with the hash by which a cached image is checked; see `seal_of`."""

NOT_WHOLE = "it is not a whole PNG image"
_END = b"IEND\xaeB`\x82"
"""The last bytes of every PNG."""


def write_image(image: Image.Image, path: Path, text: str) -> None:
    """Write a PNG atomically, with `text` as its `parameters` chunk (see `generation.knobs`).

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_write(path) as temporary:
        save_png(image, temporary, {"parameters": text, SEAL: seal_of(image.convert("RGB"), path.name)})


def seal_of(image: Image.Image, name: str) -> str:
    """Hash an image's pixels and the name of its file; 32 hexadecimal digits."""
    facts = f"{name}\0{image.mode} {image.width}x{image.height}\0".encode(errors="surrogateescape")
    return hashlib.sha256(facts + image.tobytes()).hexdigest()[:32]


def read_sealed(path: Path, size: tuple[int, int] | None = None) -> Image.Image | None:
    """Read a cached image as RGB, if it is just what `write_image` wrote under this name.

    None means that it is missing, damaged, exchanged, or by a version that wrote no seals.

    Args:
        path: The file.
        size: The width and height that it must have; None takes any.
    """
    try:
        image, texts = read_png(path)
    except UnreadableFile:
        return None
    whole = texts.get(SEAL) == seal_of(image, path.name) and size in {None, image.size}
    return image if whole else None


def is_png(path: Path) -> bool:
    """Tell whether there is a whole PNG at a path."""
    try:
        read_png(path)
    except UnreadableFile:
        return False
    return True


def warn_of_unsealed(folder: Path, paths: Iterable[Path]) -> None:
    """Warn in one line of the files that exist and that `read_sealed` does not accept."""
    unsealed = [path for path in paths if os.path.lexists(path)]
    if unsealed:
        logger.warning(
            "%s: %d cached image(s) are damaged, exchanged or of an older version, and are generated again.",
            folder,
            len(unsealed),
        )


def write_new_image(image: Image.Image, folder: Path, stem: str, text: str) -> Path:
    """Write a PNG as `write_image` does, under a free name in a folder; returns its path.

    Raises:
        UserError: the file cannot be written.
    """
    return write_new(folder, stem, ".png", lambda temporary: save_png(image, temporary, {"parameters": text}))


def save_png(image: Image.Image, path: Path, texts: Mapping[str, str]) -> None:
    """Save a PNG with a chunk of each text."""
    info = PngInfo()
    for name, text in texts.items():
        info.add_itxt(name, text.encode(errors="backslashreplace").decode())
    image.save(path, format="PNG", pnginfo=info)


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
        UnreadableFile: the file is missing, damaged, or no PNG.
    """
    return read_png(path)[0]


def read_png(path: Path, *, remedy: str = "delete it, and it is generated again") -> tuple[Image.Image, dict[str, str]]:
    """Read a PNG that mascot wrote: its image as RGB, and the texts in it, such as `parameters`.

    Raises:
        UnreadableFile: the file is missing, damaged, or no PNG.
    """
    content = read_bytes(path, limit=IMAGE_LIMIT, remedy=remedy)
    try:
        with Image.open(BytesIO(content), formats=("PNG",)) as image:
            if not content.endswith(_END):
                raise UnreadableFile(path, NOT_WHOLE, remedy)
            image.verify()  # the checksums of all chunks
        with Image.open(BytesIO(content), formats=("PNG",)) as image:
            if image.width * image.height > PIXEL_LIMIT:
                raise UnreadableFile(path, "it has too many pixels", remedy)
            rgb = image.convert("RGB")
            return rgb, {str(key): value for key, value in image.info.items() if isinstance(value, str)}
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        raise UnreadableFile(path, NOT_WHOLE, remedy) from error


MASK_PIXELS = 2**24
"""Most pixels of a mask that a page paints."""


def decode_mask(content: bytes) -> Image.Image:
    """Decode a PNG that a page painted, as gray: white where it is painted.

    Raises:
        UserError: it is no whole PNG, or has too many pixels.
    """
    damaged = UserError("The mask did not arrive whole; paint it again.")
    try:
        with Image.open(BytesIO(content), formats=("PNG",)) as image:
            if image.width * image.height > MASK_PIXELS:
                raise damaged
            return image.convert("L")
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        raise damaged from error
