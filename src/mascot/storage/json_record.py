"""JSON records: frozen values with a file of their own, read by the version that wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from mascot.errors import UserError
from mascot.storage.atomic_write import atomic_write
from mascot.storage.untrusted_files import JSON_LIMIT, UnreadableFile, read_json_object, read_text


class JsonRecord(BaseModel):
    """A frozen value that is stored as one JSON file.

    A subclass gives the error messages `damaged` and `absent`. In them, `{path}` stands for the
    file and `{folder}` for its folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    damaged: ClassVar[str]
    """Message where the file cannot be read, or was written by another version."""
    absent: ClassVar[str] = ""
    """Message where there is no file; empty takes `damaged`."""

    def write(self, path: Path) -> None:
        """Write the record as JSON, atomically.

        Raises:
            UserError: the file cannot be written.
        """
        with atomic_write(path) as temporary:
            temporary.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a record that `write` wrote.

        Raises:
            UserError: the file is missing, damaged, or another version wrote it.
        """
        try:
            # Once as JSON of any kind, for its limits, and once by the types.
            read_json_object(path)
            return cls.model_validate_json(read_text(path, limit=JSON_LIMIT))
        except (UnreadableFile, ValidationError) as error:
            missing = isinstance(error, UnreadableFile) and error.missing
            message = cls.absent if cls.absent and missing else cls.damaged
            raise UserError(message.format(path=path, folder=path.parent)) from error
