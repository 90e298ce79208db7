"""Decode one image file to upright 8-bit RGB in sRGB, with its alpha channel or mask."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageColor, UnidentifiedImageError

from mascot.errors import UserError, printable, raise_unrelated
from mascot.storage.strict_parsing import is_unicode
from mascot.storage.untrusted_files import UnreadableFile, open_regular

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".heic", ".heif", ".bmp", ".tif", ".tiff", ".gif"}
)
"""Extensions of photos, in lower case."""
BYTE_LIMIT = 2**30
"""Larger files are refused; the largest photos of cameras have a tenth of it."""
UNKNOWN_KIND = "is not an image that mascot reads; if it is one, save it as jpg or png."
"""The clause that refuses a file by its extension."""
OTHER_KINDS: Mapping[str, str] = {
    extension: clause
    for extensions, clause in {
        ".mp4 .mov .avi .mkv .webm .m4v .3gp .mpg .mpeg": "is a video; save some of its frames as jpg or png.",
        ".cr2 .cr3 .nef .arw .dng .raf .orf .rw2 .pef .srw .x3f": "is a camera's raw photo; save it as jpg or png.",
        ".svg .pdf .psd .ai .eps .xcf .kra .ico .jxl .jp2 .tga .exr .hdr .dds": (
            "is an image of a format that is not read; save it as jpg or png."
        ),
        ".csv .tsv .xls .xlsx .ods .parquet": "is a table; captions are read from metadata.csv, so rename or move it.",
        ".txt .caption": "is a caption; name the photo beside it.",
        ".json .jsonl": "is a table; name the photos beside it.",
        ".zip .rar .7z .tar .gz .tgz .bz2 .xz": "is an archive; unpack it, or move it away.",
        ".npz .npy .pt .pth .ckpt .bin .safetensors": "holds numbers of another program; move it away.",
        ".mp3 .wav .m4a .flac .ogg .aac": "is a sound; move it away.",
        ".py .sh .bat .ps1 .exe .html .htm .xml .log .ini .cfg .doc .docx .rtf .odt .aae .db": (
            "is not an image; move it away."
        ),
    }.items()
    for extension in extensions.split()
}
"""Extension -> the clause that refuses such a file."""
PIXEL_LIMIT = 120_000_000
"""Images with more pixels are refused as decompression bombs; consumer cameras have fewer."""
TOO_MANY_PIXELS = f"has more than {PIXEL_LIMIT // 1_000_000} megapixels; save a smaller copy."
"""The sentence that refuses such an image."""
LONGEST_SIDE = 2048
"""Larger images are reduced to this longest side in pixels, twice what base models train at."""
SHORTEST_SIDE = 32
"""Images with a shorter side, in pixels, are refused: they are too small to show a subject."""

_HALF = 128  # of 255: a pixel from here on is more subject than background, or more opaque than not
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF", "GIF")
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"mif2"})
_SEVERAL_FRAMES = {
    "GIF": "animated; its first frame is used",
    "PNG": "animated; its first frame is used",
    "WEBP": "animated; its first frame is used",
    "AVIF": "animated; its first frame is used",
    "TIFF": "several pages; its first page is used",
    "HEIF": "several images; its main image is used",
}
_TRANSPOSE_OF_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Color = tuple[int, ...]
"""Red, green and blue, 0..255."""


class UnusableImage(Exception):  # noqa: N818 - never leaves this room, and the name reads as what it says
    """Raised for a file that cannot be used; its text is a sentence about the named file."""

    def __init__(self, path: Path, problem: str, *, whole_path: bool = False) -> None:
        super().__init__(f"{path if whole_path else printable(path)} {problem}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedImage:
    """A decoded file: an upright RGB image, and its alpha channel (`L`, same size) or None."""

    image: Image.Image
    alpha: Image.Image | None
    full_size: tuple[int, int]
    """Width and height of the upright image before it was reduced, in pixels."""


def parse_color(background: str) -> Color:
    """Parse a color name or #rrggbb.

    Raises:
        UserError: it is not a color.
    """
    try:
        return ImageColor.getrgb(background)[:3]
    except ValueError:
        raise UserError(
            f"dataset.background = {background!r} is not a color; give a name such as white or grey, or #rrggbb."
        ) from None


def is_mask(path: Path) -> bool:
    """Tell whether a file is named as the mask of a photo beside it."""
    return path.name.lower().endswith(".mask.png")


def mask_paths(path: Path) -> tuple[Path, Path]:
    """List the paths where a photo's mask may be, the preferred one first."""
    return path.with_name(f"{path.stem}.mask.png"), path.parent / "masks" / f"{path.stem}.png"


def check_file(path: Path) -> None:
    """Check the kind and name of a file without opening it, since a named pipe would block forever.

    Raises:
        UnusableImage: the file does not exist, is not a regular file, is a mask or is not an image.
    """
    _check_regular(path)
    if is_mask(path):
        raise UnusableImage(path, "is a mask; name the photo that it belongs to.")
    if path.suffix.lower() not in EXTENSIONS:
        raise UnusableImage(path, OTHER_KINDS.get(path.suffix.lower(), UNKNOWN_KIND))


def check_image_file(path: Path) -> None:
    """Check a file as `check_file` does, where it is given as the only image; it may be a mask.

    Raises:
        UnusableImage: the file does not exist, is not a regular file or is not an image.
    """
    _check_regular(path)
    if path.suffix.lower() not in EXTENSIONS:
        kind, semicolon, _ = OTHER_KINDS.get(path.suffix.lower(), "").partition(";")
        raise UnusableImage(path, f"{kind.rstrip('.')}; give a jpg or png." if kind + semicolon else UNKNOWN_KIND)


def _check_regular(path: Path) -> None:
    """Check that there is a regular file with a name of text."""
    if not os.path.lexists(path):
        raise UnusableImage(path, "does not exist.", whole_path=True)
    if not is_unicode(path.name):
        raise UnusableImage(path, "has a name that is not UTF-8; rename it.")
    if path.is_symlink() and not path.exists():
        raise UnusableImage(path, "is a link to a file that does not exist.")
    if path.is_dir():
        raise UnusableImage(path, "is a folder, though it is named like an image.")
    if not path.is_file():
        raise UnusableImage(path, "is not a regular file.")


def decode(path: Path, background: Color, remarks: list[str], *, longest_side: int = LONGEST_SIDE) -> DecodedImage:
    """Decode the first image of a file: upright, in sRGB, at most `longest_side` pixels a side.

    Args:
        path: a file that `check_file` or `check_image_file` accepts.
        background: the color that replaces transparent parts.
        remarks: gets one clause for each thing that the user should know about the file.
        longest_side: larger images are reduced to it.

    Raises:
        UnusableImage: the file cannot be decoded, whatever error the decoder raises.
    """
    try:
        with warnings.catch_warnings(record=True) as caught, open_regular(path, limit=BYTE_LIMIT) as file:
            warnings.filterwarnings("always", category=UserWarning)
            # Pillow warns from 90 megapixels; PIXEL_LIMIT decides here.
            warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
            with _open(file, path) as image:
                decoded = _convert(image, path, background, remarks, longest_side)
        remarks += dict.fromkeys(f"read with a warning ({_shorten(warning.message)})" for warning in caught)
    except UnusableImage:
        raise
    except UnreadableFile as error:
        raise UnusableImage(path, f"cannot be read ({error.reason}).") from error
    except Exception as error:  # damaged files make decoders raise anything, from KeyError to struct.error
        raise_unrelated(error)
        raise UnusableImage(path, _explain(error)) from error
    return decoded


def convert_image(
    image: Image.Image, name: str, background: Color, remarks: list[str], *, longest_side: int = LONGEST_SIDE
) -> DecodedImage:
    """Convert an image in memory as `decode` converts that of a file; `name` stands in messages.

    Raises:
        UnusableImage: it cannot be converted, whatever error Pillow raises.
    """
    try:
        return _convert(image, Path(name), background, remarks, longest_side)
    except UnusableImage:
        raise
    except Exception as error:  # an image that was closed, or whose file is damaged
        raise_unrelated(error)
        raise UnusableImage(Path(name), _explain(error)) from error


def read_mask(path: Path, decoded: DecodedImage) -> Image.Image | None:
    """Read the mask of a decoded photo: its mask file, else its alpha channel, else None.

    The mask is `L`, of the decoded image's size, and 255 on the subject. An alpha channel is a mask
    only if some pixels are more transparent than opaque (below 128) and some are not.

    Raises:
        UnusableImage: the mask file cannot be decoded, has another size than the photo, or marks
            no pixel.
    """
    file = next((file for file in mask_paths(path) if os.path.lexists(file)), None)
    if file is None:
        if decoded.alpha is None:
            return None
        # Soft watermarks and the rounding of encoders leave alpha slightly below 255 in places.
        histogram = decoded.alpha.histogram()
        return decoded.alpha if any(histogram[:_HALF]) and any(histogram[_HALF:]) else None
    try:
        mask = decode(file, (0, 0, 0), [])
    except UnusableImage as error:
        raise UnusableImage(path, f"has an unusable mask: {error}") from error
    if mask.full_size != decoded.full_size:
        sizes = "{}x{}, upright photo {}x{} pixels".format(*mask.full_size, *decoded.full_size)
        raise UnusableImage(path, f"has a mask of another size; save it at the size of the photo (mask {sizes}).")
    grey = mask.image.convert("L")
    if np.asarray(grey).max() < _HALF:
        raise UnusableImage(path, "has a mask that marks nothing; paint the subject white (255) on black.")
    return grey


def _open(file: BinaryIO, path: Path) -> Image.Image:
    """Open an image without decoding its pixels.

    The contents decide the format, not the extension, since phones and web sites misname files.
    """
    head = file.read(64)
    file.seek(0)
    if not head:
        raise UnusableImage(path, "is empty (0 bytes); copy or download it again.")
    if head[4:8] != b"ftyp" or head[8:12] not in _HEIF_BRANDS or b"avif" in head:
        return Image.open(file, formats=_FORMATS)
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise UnusableImage(path, "is a HEIC image, which needs: pip install mascot[heic].") from None
    return HeifImageFile(file)


def _convert(image: Image.Image, path: Path, background: Color, remarks: list[str], longest_side: int) -> DecodedImage:
    """Decode an opened image, turn it upright, convert it to RGB and reduce it."""
    if image.width * image.height > PIXEL_LIMIT:
        raise UnusableImage(path, TOO_MANY_PIXELS)
    if image.format in _SEVERAL_FRAMES and getattr(image, "is_animated", False):
        remarks.append(_SEVERAL_FRAMES[image.format])
    image.load()
    transpose = _read_orientation(image, remarks)
    image, alpha = _flatten(_to_eight_bits(image, path, remarks), background, remarks)
    if alpha is not None and alpha.getextrema() == (0, 0):
        raise UnusableImage(path, "is fully transparent.")
    if transpose is not None:
        image, alpha = image.transpose(transpose), alpha and alpha.transpose(transpose)
    small_alpha = alpha and _reduce(alpha, longest_side)
    return DecodedImage(image=_reduce(image, longest_side), alpha=small_alpha, full_size=image.size)


def _read_orientation(image: Image.Image, remarks: list[str]) -> Image.Transpose | None:
    """Return what turns a loaded image upright, by its EXIF orientation (tag 274)."""
    try:
        return _TRANSPOSE_OF_ORIENTATION.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - a damaged EXIF block makes Pillow raise anything; the pixels can still be used
        remarks.append("its EXIF data is damaged and was ignored; check that the image is upright")
        return None


def _to_eight_bits(image: Image.Image, path: Path, remarks: list[str]) -> Image.Image:
    """Convert grey images of more than 8 bits to `L`, scaled by the white of their format.

    Pillow's own conversion would clip their values at 255.
    """
    if image.mode not in {"I", "F"} and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image, dtype=np.float32)
    peak = float(values.max())
    # Files of floats or long integers do not define white: take the smallest usual white that holds
    # the values. Up to 2 counts as 0..1, since resampling and highlights overshoot, and an image
    # with no value above 2 of 255 would be black.
    whites = {"I": {255: 255, 65535: 65535}, "F": {2: 1, 255: 255, 65535: 65535}}.get(image.mode, {65535: 65535})
    white = next((white for limit, white in whites.items() if peak <= limit), None)
    if white is None or not np.isfinite(values).all():
        raise UnusableImage(
            path, f"holds pixel values that are not brightness (up to {peak:g}); save it with 8 bits a channel."
        )
    if len(whites) > 1:
        remarks.append(f"its pixel values are read as 0 to {white}")
    return Image.fromarray((values * (255 / white)).round().clip(0, 255).astype(np.uint8))


def _flatten(image: Image.Image, background: Color, remarks: list[str]) -> tuple[Image.Image, Image.Image | None]:
    """Paste an image on the background color; return it in RGB, and its alpha channel if any."""
    if not image.has_transparency_data:
        return _to_srgb(image, remarks), None
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    canvas = Image.new("RGB", rgba.size, background)
    opaque = rgba.convert("RGB")
    opaque.info = image.info
    canvas.paste(_to_srgb(opaque, remarks), mask=alpha)
    return canvas, alpha


def _to_srgb(image: Image.Image, remarks: list[str]) -> Image.Image:
    """Convert an image to sRGB by its color profile.

    Phones save Display P3 and print shops CMYK, in which the same numbers mean other colors.
    """
    profile = image.info.get("icc_profile")
    if profile and image.mode in {"RGB", "L", "CMYK"}:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            remarks.append("its color profile is damaged and was ignored")
        else:
            assert converted is not None
            return converted
    return image.convert("RGB")


def _reduce(image: Image.Image, longest_side: int) -> Image.Image:
    """Reduce an image to a longest side in pixels; smaller ones stay as they are."""
    scale = longest_side / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


def _shorten(text: object) -> str:
    """Shorten a library's message to one line of at most 120 characters, without a full stop."""
    return " ".join(str(text).split())[:120].rstrip(". ")


def _explain(error: Exception) -> str:
    """Say what an error of a decoder or the file system means for a file, and what to do."""
    if isinstance(error, UnidentifiedImageError):
        return "is not an image, or too damaged to tell; copy or download it again."
    if isinstance(error, Image.DecompressionBombError):
        return TOO_MANY_PIXELS
    if "truncated" in str(error).lower():
        return "is cut short; copy or download it again."
    return f"is damaged ({_shorten(error) or type(error).__name__}); copy or download it again."
