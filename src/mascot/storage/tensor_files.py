"""Safetensors files: their header, which is read without the tensors, and their tensors.

`read_tensors` reads all of them. `open_tensors` reads each when it is asked for, and
`stream_tensors` writes one at a time, so files may be larger than the memory. Of pickled files,
`read_pickled` reads tensors and plain values alone. This file imports no torch until tensors are
read.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from mascot.storage.atomic_write import atomic_write
from mascot.storage.strict_parsing import MalformedText, parse_json_object
from mascot.storage.untrusted_files import UnreadableFile, decode_text, open_regular

if TYPE_CHECKING:
    import torch
    from torch import Tensor

HEADER_LIMIT = 100_000_000
"""Most bytes of a header; the format's own limit."""

PICKLED_LIMIT = 2**28
"""Most bytes of a file of pickled tensors, packed and unpacked: words and small adapters."""

MOST_DIMENSIONS = 64
"""Most dimensions of a tensor; the most that torch computes with."""

NOT_WHOLE = "it is not a whole .safetensors file"
REMEDY = "copy or export it again"

DTYPES: Final[Mapping[str, str]] = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
"""Name of a type in a header -> its name in torch."""

_METADATA = "__metadata__"


class TensorEntry(BaseModel):
    """What a header says of one tensor."""

    model_config = ConfigDict(frozen=True, strict=True)

    dtype: str
    """The format's name, such as `F32` or `BF16`."""
    shape: list[Annotated[int, Field(ge=0)]] = Field(max_length=MOST_DIMENSIONS)
    data_offsets: list[Annotated[int, Field(ge=0)]] = Field(min_length=2, max_length=2)
    """First byte, and the byte after the last, from the end of the header."""

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def fits(self) -> bool:
        """Tell whether its bytes are those of its shape; types that torch lacks are not counted."""
        width = re.search(r"\d+", self.dtype)
        count = self.size * (int(width[0]) // 8 if width else 1)
        return self.dtype not in DTYPES or count == self.data_offsets[1] - self.data_offsets[0]


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
    if (
        len(text) != length
        or not fills(entries.values(), size - 8 - length)
        or not all(one.fits for one in entries.values())
    ):
        raise UnreadableFile(path, NOT_WHOLE, remedy)
    return TensorHeader(entries=entries, metadata=metadata)


def fills(entries: Iterable[TensorEntry], size: int) -> bool:
    """Tell whether tensors stand one after the other in so many bytes, without gap and overlap."""
    end = 0
    for first, after in sorted(entry.data_offsets for entry in entries):
        if first != end or after < first:
            return False
        end = after
    return end == size


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


@dataclass(frozen=True, slots=True)
class TensorShape:
    """Type and shape of a tensor in a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * self.dtype.itemsize


def shape_of(tensor: Tensor) -> TensorShape:
    """Return the type and the shape of a tensor."""
    return TensorShape(tensor.dtype, tuple(tensor.shape))


class StoredTensors(Mapping[str, "Tensor"]):
    """The tensors of an open safetensors file, each read when it is asked for, and not kept.

    Nothing is mapped into memory, so the memory of a process holds what it uses alone.
    """

    def __init__(self, path: Path, header: TensorHeader, file: BufferedReader, remedy: str) -> None:
        self.path, self.header = path, header
        self._file, self._remedy = file, remedy
        file.seek(0)
        self._start = 8 + int.from_bytes(file.read(8), "little")

    def shape(self, name: str) -> TensorShape:
        """Return the type and the shape of a tensor, without reading it.

        Raises:
            UnreadableFile: its type is not one that torch has, or its size is not its shape's.
        """
        import torch

        entry = self.header.entries[name]
        if entry.dtype not in DTYPES:
            raise UnreadableFile(self.path, f"{name} has the type {entry.dtype}", self._remedy)
        found = TensorShape(getattr(torch, DTYPES[entry.dtype]), tuple(entry.shape))
        if found.bytes != entry.data_offsets[1] - entry.data_offsets[0]:
            raise UnreadableFile(self.path, NOT_WHOLE, self._remedy)
        return found

    def __getitem__(self, name: str) -> Tensor:
        """Read one tensor, on the CPU.

        Raises:
            UnreadableFile: see `shape`; or the file has become shorter.
        """
        import torch

        found, first = self.shape(name), self.header.entries[name].data_offsets[0]
        if not found.bytes:
            return torch.empty(found.shape, dtype=found.dtype)
        content = bytearray(found.bytes)
        self._file.seek(self._start + first)
        if self._file.readinto(content) != len(content):
            raise UnreadableFile(self.path, NOT_WHOLE, self._remedy)
        return torch.frombuffer(content, dtype=found.dtype).view(found.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.header.entries)

    def __len__(self) -> int:
        return len(self.header.entries)


@contextmanager
def open_tensors(path: Path, *, remedy: str = REMEDY) -> Generator[StoredTensors]:
    """Open a safetensors file whose tensors are read one at a time, while the context lasts.

    Raises:
        UnreadableFile: see `read_header`.
    """
    header = read_header(path, remedy=remedy)
    with open_regular(path, remedy=remedy) as opened:
        file = os.fdopen(os.dup(opened.fileno()), "rb")  # what the caller then fails to write is not this file's fault
    with file:
        yield StoredTensors(path, header, file, remedy)


@contextmanager
def stream_tensors(
    path: Path, shapes: Mapping[str, TensorShape], metadata: Mapping[str, str]
) -> Generator[Callable[[str, Tensor], None]]:
    """Write a safetensors file one tensor at a time, in any order, at a temporary path.

    Yields a function that writes one tensor. All must be written before the context ends. Equal
    tensors and metadata give equal bytes. The caller gives the file its name (`atomic_write`).
    """
    header, starts = lay_out(shapes, metadata)
    left = set(shapes)
    with path.open("wb") as file:
        file.write(header)

        def write(name: str, tensor: Tensor) -> None:
            import torch

            assert shape_of(tensor) == shapes[name], f"{name} is what the header says"
            file.seek(len(header) + starts[name])
            file.write(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            left.remove(name)

        yield write
        assert not left, "every tensor is written, and once"


def lay_out(shapes: Mapping[str, TensorShape], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int]]:
    """Make the header of a safetensors file; returns its bytes, and where each tensor starts.

    Wide types come first, as the format requires aligned tensors.
    """
    names = {f"torch.{name}": short for short, name in DTYPES.items()}
    starts: dict[str, int] = {}
    values: dict[str, object] = {_METADATA: dict(metadata)}
    end = 0
    for name in sorted(shapes, key=lambda name: (-shapes[name].dtype.itemsize, name)):
        one, starts[name] = shapes[name], end
        end += one.bytes
        values[name] = {
            "dtype": names[str(one.dtype)],
            "shape": list(one.shape),
            "data_offsets": [starts[name], end],
        }
    text = json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, starts


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    finish: Callable[[Path], None] | None = None,
) -> None:
    """Write tensors as a safetensors file, atomically, without a second copy in memory.

    `finish` gets the temporary path when all is written.

    Raises:
        UserError: the file cannot be written; an older file at `path` is kept.
    """
    shapes = {name: shape_of(tensor) for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        with stream_tensors(temporary, shapes, metadata) as write:
            for name, tensor in tensors.items():
                write(name, tensor)
        if finish is not None:
            finish(temporary)


def replace_header(path: Path, text: bytes) -> None:
    """Replace the header of a file that is being written by one of the same length."""
    with path.open("r+b") as file:
        assert len(text) == int.from_bytes(file.read(8), "little"), "the tensors stay where they are"
        file.write(text)


def read_pickled(path: Path, *, remedy: str = REMEDY) -> object:
    """Read a small file of pickled tensors, without running code that it may hold.

    torch's reader for weights alone builds tensors, numbers, texts, lists and dicts, and nothing
    else. Tensors are on the CPU.

    Raises:
        UnreadableFile: it is larger than PICKLED_LIMIT, is damaged, or holds anything else.
    """
    import torch

    with open_regular(path, limit=PICKLED_LIMIT, remedy=remedy) as file:
        try:
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    if sum(entry.file_size for entry in archive.infolist()) > PICKLED_LIMIT:
                        raise UnreadableFile(path, f"it unpacks to more than {PICKLED_LIMIT // 2**20} MiB", remedy)
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of unusual protocols, which say nothing to a user
                return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            needed = re.search(r"GLOBAL ([\w.]+)", str(error))
            reason = f"it holds a {needed[1]}, not tensors alone" if needed else "it holds more than tensors"
            raise UnreadableFile(path, f"{reason}, and opening that could run code", remedy) from error
        except (zipfile.BadZipFile, RuntimeError, EOFError, ValueError, LookupError, struct.error, TypeError) as error:
            raise UnreadableFile(path, "it is no whole file of pickled tensors", remedy) from error
        except (AttributeError, AssertionError, NotImplementedError, MemoryError) as error:
            raise UnreadableFile(path, "it is no whole file of pickled tensors", remedy) from error
