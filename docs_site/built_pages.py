"""The built site: what its pages would load from other machines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

LOADED = {
    "audio": ("src",),
    "embed": ("src",),
    "iframe": ("src",),
    "image": ("href", "xlink:href"),
    "img": ("src", "srcset"),
    "input": ("src",),
    "link": ("href",),
    "object": ("data",),
    "script": ("src",),
    "source": ("src", "srcset"),
    "use": ("href", "xlink:href"),
    "video": ("src", "poster"),
}
"""Element -> attributes that a browser loads without being asked; links (`a`) are not there."""
ELSEWHERE = re.compile(r"(?:https?:)?//", re.IGNORECASE)
STYLE_LOADS = re.compile(
    r"""url\(\s*["']?((?:https?:)?//[^"')]+)|@import\s+["']((?:https?:)?//[^"']+)""", re.IGNORECASE
)
QUIET = {"canonical"}
"""Relations of `link` that nothing is loaded for."""


class LoadedParts(HTMLParser):
    """Collects what a page loads from other machines."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Check one element's attributes."""
        values = {name: value or "" for name, value in attrs}
        self.in_style = tag == "style"
        if tag == "link" and values.get("rel") in QUIET:
            return
        self.found += [f"<{tag} {name}={values[name]}>" for name in LOADED.get(tag, ()) if elsewhere(values.get(name))]
        self.found += [f"<{tag} style: {place}>" for place in style_loads(values.get("style", ""))]
        if "mermaid" in values.get("class", "").split():
            self.found.append(f"<{tag} class=mermaid>, for which a script is loaded")

    def handle_data(self, data: str) -> None:
        """Check the text of a style."""
        if self.in_style:
            self.found += [f"<style> {place}" for place in style_loads(data)]
            self.in_style = False


def elsewhere(value: str | None) -> bool:
    """Tell whether an attribute's value names another machine, in any of its parts."""
    return any(ELSEWHERE.match(part.strip()) for part in (value or "").split(","))


def style_loads(text: str) -> Iterator[str]:
    """List the places on other machines that a style sheet loads."""
    for first, second in STYLE_LOADS.findall(text):
        yield first or second


def requests_elsewhere(site: Path) -> list[str]:
    """List what the pages and style sheets of a site load from other machines."""
    found: list[str] = []
    for page in sorted(site.rglob("*.html")):
        parts = LoadedParts()
        parts.feed(page.read_text(encoding="utf-8"))
        found += [f"{page.relative_to(site)}: {part}" for part in parts.found]
    for sheet in sorted(site.rglob("*.css")):
        found += [f"{sheet.relative_to(site)}: {place}" for place in style_loads(sheet.read_text(encoding="utf-8"))]
    return found
