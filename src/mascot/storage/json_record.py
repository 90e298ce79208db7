"""JSON records: frozen values with a file of their own, read by the version that wrote them."""

from __future__ import annotations

import hashlib
import logging
import os
from functools import cache
from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from mascot.errors import UserError
from mascot.storage.atomic_write import atomic_write
from mascot.storage.untrusted_files import JSON_LIMIT, UnreadableFile, read_json_object, read_text

logger = logging.getLogger(__name__)


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


class CachedRecord(JsonRecord):
    """A record that can be made again: where its file is damaged, it counts as absent."""

    damaged = "{path} is damaged; delete it, and it is made again."
    seal: str = ""
    """Hash of the other values, in a file; empty elsewhere, and in files of older versions."""

    def write(self, path: Path) -> None:
        """Write the record as JSON, atomically, with its seal.

        Raises:
            UserError: the file cannot be written.
        """
        super(CachedRecord, self.model_copy(update={"seal": self.hashed()})).write(path)

    def hashed(self) -> str:
        """Hash all values but the seal; 32 hexadecimal digits."""
        return hashlib.sha256(self.model_dump_json(exclude={"seal"}).encode()).hexdigest()[:32]

    @classmethod
    def recall(cls, path: Path) -> Self | None:
        """Read a record; None if it is missing, or damaged, which is said in one line."""
        if not os.path.lexists(path):
            return None
        try:
            record = cls.read(path)
        except UserError:
            record = None
        if record is None or record.seal not in {"", record.hashed()}:
            warn_of_damage(path)
            return None
        return record.model_copy(update={"seal": ""})


@cache
def warn_of_damage(path: Path) -> None:
    """Warn that a cached record is damaged, once for each file."""
    logger.warning("%s is damaged; what it held is made again.", path)
