"""TODO storage.user_cache."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where class pictures are kept: $MASCOT_CACHE, else the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MASCOT_CACHE") or Path(home) / "mascot")
