"""Markdown of the repository, rewritten for Python-Markdown, which mkdocs uses.

The pages are written for GitHub (CommonMark). There a nested list is indented as far as its item's
text, and a list or a table may follow a paragraph at once. Python-Markdown wants four spaces for
each level, and an empty line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

ITEM = re.compile(r"(?P<marker>[-*+]|\d+[.)])(?P<space> +)(?=\S)")
NUMBER = re.compile(r"(\d+)\. ")
FENCE = re.compile(r"(?P<fence>`{3,}|~{3,})")
LEVEL = 4
"""Spaces of one level of a list."""


@dataclass(slots=True)
class Rewriting:
    """A page that is rewritten line by line."""

    lines: list[str] = field(default_factory=list)
    items: list[tuple[int, int]] = field(default_factory=list)
    """Open list items, the outermost first: where the marker and where the text begins."""
    fence: str = ""
    """The fence of an open block of code."""
    in_list: bool = False
    """Whether the lines since the last empty one began with a list item."""

    @property
    def after_blank(self) -> bool:
        """Whether the last line is empty, or there is none."""
        return not self.lines or not self.lines[-1].strip()

    def add(self, line: str) -> None:
        """Rewrite one line."""
        text, indent = line.strip(), len(line) - len(line.lstrip())
        if self.fence:
            self.write(line.rstrip()[min(indent, self.text_column) :])
            self.fence = "" if text.startswith(self.fence) and not text.strip(self.fence[0]) else self.fence
        elif not text:
            self.lines.append("")
        elif (item := ITEM.match(text)) and self.may_begin(item["marker"], indent):
            self.open_item(indent, indent + item.end(), text)
        else:
            self.add_text(indent, text)

    def may_begin(self, marker: str, indent: int) -> bool:
        """Tell whether a line is an item; inside a paragraph, a list's numbers begin at 1."""
        return self.after_blank or indent < self.text_column or marker[:-1] in {"", "1"}

    @property
    def text_column(self) -> int:
        """Where the text of the innermost open item begins."""
        return self.items[-1][1] if self.items else 0

    def open_item(self, marker: int, column: int, text: str) -> None:
        """Write the first line of a list item."""
        while self.items and marker < self.items[-1][1]:
            self.items.pop()
        if not (self.in_list or self.after_blank):
            self.lines.append("")
        self.in_list = True
        self.write(text)
        self.items.append((marker, column))

    def add_text(self, indent: int, text: str) -> None:
        """Write a line of a paragraph, a table, a heading or a fence."""
        if self.after_blank or text.startswith("#"):
            self.in_list = False
            while self.items and indent < self.items[-1][1]:
                self.items.pop()
        if fence := FENCE.match(text):
            self.fence = fence["fence"]
        elif text.startswith("|") and not self.after_blank and not self.lines[-1].strip().startswith("|"):
            self.lines.append("")
        number = NUMBER.match(text)  # which is none here, but would be read as one
        self.write(f"{number[1]}\\{text[number.end(1) :]}" if number else text)

    def write(self, text: str) -> None:
        """Write a text at the level of the open items."""
        self.lines.append(f"{' ' * LEVEL * len(self.items)}{text}" if text else "")


def for_python_markdown(page: str) -> str:
    """Rewrite a page so that Python-Markdown reads what CommonMark reads."""
    rewriting = Rewriting()
    for line in page.splitlines():
        rewriting.add(line)
    return "\n".join(rewriting.lines) + "\n"
