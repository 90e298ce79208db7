"""Laws of the Russian README: the same sections, commands, links and images as the English one."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from documentation.documented_commands import page_commands
from documentation.markdown_pages import ROOT, blocks, headings, images, inline_code, links

ENGLISH, RUSSIAN = ROOT / "README.md", ROOT / "README.ru.md"
EACH_OTHER = {ENGLISH.name, RUSSIAN.name}
CYRILLIC = re.compile(r"[\u0400-\u04ff]")


def outline(page: Path) -> list[str]:
    """The levels of a page's headings, in order."""
    return [level for level, _ in headings(page)]


def test_the_sections_are_the_same() -> None:
    assert outline(RUSSIAN) == outline(ENGLISH)


def test_every_section_but_the_name_is_said_in_russian() -> None:
    assert [text for _, text in headings(RUSSIAN)[1:] if not CYRILLIC.search(text)] == []


def test_the_commands_are_the_same_in_each_block() -> None:
    assert list(page_commands(RUSSIAN)) == list(page_commands(ENGLISH))
    assert [block.language for block in blocks(RUSSIAN)] == [block.language for block in blocks(ENGLISH)]


def test_the_code_inside_lines_is_the_same() -> None:
    """A sentence may name its parts in another order."""
    assert Counter(inline_code(RUSSIAN)) == Counter(inline_code(ENGLISH))


def test_the_links_are_the_same_but_those_to_each_other() -> None:
    both = [Counter(link for link in links(page) if link not in EACH_OTHER) for page in (RUSSIAN, ENGLISH)]
    assert both[0] == both[1]


def test_the_images_are_the_same_and_described_in_russian() -> None:
    assert [place for place, _ in images(RUSSIAN)] == [place for place, _ in images(ENGLISH)]
    assert [text for _, text in images(RUSSIAN) if not CYRILLIC.search(text)] == []


def test_each_links_to_the_other() -> None:
    assert RUSSIAN.name in links(ENGLISH)
    assert ENGLISH.name in links(RUSSIAN)
