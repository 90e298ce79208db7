"""What is kept as one JSON file: written whole or not at all, and read back by the version that wrote it alone."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from mascot.errors import UserError
from mascot.storage.atomic_write import atomic_write


class JsonRecord(BaseModel):
    """A frozen value with a file of its own; the sentences say what to do about the file, with `{path}` and `{folder}` filled in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    damaged: ClassVar[str]
    """Where the file cannot be read, or is not of this version."""
    absent: ClassVar[str] = ""
    """Where there is none; nothing takes the same sentence as for a damaged one."""

    def write(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        with atomic_write(path) as temporary:
            temporary.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote.

        Raises:
            UserError: it is not there, damaged, or another version wrote it.
        """
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, ValidationError) as error:
            said = cls.absent if cls.absent and isinstance(error, FileNotFoundError) else cls.damaged
            raise UserError(said.format(path=path, folder=path.parent)) from error
