"""The folder that mkdocs reads: the repository's Markdown in its places, and generated pages."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from docs_site.command_pages import command_page
from docs_site.equations import with_mathml
from docs_site.markdown_dialect import for_python_markdown
from docs_site.python_pages import event_page, python_page, record_page
from docs_site.recipe_pages import preset_page, recipe_page

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("*.md", "docs/**/*.md", "benchmarks/README.md", "starter_training/README.md")
"""Patterns of the Markdown files that become pages."""
GENERATED = {
    "docs/reference/commands.md": command_page,
    "docs/reference/recipe_keys.md": recipe_page,
    "docs/reference/presets.md": preset_page,
    "docs/reference/python.md": python_page,
    "docs/reference/events.md": event_page,
    "docs/reference/records.md": record_page,
}
"""Page -> the function that writes it."""
SHOWN = ("examples/mascot/mascot.svg",)
"""Files that the theme shows, as `mkdocs.yml` names them."""
LINK = re.compile(r"(?P<before>\]\()(?P<target>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)")


def stage(folder: Path) -> None:
    """Fill an empty folder with all pages, and with the files that they link to or show."""
    shutil.rmtree(folder, ignore_errors=True)
    for page in committed_pages():
        text = page.read_text(encoding="utf-8")
        write(folder / page.relative_to(ROOT), text)
        for target in linked_files(page, text):
            place = folder / target.relative_to(ROOT)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(target, place)
    for name, make in GENERATED.items():
        write(folder / name, make())
    shutil.copytree(Path(__file__).parent / "theme", folder / "theme")
    for name in SHOWN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)


def committed_pages() -> list[Path]:
    """List the Markdown files that become pages."""
    return sorted({path for pattern in PAGES for path in ROOT.glob(pattern)})


def linked_files(page: Path, text: str) -> Iterator[Path]:
    """List the files beside Markdown that a page links to: images, licenses, data."""
    for link in LINK.finditer(text):
        target = (page.parent / link["target"]).resolve()
        if target.is_file() and target.suffix != ".md":
            yield target


def write(path: Path, text: str) -> None:
    """Write a page as mkdocs reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(for_python_markdown(with_mathml(text)), encoding="utf-8")
