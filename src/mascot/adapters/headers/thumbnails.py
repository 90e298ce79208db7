"""The small image in an adapter's header, which tools show beside its title."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Final

from PIL import Image

SIDE: Final = 256
"""Side in pixels, as ModelSpec recommends."""
QUALITY: Final = 85
START: Final = "data:image/jpeg;base64,"


def thumbnail(image: Image.Image) -> str:
    """Make a square JPEG of SIDE pixels as a data URI, from the middle of an image."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.convert("RGB").crop((left, top, left + side, top + side))
    content = BytesIO()
    square.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(content, "JPEG", quality=QUALITY, optimize=True)
    return START + base64.b64encode(content.getvalue()).decode()
