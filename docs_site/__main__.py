"""Build the documentation into `site/`, and refuse what is broken or asks another machine."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = Path(__file__).parent / "mkdocs.yml"


def main() -> None:
    """Build the site, and say where it is."""
    # What bitsandbytes says when it is imported concerns no page.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    site = ROOT / "site"
    found = build(ROOT / "build" / "documentation", site)
    if found:
        sys.exit("\n".join(["the site is broken:", *found]))
    print(f"{site / 'index.html'}: {len(list(site.rglob('*.html')))} pages, nothing is loaded from other machines")


def build(work: Path, site: Path) -> list[str]:
    """Stage the pages in `work`, build them strictly into `site`, and list what is wrong."""
    from docs_site.built_pages import requests_elsewhere
    from docs_site.staging import stage

    stage(work / "pages")
    settings = work / "mkdocs.yml"
    settings.write_text(f"INHERIT: {SETTINGS}\ndocs_dir: pages\nsite_dir: {site}\n", encoding="utf-8")
    # Not --quiet: it would hide warnings from --strict too.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--clean", "--config-file", str(settings)]
    done = subprocess.run(command, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=False)  # noqa: S603 - our own words
    if done.returncode:
        return ["mkdocs refused a page"]
    # The theme reads this file where the pages are opened from disk.
    index = (site / "search" / "search_index.json").read_text(encoding="utf-8")
    (site / "search" / "search_index.js").write_text(f"var __index = {index}", encoding="utf-8")
    return requests_elsewhere(site)


if __name__ == "__main__":
    main()
