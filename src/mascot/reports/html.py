"""Self-contained HTML pages: fill a template, embed the images, write the file.

The room's templates decide how a page looks, and the callers what it says.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL.Image import Image

from mascot.storage.atomic_write import atomic_write
from mascot.storage.untrusted_files import read_text

LOSSLESS_SIDE = 128
"""Images up to this many pixels a side are embedded losslessly (PNG), others as WebP."""

LONGEST_SIDE = 1024
"""Larger images are reduced to this side, in pixels, so that pages stay small enough to send."""


def fill_template(name: str, filters: Mapping[str, Callable[..., str]] | None = None, /, **values: object) -> str:
    """Render a template of this room to HTML.

    Every string of `values` is escaped, and a missing value is an error. Templates embed images
    with the filter `data_uri`; `filters` adds more.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    named: Any = {"data_uri": data_uri, **(filters or {})}  # jinja2 types its filters one by one
    environment.filters.update(named)
    return environment.from_string(read_text(Path(str(files("mascot.reports").joinpath(name))))).render(**values)


def write_html(html: str, path: Path) -> None:
    """Write a page atomically.

    Raises:
        UserError: the file cannot be written; an older page is unchanged.
    """
    # A file name may hold undecodable bytes (lone surrogates), which show as \udcNN on the page.
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(html.encode(errors="backslashreplace"))


def data_uri(image: Image) -> str:
    """Encode an image as a data URI.

    Images up to 128 pixels a side become PNG. Larger ones become WebP of quality 90, at most 1024
    pixels a side. Color profiles are kept. Other metadata is dropped, because a shared page must
    not reveal where a photo was taken.
    """
    from PIL.Image import Resampling

    # A profile belongs to the mode it came with: after a conversion it would give wrong colors.
    profile = image.info.get("icc_profile") if image.mode in {"RGB", "RGBA"} else None
    clean = image.convert("RGBA" if image.has_transparency_data else "RGB")
    clean.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Resampling.LANCZOS)
    file = BytesIO()
    if max(clean.size) <= LOSSLESS_SIDE:
        kind = "png"
        clean.save(file, "PNG", optimize=True, icc_profile=profile)
    else:
        kind = "webp"
        clean.save(file, "WEBP", quality=90, icc_profile=profile or b"")
    return f"data:image/{kind};base64,{b64encode(file.getvalue()).decode()}"
