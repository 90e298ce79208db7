"""Laws of the site: it shows what GitHub shows, is complete, and asks no other machine."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import markdown
import pytest

import mascot
from docs_site.__main__ import build
from docs_site.built_pages import requests_elsewhere
from docs_site.command_pages import command_page
from docs_site.equations import with_mathml
from docs_site.markdown_dialect import for_python_markdown
from docs_site.python_pages import event_page, python_page, record_page
from docs_site.recipe_pages import preset_page, recipe_page
from docs_site.staging import committed_pages
from documentation.documented_commands import COMMANDS, recipe_keys
from documentation.markdown_pages import PARSER, ROOT, name_of

COUNTED = {"a", "blockquote", "h1", "h2", "h3", "h4", "img", "li", "ol", "pre", "strong", "table", "td", "ul"}


class Elements(HTMLParser):
    """Counts the elements of a page that its Markdown asks for."""

    def __init__(self, *, inside: str | None = None) -> None:
        super().__init__()
        self.inside, self.open, self.found = inside, inside is None, Counter[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Count an element, but the links that the theme adds."""
        added = any(name == "class" and "headerlink" in (value or "") for name, value in attrs)
        numbers = any(name == "id" and (value or "").startswith("__") for name, value in attrs)
        self.open = self.open or tag == self.inside
        if self.open and tag in COUNTED and not (added or numbers):
            self.found[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        """Leave the part that is counted."""
        self.open = self.open and tag != self.inside


def elements(html: str, *, inside: str | None = None) -> Counter[str]:
    """The elements of a page, or of one part of it."""
    counter = Elements(inside=inside)
    counter.feed(html)
    return counter.found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built."""
    folder = tmp_path_factory.mktemp("site")
    assert build(folder / "work", folder / "site") == []
    return folder / "site"


@pytest.mark.slow
def test_the_site_shows_what_github_shows(site: Path) -> None:
    """Each page has as many headings, lists, tables, links and images as CommonMark makes of it."""
    for page in committed_pages():
        built = (site / page.relative_to(ROOT)).with_suffix(".html")
        built = built.with_name("index.html") if page.name == "README.md" else built
        expected = elements(PARSER.render(page.read_text(encoding="utf-8")))
        assert elements(built.read_text(encoding="utf-8"), inside="article") == expected, name_of(page)


@pytest.mark.slow
def test_the_site_holds_every_page_and_equation(site: Path) -> None:
    text = (site / "docs" / "reference" / "metrics.html").read_text(encoding="utf-8")
    source = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    assert text.count("<math ") == source.count("$`") + source.count("\n$$\n") // 2 > 0
    assert not re.search(r"\$`|\\frac|\\sum", re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL))


@pytest.mark.parametrize(
    "text",
    [
        "One:\n- a\n- b\n",
        "1. One:\n   - a\n   - b\n\n   More.\n   - c\n2. Two.\n",
        "- a\n\n  ```sh\n  - no item\n  ```\n- b\n",
        "A line of\n16. is none.\n",
        "- a line of rank\n  16. So it is none.\n",
        "Text:\n| a | b |\n|---|---|\n| `1` | 2 |\n",
        "- a\n  - b\n    - c\n\n    more of c\n- d\n",
        "```text\n- a\n| b |\n```\n",
    ],
)
def test_lists_and_tables_are_read_as_on_github(text: str) -> None:
    extensions = ["tables", "pymdownx.superfences"]
    built = markdown.markdown(for_python_markdown(text), extensions=extensions)
    assert elements(built) == elements(PARSER.render(text))


def test_equations_become_mathml_but_not_in_code() -> None:
    text = with_mathml("A $`x_i`$.\n\n$$\n\\frac{1}{2}\n$$\n\n```text\n$$\nx\n$$\n```\n")
    assert text.count("<math ") == 2
    assert (
        '<div class="equation"><math xmlns="http://www.w3.org/1998/Math/MathML" display="block"><mrow><mfrac>' in text
    )
    assert "```text\n$$\nx\n$$\n```" in text


@pytest.mark.parametrize(
    "part",
    [
        '<script src="https://x.org/a.js"></script>',
        '<link rel="stylesheet" href="//x.org/a.css">',
        '<link rel="preconnect" href="https://fonts.x.org">',
        '<img src="a.png" srcset="a.png 1x, https://x.org/b.png 2x">',
        '<p style="background: url(https://x.org/a.png)">',
        "<style>@import 'https://x.org/a.css';</style>",
        "<style>p { color: red } p { background: url('//x.org/a.png') }</style>",
        '<pre class="mermaid"></pre>',
        '<iframe src="HTTP://x.org"></iframe>',
    ],
)
def test_a_request_to_another_machine_is_noticed(part: str, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(f"<html><body>{part}</body></html>", encoding="utf-8")
    assert len(requests_elsewhere(tmp_path)) == 1


def test_links_and_own_files_are_no_requests(tmp_path: Path) -> None:
    page = '<link rel="canonical" href="https://x.org"><a href="https://x.org"></a><img src="../a.png">'
    (tmp_path / "index.html").write_text(page, encoding="utf-8")
    (tmp_path / "a.css").write_text("/* https://x.org */ p { background: url(a.png) }", encoding="utf-8")
    assert requests_elsewhere(tmp_path) == []


def test_a_style_sheet_that_asks_another_machine_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.css").write_text("p { background: url(https://x.org/a.woff2) }", encoding="utf-8")
    assert requests_elsewhere(tmp_path) == ["a.css: https://x.org/a.woff2"]


def test_the_reference_of_commands_has_every_option() -> None:
    page = command_page()
    for name, command in COMMANDS.items():
        section = page.partition(f"\n## mascot {name}\n")[2].partition("\n## ")[0]
        options = [
            option for one in command.params for option in one.opts if option.startswith("-") and one.name != "help"
        ]
        assert [option for option in options if f"`{option}`" not in section] == []


def test_the_reference_of_the_recipe_has_every_key() -> None:
    page = recipe_page()
    assert [key for key in recipe_keys() if f"| `{key}` |" not in page] == []
    assert "| `training.weight_decay` | number from 0, up to 10 | `0.01` | Decoupled weight decay. |" in page


def test_the_reference_of_presets_has_every_preset() -> None:
    page = preset_page()
    assert [
        path.stem for path in ROOT.glob("src/mascot/recipe/presets/*.toml") if f"## {path.stem}\n" not in page
    ] == []


def test_the_reference_of_python_has_every_public_name() -> None:
    page = python_page()
    assert [name for name in mascot.__all__ if f"\n## mascot.{name}\n" not in page] == []
    assert "    seed: int = 0,\n" in page


def test_the_reference_of_events_and_records_says_what_each_field_is() -> None:
    assert "| `step` | `int` | Number of steps done so far, from 1. |" in event_page()
    assert "**Scores.**" in record_page()
    assert "| `encoders` | `dict[str, str]` |" in record_page()
