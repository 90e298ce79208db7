"""Laws of links: each leads to a file and a heading that exist; images say what they show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from documentation.markdown_pages import ROOT, all_pages, anchors, images, links, name_of

PAGES = all_pages()
OUTSIDE = re.compile(r"^(https?|mailto):")
FEWEST_WORDS = 3
"""Words of an alternative text below which it names an image rather than saying what it shows."""


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere."""
    found: list[str] = []
    for link in links(page):
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if OUTSIDE.match(link):
            continue
        if not target.exists() or not target.is_relative_to(ROOT):
            found.append(f"{link}: there is no such file")
        elif anchor and (target.suffix != ".md" or anchor not in anchors(target)):
            found.append(f"{link}: there is no such heading")
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken(page) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_image_says_what_it_shows(page: Path) -> None:
    assert [place for place, text in images(page) if len(text.split()) < FEWEST_WORDS] == []


def test_a_broken_link_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("# The `one` page\n[a](#the-one-page) [b](#two) [c](gone.md) [d](../x.md) [e](https://x.org)\n")
    assert [link.partition(":")[0] for link in broken(page)] == ["#two", "gone.md", "../x.md"]


def test_every_page_of_the_documentation_is_reached_from_its_first() -> None:
    """`docs/README.md` lists all others."""
    first = ROOT / "docs" / "README.md"
    listed = {(first.parent / link.partition("#")[0]).resolve() for link in links(first)}
    assert [name_of(page) for page in PAGES if page.is_relative_to(first.parent) and page not in {first, *listed}] == []
