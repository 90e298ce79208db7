"""Pages of one HTML file each with everything inside, which open offline: a template is filled, pictures become part of it, it is written.

What a page says is decided elsewhere, and how it looks in the templates beside this file.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable, Mapping
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL.Image import Image

from mascot.storage.atomic_write import atomic_write

LOSSLESS_SIDE = 128
"""Pictures up to this many pixels a side are kept exactly (PNG); larger ones are WebP at quality 90."""


LONGEST_SIDE = 1024
"""Larger pictures are reduced to this many pixels on the page, so that ten camera photos do not make a page nobody can send."""


def fill_template(name: str, filters: Mapping[str, Callable[..., str]] | None = None, /, **values: Any) -> str:
    """Turn a template of the package into HTML: every string of the values is escaped, and a value that is not given is an error.

    Templates write pictures with the filter `data_uri`, and with what else `filters` has.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    named: Any = {"data_uri": data_uri, **(filters or {})}  # jinja2 types its filters one by one
    environment.filters.update(named)
    return environment.from_string(files("mascot.reports").joinpath(name).read_text("utf-8")).render(**values)


def write_html(html: str, path: Path) -> None:
    """Write a page; an older one is replaced only at the end.

    Raises:
        UserError: it cannot be written; what stood there still does.
    """
    # A file name may hold bytes that are no text (lone surrogates here): they are shown as \udcNN, as no encoding can carry them.
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(html.encode(errors="backslashreplace"))
        file.flush()
        os.fsync(file.fileno())  # some disks say only now that they are full


def data_uri(image: Image) -> str:
    """Encode a picture as a data URI: exact PNG up to 128 pixels a side, else WebP of quality 90 and at most 1024 pixels.

    Colour profiles stay, all other metadata goes: a page that is passed on must not tell where a photo was taken.
    """
    from PIL.Image import Resampling

    # A profile fits the colours that it came with: after a change of mode it would give wrong ones.
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
