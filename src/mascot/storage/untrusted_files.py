"""Reading files that others wrote: the only file of the package that opens files for reading.

A file may be missing, huge, damaged, no text, or no file at all: a pipe, a device, a folder, a link
that leads to itself. No reader waits for such a thing or fails with anything but `UnreadableFile`,
whose text is one sentence. `tensor_files` and `image_files` read the other kinds by `open_regular`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, reduce
from io import BufferedReader
from operator import or_
from pathlib import Path
from typing import TypeVar

from mascot.errors import UserError
from mascot.storage.strict_parsing import MalformedText, parse_json, parse_json_object, parse_toml

TEXT_LIMIT = 2**20
"""Most bytes of a caption, a table or a list."""
TOML_LIMIT = 2**20
"""Most bytes of a recipe."""
JSON_LIMIT = 2**26
"""Most bytes of a JSON file."""
LINES_LIMIT = 2**30
"""Most bytes of a log or a table of JSON lines."""

REMEDY = "repair the file, or give another one"

_REASONS: Mapping[int, str] = {
    errno.ENOENT: "it does not exist",
    errno.ENOTDIR: "it does not exist",
    errno.ELOOP: "it is a link that leads to itself",
    errno.EACCES: "you may not read it",
    errno.EPERM: "you may not read it",
    errno.EISDIR: "it is a folder",
    errno.ENXIO: "it is a socket, not a file",
    errno.ENODEV: "it is a device, not a file",
    errno.EAGAIN: "it is a device, not a file",
    errno.ENAMETOOLONG: "its name is too long",
}

_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe, not a file"),
    (stat.S_ISSOCK, "a socket, not a file"),
)

_FLAGS = reduce(
    or_, (getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY")), os.O_RDONLY
)
"""Flags that open files; no system has all."""

Parsed = TypeVar("Parsed")


class UnreadableFile(UserError):  # noqa: N818 - a kind of user error that names what it is about
    """Raised for a file that cannot be read: `PATH cannot be read (REASON); REMEDY.`.

    `reason` is a clause such as `it is a folder`. `missing` tells that nothing is at the path.
    """

    def __init__(self, path: Path, reason: str, remedy: str = REMEDY, *, missing: bool = False) -> None:
        super().__init__(f"{path} cannot be read ({reason}); {remedy}.")
        self.path, self.reason, self.missing = path, reason, missing


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonLine:
    """One line of a file of JSON lines."""

    number: int
    """From 1."""
    value: object = None
    """Its value; None also where there is a fault."""
    fault: str = ""
    """A clause that says why the line cannot be read; empty where it can."""


@contextmanager
def open_regular(path: Path, *, limit: int | None = None, remedy: str = REMEDY) -> Generator[BufferedReader]:
    """Open a regular file to read its bytes; anything else is refused without waiting for it.

    Errors of the system while the context lasts are refused likewise.

    Args:
        path: The file; links are followed.
        limit: Most bytes that it may have; None allows any number.
        remedy: What the user can do, for the message.

    Raises:
        UnreadableFile: it is missing, may not be read, is larger, or is not a regular file.
    """
    try:
        check_regular(os.stat(path).st_mode, path, remedy)  # noqa: PTH116 - Path.stat names fewer errors
        # It may have been exchanged since: a pipe or a device would make a plain open wait.
        with os.fdopen(os.open(path, _FLAGS), "rb") as file:
            status = os.fstat(file.fileno())
            check_regular(status.st_mode, path, remedy)
            if limit is not None and status.st_size > limit:
                raise UnreadableFile(path, f"it is larger than {size_text(limit)}", remedy)
            yield file
    except OSError as error:
        if error.errno is None:  # not the system's: Pillow raises this type for damaged images
            raise
        reason = _REASONS.get(error.errno, error.strerror or "the system refuses")
        missing = error.errno in {errno.ENOENT, errno.ENOTDIR}
        raise UnreadableFile(path, reason, remedy, missing=missing) from error
    except ValueError as error:
        if "\0" in str(path):
            raise UnreadableFile(path, "its name holds a NUL character", remedy) from error
        if isinstance(error, UnicodeEncodeError):
            raise UnreadableFile(path, "its name is not Unicode", remedy) from error
        raise


def check_regular(mode: int, path: Path, remedy: str = REMEDY) -> None:
    """Refuse what is no regular file, by its mode.

    Raises:
        UnreadableFile: it is a folder, a pipe, a socket or a device.
    """
    if not stat.S_ISREG(mode):
        kind = next((kind for is_kind, kind in _KINDS if is_kind(mode)), "a device, not a file")
        raise UnreadableFile(path, f"it is {kind}", remedy)


def size_text(limit: int) -> str:
    """Write a number of bytes as KiB, MiB or GiB."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if limit >= size:
            return f"{limit // size} {unit}"
    return f"{limit // 2**10} KiB"


def read_bytes(path: Path, *, limit: int = JSON_LIMIT, remedy: str = REMEDY) -> bytes:
    """Read a regular file of at most `limit` bytes.

    Raises:
        UnreadableFile: see `open_regular`.
    """
    with open_regular(path, limit=limit, remedy=remedy) as file:
        content = file.read(limit + 1)
    if len(content) > limit:  # it says it is smaller: files of the kernel, or one that grows
        raise UnreadableFile(path, f"it is larger than {size_text(limit)}", remedy)
    return content


def read_text(path: Path, *, limit: int = TEXT_LIMIT, remedy: str = REMEDY) -> str:
    """Read a UTF-8 text, with or without a byte order mark.

    Raises:
        UnreadableFile: see `open_regular`; or it is not UTF-8, or holds a NUL character.
    """
    content = read_bytes(path, limit=limit, remedy=remedy)
    try:
        return decode_text(content)
    except MalformedText as error:
        raise UnreadableFile(path, str(error), remedy) from None


def decode_text(content: bytes) -> str:
    """Decode UTF-8 bytes, with or without a byte order mark.

    Raises:
        MalformedText: they are not UTF-8, or hold a NUL character; the clause names the line.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise MalformedText(f"line {line} is not UTF-8") from None
    before, nul, _ = text.partition("\0")
    if nul:
        line = before.count("\n") + 1
        raise MalformedText(f"line {line} holds a NUL character")
    return text


def read_toml(path: Path, *, remedy: str = "correct the file") -> dict[str, object]:
    """Read a TOML file as nested dicts; see `parse_toml`.

    Raises:
        UnreadableFile: it cannot be read, or is not TOML.
    """
    return _parse(path, read_text(path, limit=TOML_LIMIT, remedy=remedy), parse_toml, remedy)


def read_json(path: Path, *, remedy: str = REMEDY) -> object:
    """Read a JSON file as plain values; see `parse_json`.

    Raises:
        UnreadableFile: it cannot be read, or is not JSON.
    """
    return _parse(path, read_text(path, limit=JSON_LIMIT, remedy=remedy), parse_json, remedy)


def read_json_object(path: Path, *, finite: bool = True, remedy: str = REMEDY) -> dict[str, object]:
    """Read a JSON file that holds an object; see `parse_json`.

    Raises:
        UnreadableFile: it cannot be read, or holds no JSON object.
    """
    text = read_text(path, limit=JSON_LIMIT, remedy=remedy)
    return _parse(path, text, partial(parse_json_object, finite=finite), remedy)


def read_json_lines(path: Path, *, finite: bool = True, remedy: str = REMEDY) -> list[JsonLine]:
    """Read a file of one JSON value a line; blank lines are left out.

    A line that cannot be read has a fault, and the others are still read.

    Raises:
        UnreadableFile: see `open_regular`.
    """
    lines: list[JsonLine] = []
    # Only line feeds end a line: str.splitlines would also split texts at U+2028.
    for number, content in enumerate(read_bytes(path, limit=LINES_LIMIT, remedy=remedy).split(b"\n"), start=1):
        if not content.strip():
            continue
        try:
            lines.append(JsonLine(number=number, value=parse_json(decode_text(content), finite=finite)))
        except MalformedText as error:
            lines.append(JsonLine(number=number, fault=str(error).removeprefix("line 1: ").replace("line 1", "it", 1)))
    return lines


def digest_of(
    path: Path, *, limit: int | None = None, remedy: str = "put it back, or delete it and start again"
) -> str:
    """Hash a regular file: SHA-256 in hexadecimal digits.

    Raises:
        UnreadableFile: see `open_regular`.
    """
    with open_regular(path, limit=limit, remedy=remedy) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parse(path: Path, text: str, parse: Callable[[str], Parsed], remedy: str) -> Parsed:
    try:
        return parse(text)
    except MalformedText as error:
        raise UnreadableFile(path, str(error), remedy) from None
