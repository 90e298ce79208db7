"""The sides of a base that an adapter changes: its denoiser, its text encoders, or both."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

DENOISER: Final = "denoiser"
TEXT_ENCODERS: Final = "text encoders"
"""The text encoders, with their embeddings of tokens."""
Sides = frozenset[str]
"""A set of DENOISER and TEXT_ENCODERS."""
Changes = Callable[[Iterable[str]], Sides]
"""Tells by the names of an adapter's tensors which sides of a base it changes."""


def sides_of(keys: Iterable[str]) -> Sides:
    """Tell from tensor names `<part>.<layer>` which sides of a base they change."""
    parts = (re.sub(r"^stage\d+\.", "", key).partition(".")[0] for key in keys)
    return frozenset(TEXT_ENCODERS if part.startswith("text_encoder") else DENOISER for part in parts)
