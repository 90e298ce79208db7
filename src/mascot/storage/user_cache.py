"""The user's cache folder, which all runs share."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder of mascot's caches: class images, samples, chosen tokens.

    It is `$MASCOT_CACHE` where set, else `mascot` in `$XDG_CACHE_HOME`, else `~/.cache/mascot`.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MASCOT_CACHE") or Path(home) / "mascot")
