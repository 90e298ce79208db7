"""Who is told what is going on: one callable, for the terminal, a notebook or nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Progress = Callable[[str, Any], None]
"""Told what is going on: a phase's name and its facts; whoever takes one says which there are."""


def silent(phase: str, facts: Any = None) -> None:
    """Tell nobody."""
    del phase, facts
