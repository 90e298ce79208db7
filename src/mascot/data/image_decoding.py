"""TODO data.image_decoding."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageColor, UnidentifiedImageError

from mascot.errors import UserError, printable

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".heic", ".heif", ".bmp", ".tif", ".tiff", ".gif"}
)
"""How the name of a photo may end, in small letters."""


PIXEL_LIMIT = 120_000_000
"""More pixels than this are taken for a decompression bomb; the largest cameras for consumers stay below."""


LONGEST_SIDE = 2048
"""Larger pictures are reduced to this longest side, in pixels: twice what the bases are trained at."""


SHORTEST_SIDE = 32
"""Smaller pictures hold no subject."""


_HALF = 128  # of 255: from here on a pixel is more subject, or more opaque, than not


_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF", "GIF")


_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"mif2"})


_SEVERAL = {
    "GIF": "animated; its first frame is used",
    "PNG": "animated; its first frame is used",
    "WEBP": "animated; its first frame is used",
    "AVIF": "animated; its first frame is used",
    "TIFF": "several pages; its first page is used",
    "HEIF": "several pictures; its main picture is used",
}


_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


Colour = tuple[int, ...]


class UnusableImage(Exception):  # noqa: N818 - never leaves this file, and the name reads as what it says
    """Why one file cannot be used: a whole sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decoded:
    image: Image.Image
    alpha: Image.Image | None
    full_size: tuple[int, int]


def parse_colour(background: str) -> Colour:
    try:
        return ImageColor.getrgb(background)[:3]
    except ValueError:
        raise UserError(f"{background!r} is not a colour; give a name such as white or grey, or #rrggbb.") from None


def is_mask(path: Path) -> bool:
    return path.name.lower().endswith(".mask.png")


def mask_paths(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.stem}.mask.png"), path.parent / "masks" / f"{path.stem}.png"


def check_file(path: Path) -> None:
    """Refuse what need not be opened; a named pipe, for one, would block for ever."""
    name = printable(path)
    if not os.path.lexists(path):
        raise UnusableImage(f"{path} does not exist.")
    if path.is_symlink() and not path.exists():
        raise UnusableImage(f"{name} is a link to a file that does not exist.")
    if path.is_dir():
        raise UnusableImage(f"{name} is a folder, though it is named like a picture.")
    if not path.is_file():
        raise UnusableImage(f"{name} is not a regular file.")
    if is_mask(path):
        raise UnusableImage(f"{name} is a mask; name the photo that it belongs to.")
    if path.suffix.lower() not in EXTENSIONS:
        raise UnusableImage(f"{name} is no picture of a kind that can be read; save it as jpg or png.")


def decode(path: Path, colour: Colour, remarks: list[str]) -> _Decoded:
    """A file's first picture: upright, RGB, reduced; every way in which a decoder can fail becomes one sentence."""
    try:
        with warnings.catch_warnings(record=True) as caught, path.open("rb") as file:
            warnings.filterwarnings("always", category=UserWarning)
            # Pillow warns at 90 megapixels; our own limit decides.
            warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
            with _open(file, path) as image:
                decoded = _finish(image, path, colour, remarks)
        remarks += dict.fromkeys(f"read with a warning ({_one_line(warning.message)})" for warning in caught)
    except UnusableImage:
        raise
    except Exception as error:  # damaged files make decoders raise anything, from KeyError to struct.error
        raise UnusableImage(_explain(path, error)) from error
    return decoded


def _open(file: BinaryIO, path: Path) -> Image.Image:
    """The picture, not yet decoded; contents decide, not the extension, since phones and web sites misname files."""
    head = file.read(64)
    file.seek(0)
    if not head:
        raise UnusableImage(f"{printable(path)} is empty (0 bytes); copy or download it again.")
    if head[4:8] != b"ftyp" or head[8:12] not in _HEIF_BRANDS or b"avif" in head:
        return Image.open(file, formats=_FORMATS)
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise UnusableImage(f"{printable(path)} is a HEIC picture, which needs: pip install mascot[heic].") from None
    return HeifImageFile(file)


def _finish(image: Image.Image, path: Path, colour: Colour, remarks: list[str]) -> _Decoded:
    if image.width * image.height > PIXEL_LIMIT:
        raise UnusableImage(_too_large(path))
    if image.format in _SEVERAL and getattr(image, "is_animated", False):
        remarks.append(_SEVERAL[image.format])
    image.load()
    turn = _orientation(image, remarks)
    image, alpha = _flatten(_eight_bits(image, path, remarks), colour, remarks)
    if alpha is not None and alpha.getextrema() == (0, 0):
        raise UnusableImage(f"{printable(path)} is transparent all over.")
    image = image.transpose(turn) if turn is not None else image
    alpha = alpha.transpose(turn) if alpha is not None and turn is not None else alpha
    return _Decoded(image=_reduce(image), alpha=alpha and _reduce(alpha), full_size=image.size)


def _orientation(image: Image.Image, remarks: list[str]) -> Image.Transpose | None:
    """How to turn a loaded picture upright, by its EXIF data (tag 274)."""
    try:
        return _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - a damaged EXIF block makes Pillow raise anything; the pixels are good all the same
        remarks.append("its EXIF data is damaged and was ignored; check that the picture is upright")
        return None


def _eight_bits(image: Image.Image, path: Path, remarks: list[str]) -> Image.Image:
    """Deep grey pictures as `L`, scaled by the white of their format: Pillow's own conversion clips them at 255."""
    if image.mode not in {"I", "F"} and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image, dtype=np.float32)
    peak = float(values.max())
    # Files of floats or long integers do not say what white is: the smallest usual white that holds the values is taken.
    # Up to 2 counts as 0..1, since resampling and bright lights overshoot, and nobody keeps a black picture.
    whites = {"I": {255: 255, 65535: 65535}, "F": {2: 1, 255: 255, 65535: 65535}}.get(image.mode, {65535: 65535})
    white = next((white for most, white in whites.items() if peak <= most), None)
    if white is None or not np.isfinite(values).all():
        raise UnusableImage(
            f"{printable(path)} holds pixel values that are no brightness (up to {peak:g}); save it with 8 bits a channel."
        )
    if len(whites) > 1:
        remarks.append(f"its pixel values are read as 0 to {white}")
    return Image.fromarray((values * (255 / white)).round().clip(0, 255).astype(np.uint8))


def _flatten(image: Image.Image, colour: Colour, remarks: list[str]) -> tuple[Image.Image, Image.Image | None]:
    """The picture in RGB on the background, and its alpha channel."""
    if not image.has_transparency_data:
        return _to_srgb(image, remarks), None
    whole = image.convert("RGBA")
    alpha = whole.getchannel("A")
    canvas = Image.new("RGB", whole.size, colour)
    opaque = whole.convert("RGB")
    opaque.info = image.info
    canvas.paste(_to_srgb(opaque, remarks), mask=alpha)
    return canvas, alpha


def _to_srgb(image: Image.Image, remarks: list[str]) -> Image.Image:
    """The picture in sRGB: phones save Display P3 and presses CMYK, whose numbers mean other colours."""
    profile = image.info.get("icc_profile")
    if profile and image.mode in {"RGB", "L", "CMYK"}:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            remarks.append("its colour profile is damaged and was ignored")
        else:
            assert converted is not None
            return converted
    return image.convert("RGB")


def _reduce(image: Image.Image) -> Image.Image:
    shrink = LONGEST_SIDE / max(image.size)
    if shrink >= 1:
        return image
    width, height = (max(1, round(side * shrink)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


def read_mask(path: Path, decoded: _Decoded, colour: Colour) -> Image.Image | None:
    """The photo's mask: from its file, else from its alpha channel where that tells a subject from a background."""
    file = next((name for name in mask_paths(path) if os.path.lexists(name)), None)
    if file is None:
        low, high = decoded.alpha.getextrema() if decoded.alpha is not None else (255, 255)
        # Soft watermarks and the rounding of encoders touch the alpha channel too; a background is more transparent than not.
        return decoded.alpha if low < _HALF <= high else None  # pyright: ignore[reportOperatorIssue]
    try:
        mask = decode(file, (0,) * len(colour), [])
    except UnusableImage as error:
        raise UnusableImage(f"{printable(path)} has an unusable mask: {error}") from error
    if mask.full_size != decoded.full_size:
        sizes = "{}x{}, upright photo {}x{} pixels".format(*mask.full_size, *decoded.full_size)
        raise UnusableImage(
            f"{printable(path)} has a mask of another size; save it at the size of the photo (mask {sizes})."
        )
    grey = mask.image.convert("L")
    if np.asarray(grey).max() < _HALF:
        raise UnusableImage(f"{printable(path)} has a mask that marks nothing; paint the subject white (255) on black.")
    return grey


def _too_large(path: Path) -> str:
    return f"{printable(path)} has more than {PIXEL_LIMIT // 1_000_000} megapixels; save a smaller copy."


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:120].rstrip(". ")


def _explain(path: Path, error: Exception) -> str:
    """One sentence for whatever went wrong inside a decoder or the file system."""
    name = printable(path)
    if isinstance(error, UnidentifiedImageError):
        return f"{name} is not a picture, or too damaged to tell; copy or download it again."
    if isinstance(error, Image.DecompressionBombError):
        return _too_large(path)
    if isinstance(error, PermissionError):
        return f"{name} may not be read (permission denied)."
    if "truncated" in str(error).lower():
        return f"{name} is cut short; copy or download it again."
    return f"{name} is damaged ({_one_line(error) or type(error).__name__}); copy or download it again."
