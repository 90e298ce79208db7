"""Safetensors files: their header, which is read without the tensors, and their tensors.

Pickled weights are never opened. This file imports no torch until tensors are read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from mascot.storage.strict_parsing import MalformedText, parse_json_object
from mascot.storage.untrusted_files import UnreadableFile, decode_text, open_regular

if TYPE_CHECKING:
    from torch import Tensor

HEADER_LIMIT = 100_000_000
"""Most bytes of a header; the format's own limit."""

NOT_WHOLE = "it is not a whole .safetensors file"
REMEDY = "copy or export it again"

_METADATA = "__metadata__"


class TensorEntry(BaseModel):
    """What a header says of one tensor."""

    model_config = ConfigDict(frozen=True, strict=True)

    dtype: str
    """The format's name, such as `F32` or `BF16`."""
    shape: list[Annotated[int, Field(ge=0)]]
    data_offsets: list[Annotated[int, Field(ge=0)]] = Field(min_length=2, max_length=2)
    """First byte, and the byte after the last, from the end of the header."""

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


_ENTRIES = TypeAdapter(dict[str, TensorEntry])
_TEXTS = TypeAdapter(dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorHeader:
    """The header of a safetensors file."""

    entries: Mapping[str, TensorEntry]
    """Name of a tensor to its type and shape, in the file's order."""
    metadata: Mapping[str, str]


def read_header(path: Path, *, remedy: str = REMEDY) -> TensorHeader:
    """Read the header of a safetensors file, and check it against the file's size.

    Raises:
        UnreadableFile: it is missing, not a regular file, or not a whole safetensors file.
    """
    with open_regular(path, remedy=remedy) as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if length <= HEADER_LIMIT else b""
        size = file.seek(0, 2)
    try:
        values = parse_json_object(decode_text(text))
        metadata = _TEXTS.validate_python(values.pop(_METADATA, {}), strict=True)
        entries = _ENTRIES.validate_python(values)
    except (MalformedText, ValidationError):
        raise UnreadableFile(path, NOT_WHOLE, remedy) from None
    end = max((entry.data_offsets[1] for entry in entries.values()), default=0)
    if len(text) != length or end != size - 8 - length:
        raise UnreadableFile(path, NOT_WHOLE, remedy)
    return TensorHeader(entries=entries, metadata=metadata)


def read_tensors(path: Path, *, prefix: str = "", remedy: str = REMEDY) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors of a safetensors file whose names start with a prefix, and its metadata.

    They are on the CPU.

    Raises:
        UnreadableFile: see `read_header`.
    """
    header = read_header(path, remedy=remedy)
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 - not a mapping
            return {name: file.get_tensor(name) for name in names}, dict(header.metadata)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise UnreadableFile(path, NOT_WHOLE, remedy) from error
