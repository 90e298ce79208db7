"""The step log of a run, `steps.jsonl`: one JSON object a line, for each optimizer step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mascot.storage.atomic_write import atomic_write
from mascot.storage.untrusted_files import UnreadableFile, read_json_lines

REMEDY = "move it away, and the run goes on without its earlier losses"


class _Row(BaseModel):
    """What every row holds; others may be absent, or infinite (a gradient norm under fp16)."""

    model_config = ConfigDict(strict=True)

    step: int = Field(ge=1)
    loss: float = Field(allow_inf_nan=False)
    subject_loss: float = Field(allow_inf_nan=False)


def read_steps(path: Path, until: int | None = None) -> list[dict[str, Any]]:
    """Read the rows of a step log up to and including step `until`; None reads all.

    Lines that were cut off or damaged, by a power failure say, are left out. A missing log has no
    rows.

    Raises:
        UnreadableFile: there is something else at the path, such as a folder.
    """
    try:
        lines = read_json_lines(path, finite=False, remedy=REMEDY)
    except UnreadableFile as error:
        if error.missing:
            return []
        raise
    rows: dict[int, dict[str, Any]] = {}
    for line in lines:
        if is_row(line.value):
            row = cast("dict[str, Any]", line.value)
            rows.setdefault(row["step"], row)
    return [row for step, row in sorted(rows.items()) if until is None or step <= until]


def is_row(value: object) -> bool:
    """Tell whether a line of the log holds a whole row."""
    try:
        _Row.model_validate(value)
    except ValidationError:
        return False
    return True


def rewind_steps(path: Path, step: int) -> int:
    """Drop the rows after `step`, because those steps will be trained again.

    Returns how many of the steps up to `step` the log has lost.

    Raises:
        UserError: there is something else at the path, or the log cannot be written.
    """
    rows = read_steps(path, step)
    with atomic_write(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return step - len(rows)
