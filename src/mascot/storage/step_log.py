"""The step log of a run, `steps.jsonl`: one JSON object a line, for each optimizer step."""

from __future__ import annotations

import json
from pathlib import Path

from mascot.storage.atomic_write import atomic_write


def read_steps(path: Path, until: int | None = None) -> list[dict[str, object]]:
    """Read the rows of a step log up to and including step `until`; None reads all.

    A last line that was cut off, by a power failure say, is ignored. A missing log has no rows.
    """
    rows: list[dict[str, object]] = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                break
            if until is None or row["step"] <= until:
                rows.append(row)
    return rows


def rewind_steps(path: Path, step: int) -> None:
    """Drop the rows after `step`, because those steps will be trained again."""
    rows = read_steps(path, step)
    with atomic_write(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
