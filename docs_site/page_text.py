"""Pieces of Markdown that the generated pages are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table; pipes inside cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell(text) for text in line) + " |" for line in lines) + "\n"


def cell(text: str) -> str:
    """Write a text on one line, as a table's cell."""
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    """Write a text as code, or nothing for an empty one."""
    return f"`{text}`" if text else ""


def sentence(text: str) -> str:
    """Write a help text or a description as a sentence; a value's name keeps its small letter."""
    text = text.strip().replace("<", "&lt;")
    if not text:
        return ""
    begin = text[0].upper() if text.split()[0].replace("-", "").isalpha() else text[0]
    return f"{begin}{text[1:]}{'' if text[-1] in '.?!' else '.'}"
