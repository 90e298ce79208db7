"""What every exported folder needs: no private paths, open permissions, a known size."""

from __future__ import annotations

import json
from pathlib import Path

ORIGINS = ("_name_or_path", "name_or_path", "is_local", "local_files_only")
"""Configuration keys that say from which local folder a module was read, and how."""


def strip_origins(folder: Path) -> None:
    """Remove from every JSON configuration the keys that name the maker's own folders."""
    for file in sorted(folder.rglob("*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        if any(key in content for key in ORIGINS):
            kept = {key: value for key, value in content.items() if key not in ORIGINS}
            file.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def megabytes_of(folder: Path) -> float:
    """Sum the sizes of all files, in millions of bytes."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def open_to_all(folder: Path) -> None:
    """Let everyone read all files; safetensors writes some that only their owner may read."""
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o644)
