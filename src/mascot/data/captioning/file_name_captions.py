"""Make captions of the names of photos, such as `a brown dog on grass (2).jpg`."""

from __future__ import annotations

import re
from pathlib import Path

from mascot.data.prompt_templates import one_line

_COUNTER = re.compile(r"[\s._-]*(?:\(\d+\)|\[\d+\]|\d+|copy)\s*$", re.IGNORECASE)
_CAMERA = re.compile(
    r"(?:img|image|dsc[nf]?|dcim|pxl|mvimg|photo|foto|pic|picture|screenshot|screen shot|whatsapp image|signal|"
    r"capture|scan|unnamed|download|untitled|gopr|dji|sam|hpim|imag|file|copy|edited|final|[a-z]|p)?[\W\d_]*(?:at)?"
    r"[\W\d_]*",
    re.IGNORECASE,
)
"""Names that cameras, phones and programs give, which describe nothing."""


def caption_of_name(photo: Path) -> str | None:
    """Return the caption that a photo's name holds; None if it is only a number or a camera's name.

    Underscores and hyphens become spaces, and a counter at the end is dropped. Braces are literal,
    except those of placeholders.
    """
    words = photo.stem
    while shorter := _COUNTER.sub("", words):
        if shorter == words:
            break
        words = shorter
    if _CAMERA.fullmatch(words) or _CAMERA.fullmatch(photo.stem):
        return None
    words = re.sub(r"\{(?!(?:subject|token|class)\})|(?<!\{subject)(?<!\{token)(?<!\{class)\}", _doubled, words)
    caption = one_line(re.sub(r"[_\s]+|(?<=\w)-(?=\w)", " ", words)).strip(" -.,")
    return caption if sum(letter.isalpha() for letter in caption) > 1 else None


def _doubled(brace: re.Match[str]) -> str:
    return brace.group() * 2
