"""Build the documentation into `site/`, and refuse what is broken or asks another machine."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "site"


def main() -> None:
    """Stage the pages, build them strictly, and check what was built."""
    # What bitsandbytes says when it is imported concerns no page.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from docs_site.built_pages import requests_elsewhere
    from docs_site.staging import stage

    stage(ROOT / "build" / "site_pages")
    settings = Path(__file__).parent / "mkdocs.yml"
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    # Not --quiet: it would hide warnings from --strict too.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--clean", "--config-file", str(settings)]
    done = subprocess.run(command, env=environment, check=False)  # noqa: S603 - our own words
    if done.returncode:
        sys.exit(done.returncode)
    found = requests_elsewhere(SITE)
    if found:
        sys.exit("\n".join(["the site asks other machines:", *found]))
    print(f"{SITE / 'index.html'}: {len(list(SITE.rglob('*.html')))} pages, nothing is loaded from other machines")


if __name__ == "__main__":
    main()
