"""More than a hundred files that look like photos and must be refused, each for its own reason."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from random import Random
from zipfile import ZipFile

import numpy as np
from PIL import Image

EXTENSIONS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".heic", ".heif", ".bmp", ".tif", ".tiff", ".gif")

MAGIC = {
    "jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01",
    "exif.jpg": b"\xff\xd8\xff\xe1\x00\x20Exif\x00\x00",
    "png": b"\x89PNG\r\n\x1a\n",
    "gif": b"GIF89a",
    "87.gif": b"GIF87a",
    "webp": b"RIFF\x00\x10\x00\x00WEBPVP8 ",
    "lossless.webp": b"RIFF\x00\x10\x00\x00WEBPVP8L",
    "avif": b"\x00\x00\x00\x18ftypavif",
    "heic": b"\x00\x00\x00\x18ftypheic",
    "heif": b"\x00\x00\x00\x18ftypmif1",
    "bmp": b"BM",
    "little.tif": b"II*\x00",
    "big.tiff": b"MM\x00*",
    "long.tif": b"II+\x00\x08\x00\x00\x00",
}

IMPOSTORS = {
    "text.jpg": b"this is no picture\n",
    "page.png": b"<!DOCTYPE html><html><body><img src='dog.png'></body></html>",
    "drawing.svg.png": b"<svg xmlns='http://www.w3.org/2000/svg' width='64' height='64'/>",
    "answer.webp": b'{"error": "not found"}',
    "document.jpeg": b"%PDF-1.7\n1 0 obj << >> endobj\n",
    "program.gif": b"\x7fELF\x02\x01\x01" + bytes(64),
    "archive.bmp": b"\x1f\x8b\x08" + bytes(64),
    "film.avif": b"\x00\x00\x00\x18ftypisom" + bytes(64),
    "sound.tif": b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(32),
    "zeros.jpg": bytes(4096),
    "pixmap.png": b"P6 64 64 255\n" + bytes(64 * 64 * 3),
    "pointer.jpg": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n",
    "newline.png": b"\n",
    "byte.jpg": b"\xff",
}

OTHER_KINDS = (
    "drawing.svg",
    "film.mp4",
    "document.pdf",
    "layers.psd",
    "negative.cr2",
    "table.csv",
    "archive.zip",
    "icon.ico",
    "no_extension",
)

TRUNCATED = {
    "jpg": {"format": "JPEG", "quality": 90},
    "progressive.jpg": {"format": "JPEG", "progressive": True},
    "png": {"format": "PNG"},
    "webp": {"format": "WEBP", "quality": 90},
    "lossless.webp": {"format": "WEBP", "lossless": True},
    "gif": {"format": "GIF"},
    "bmp": {"format": "BMP"},
    "tif": {"format": "TIFF"},
    "deflated.tif": {"format": "TIFF", "compression": "tiff_deflate"},
    "avif": {"format": "AVIF", "quality": 90, "speed": 10},
}

CUTS = (0.005, 0.02, 0.1, 0.3, 0.5, 0.7, 0.85)

TINY = ((1, 1), (2, 2), (31, 31), (8, 300), (300, 8), (31, 2000))


@dataclass(frozen=True, slots=True)
class BadFile:
    """A file that must be refused, and the reason."""

    path: Path
    why: str


def bad_photo_files(folder: Path) -> list[BadFile]:
    """Write all bad files into the folder, always in the same order and with the same contents."""
    folder.mkdir(parents=True, exist_ok=True)
    bad: list[BadFile] = []
    for name, data, why in _contents():
        path = folder / name
        path.write_bytes(data)
        bad.append(BadFile(path, why))
    return bad + _odd_entries(folder) + _bad_masks(folder)


def noise(width: int = 64, height: int = 64, mode: str = "RGB") -> Image.Image:
    """Make an image that no codec can compress, so that a cut falls into its pixels."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(values if channels > 1 else values[:, :, 0])


def encoded(image: Image.Image, **options: object) -> bytes:
    """Encode an image as a file's bytes."""
    file = BytesIO()
    image.save(file, **options)  # pyright: ignore[reportArgumentType]
    return file.getvalue()


def png_with_header(width: int, height: int, *, bits: int = 8, color: int = 2, checksum: int | None = None) -> bytes:
    """Make a small PNG whose header claims another size."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return MAGIC["png"] + _chunk(b"IHDR", header, checksum) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _contents() -> Iterator[tuple[str, bytes, str]]:
    """List names, bytes and reasons of all plain files."""
    for extension in EXTENSIONS:
        yield f"empty{extension}", b"", "zero bytes"
    for name, data in IMPOSTORS.items():
        yield f"impostor_{name}", data, "something else under an image's name"
    for name in OTHER_KINDS:
        yield f"kind_{name}", encoded(noise(), format="PNG"), "a kind of file that is not read"
    for number, (name, magic) in enumerate(MAGIC.items()):
        yield f"random.{name}", magic + Random(number).randbytes(2000), "a magic number, then noise"
        yield f"magic.{name}", magic, "a magic number, then nothing"
    for name, options in TRUNCATED.items():
        whole = encoded(noise(), **options)
        for cut in CUTS:
            yield f"cut_{cut:.3f}.{name}", whole[: max(2, int(len(whole) * cut))], "cut short"
    for width, height in TINY:
        yield f"tiny_{width}x{height}.png", encoded(noise(width, height), format="PNG"), "too small"
        yield f"tiny_{width}x{height}.jpg", encoded(noise(width, height), format="JPEG"), "too small"
    yield from _broken_headers()
    yield from _bombs()
    zipped = BytesIO()
    with ZipFile(zipped, "w") as archive:
        archive.writestr("photo.webp", encoded(noise(), format="WEBP"))
    yield "zipped.webp", zipped.getvalue(), "an archive"
    yield "transparent.png", encoded(Image.new("RGBA", (64, 64)), format="PNG"), "nothing to see"
    for name, value in (("nan", np.nan), ("infinite", np.inf), ("huge", 1e9)):
        values = np.full((64, 64), value, dtype=np.float32)
        yield f"{name}.tif", encoded(Image.fromarray(values), format="TIFF"), "numbers that are no brightness"


def _broken_headers() -> Iterator[tuple[str, bytes, str]]:
    """List files with headers that contradict themselves."""
    yield "header_zero_width.png", png_with_header(0, 64), "no width"
    yield "header_zero_height.png", png_with_header(64, 0), "no height"
    yield "header_bits.png", png_with_header(64, 64, bits=7), "seven bits a channel"
    yield "header_color.png", png_with_header(64, 64, color=5), "an unknown color type"
    yield "header_checksum.png", png_with_header(64, 64, checksum=1), "a wrong checksum"
    yield "header_taller.png", png_with_header(640, 640), "fewer pixels than it claims"
    jpeg = encoded(noise(), format="JPEG")
    start = jpeg.index(b"\xff\xc0")
    yield "header_no_tables.jpg", jpeg.replace(b"\xff\xdb", b"\xff\xef").replace(b"\xff\xc4", b"\xff\xee"), "no tables"
    yield "header_precision.jpg", jpeg[: start + 4] + b"\x05" + jpeg[start + 5 :], "five bits a channel"
    yield "header_height.jpg", jpeg[: start + 5] + b"\x00\x00" + jpeg[start + 7 :], "no height"
    yield "header_no_start.jpg", b"\xff\xd9" + jpeg[2:], "ends before it starts"
    bitmap = encoded(noise(), format="BMP")
    yield "header_bits.bmp", bitmap[:28] + b"\x11" + bitmap[29:], "17 bits a pixel"
    yield "header_compression.bmp", bitmap[:30] + b"\x63" + bitmap[31:], "an unknown compression"
    yield "header_size.bmp", bitmap[:14] + b"\x07" + bitmap[15:], "an unknown header"
    graphic = encoded(noise(), format="GIF")
    yield "header_version.gif", b"GIF99z" + graphic[6:], "an unknown version"
    yield "header_no_frame.gif", graphic[:781] + b";", "no frame"
    tiff = encoded(noise(), format="TIFF")
    yield "header_directory.tif", tiff[:4] + b"\xff\xff\xff\x7f" + tiff[8:], "a directory beyond its end"
    yield "header_loop.tif", tiff[:4] + b"\x00\x00\x00\x00" + tiff[8:], "no directory"
    webp = encoded(noise(), format="WEBP")
    yield "header_size.webp", webp[:20] + bytes(10) + webp[30:], "a frame without a start code"
    avif = encoded(noise(), format="AVIF", speed=10)
    yield "header_boxes.avif", avif.replace(b"ispe", b"xxxx").replace(b"av1C", b"xxxx"), "no size, no codec"


def _bombs() -> Iterator[tuple[str, bytes, str]]:
    """List small files that would decode to giant images."""
    why = "a small file that claims a giant image"
    for width, height in ((50_000, 50_000), (11_000, 11_000), (2_000_000, 61), (2**31 - 1, 2**31 - 1)):
        yield f"bomb_{width}x{height}.png", png_with_header(width, height), why
    jpeg = encoded(noise(), format="JPEG")
    start = jpeg.index(b"\xff\xc0")
    yield "bomb.jpg", jpeg[: start + 5] + struct.pack(">HH", 65_000, 65_000) + jpeg[start + 9 :], why
    graphic = encoded(noise(), format="GIF")
    yield "bomb.gif", graphic[:6] + struct.pack("<HH", 65_000, 65_000) + graphic[10:], why
    bitmap = encoded(noise(), format="BMP")
    yield "bomb.bmp", bitmap[:18] + struct.pack("<ii", 50_000, 50_000) + bitmap[26:], why


def _odd_entries(folder: Path) -> list[BadFile]:
    """Make entries that are no plain files, as far as this system has such."""
    (folder / "folder.jpg").mkdir()
    bad = [BadFile(folder / "folder.jpg", "a folder")]
    (folder / "lost.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    bad += [BadFile(folder / "lost.jpg", "a link to nothing"), BadFile(folder / "loop.png", "a link to itself")]
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.jpg")
        bad.append(BadFile(folder / "pipe.jpg", "a pipe, which would wait for ever"))
    return bad


def _bad_masks(folder: Path) -> list[BadFile]:
    """Write good photos whose masks cannot be used."""
    masks = {
        "size": encoded(Image.new("L", (63, 64), 255), format="PNG"),
        "black": encoded(Image.new("L", (64, 64), 0), format="PNG"),
        "labels": encoded(Image.new("L", (64, 64), 1), format="PNG"),
        "empty": b"",
        "text": b"no mask",
        "cut": encoded(noise(mode="L"), format="PNG")[:2000],
    }
    for name, data in masks.items():
        noise().save(folder / f"mask_{name}.png")
        (folder / f"mask_{name}.mask.png").write_bytes(data)
    return [BadFile(folder / f"mask_{name}.png", f"its mask: {name}") for name in masks]


def _chunk(kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    right = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", right if checksum is None else checksum)
