"""The repository's Markdown files: their headings, links, images and blocks of code."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
MADE = {".venv", "build", "dist", "runs", "site", "starter_work"}
"""Folders of the root that are made, and not part of the repository."""
PARSER = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code: its language, its text, and the number of its first line."""

    language: str
    text: str
    line: int


def all_pages() -> list[Path]:
    """List every Markdown file of the repository."""
    found = (path for path in ROOT.rglob("*.md") if path.relative_to(ROOT).parts[0] not in MADE)
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(ROOT).parts))


def name_of(page: Path) -> str:
    """A page's name in tests: its place in the repository."""
    return page.relative_to(ROOT).as_posix()


@cache
def tokens(page: Path) -> tuple[Token, ...]:
    """The page's blocks and, after each, what is inside its lines."""
    found: list[Token] = []
    for token in PARSER.parse(page.read_text(encoding="utf-8")):
        found += [token, *(token.children or ())]
    return tuple(found)


def links(page: Path) -> Iterator[str]:
    """The targets of links and images."""
    for token in tokens(page):
        target = token.attrGet("href") if token.type == "link_open" else token.attrGet("src")
        if token.type in {"link_open", "image"} and isinstance(target, str):
            yield target


def images(page: Path) -> Iterator[tuple[str, str]]:
    """The images, each with its place and its alternative text."""
    for token in tokens(page):
        if token.type == "image":
            yield str(token.attrGet("src")), token.content


def headings(page: Path) -> list[tuple[str, str]]:
    """The level and the text of each heading, in order."""
    found = tokens(page)
    return [
        (token.tag, plain(inside.children or [])) for token, inside in pairwise(found) if token.type == "heading_open"
    ]


def plain(parts: list[Token]) -> str:
    """What a reader sees of a line."""
    return "".join(part.content for part in parts if part.type in {"text", "code_inline"})


def anchors(page: Path) -> set[str]:
    """The names of a page's headings in links, as GitHub makes them."""
    seen: Counter[str] = Counter()
    found: set[str] = set()
    for _, text in headings(page):
        slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def blocks(page: Path) -> list[Block]:
    """The blocks of code."""
    return [
        Block(token.info.split()[0] if token.info.split() else "", token.content, (token.map or [0])[0] + 1)
        for token in tokens(page)
        if token.type == "fence"
    ]


def inline_code(page: Path) -> list[str]:
    """The pieces of code inside lines."""
    return [token.content for token in tokens(page) if token.type == "code_inline"]
