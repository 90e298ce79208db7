"""Laws of reading what others wrote: no wait, no traceback, one sentence that names the file."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mascot.errors import UserError
from mascot.storage.image_files import open_image, read_png, write_image
from mascot.storage.json_record import JsonRecord
from mascot.storage.strict_parsing import ExcessiveText, MalformedText, parse_json, parse_toml
from mascot.storage.tensor_files import read_header, read_tensors
from mascot.storage.untrusted_files import (
    UnreadableFile,
    digest_of,
    read_bytes,
    read_json,
    read_json_lines,
    read_json_object,
    read_text,
    read_toml,
)


class Weather(JsonRecord):
    """A record of one number."""

    damaged = "{path} is damaged; delete it."
    degrees: float


READERS: tuple[Callable[[Path], object], ...] = (
    read_bytes,
    read_text,
    read_toml,
    read_json,
    read_json_object,
    read_json_lines,
    digest_of,
    open_image,
    read_png,
    read_header,
    read_tensors,
    Weather.read,
)


def pipe(path: Path) -> None:
    """A named pipe that nobody writes to."""
    os.mkfifo(path)


def endless_link(path: Path) -> None:
    """A link to a device that never ends."""
    path.symlink_to("/dev/zero")


def link_to_itself(path: Path) -> None:
    """A link that leads nowhere."""
    path.symlink_to(path)


def link_to_pipe(path: Path) -> None:
    """A link to a pipe."""
    pipe(path.with_name("pipe"))
    path.symlink_to("pipe")


def terminal(path: Path) -> None:
    """A link to what a terminal's input would be."""
    path.symlink_to("/dev/tty")


def kernel_log(path: Path) -> None:
    """A file of the kernel whose size is said to be 0."""
    path.symlink_to("/proc/self/mem")


def sparse(path: Path) -> None:
    """A file that is much larger than the disk."""
    path.touch()
    os.truncate(path, 2**42)


@pytest.mark.parametrize("read", READERS, ids=lambda read: getattr(read, "__qualname__", "reader"))
@pytest.mark.parametrize("make", [pipe, endless_link, link_to_itself, link_to_pipe, terminal, kernel_log, Path.mkdir])
def test_what_is_no_file_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], None], read: Callable[[Path], object]
) -> None:
    path = tmp_path / "file"
    make(path)
    began = time.monotonic()
    with pytest.raises(UserError, match="file"):
        read(path)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "read", [read for read in READERS if read is not digest_of], ids=lambda read: read.__qualname__
)
def test_a_file_larger_than_its_kind_is_refused_by_its_size(tmp_path: Path, read: Callable[[Path], object]) -> None:
    sparse(tmp_path / "file")
    with pytest.raises(UserError, match="file"):
        read(tmp_path / "file")


@pytest.mark.parametrize("read", READERS, ids=lambda read: getattr(read, "__qualname__", "reader"))
@pytest.mark.parametrize("name", ["gone", "a\0b", "\ud800", "x" * 300, "file/inside"], ids=ascii)
def test_a_path_that_leads_nowhere_is_refused(tmp_path: Path, name: str, read: Callable[[Path], object]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError):
        read(tmp_path / name)


def test_a_socket_is_no_file(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "file"))
        with pytest.raises(UnreadableFile, match="it is a socket, not a file"):
            read_text(tmp_path / "file")


def test_a_missing_file_can_be_told_from_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match=r"gone cannot be read \(it does not exist\); look again\.") as gone:
        read_text(tmp_path / "gone", remedy="look again")
    (tmp_path / "bad").write_bytes(b"\n\xff")
    with pytest.raises(UnreadableFile, match=r"bad cannot be read \(line 2 is not UTF-8\)") as bad:
        read_text(tmp_path / "bad")
    assert gone.value.missing
    assert not bad.value.missing


def test_a_text_may_have_a_byte_order_mark_and_no_nul(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("a\nb", encoding="utf-8-sig")
    assert read_text(path) == "a\nb"
    path.write_bytes(b"a\nb\0")
    with pytest.raises(UnreadableFile, match="line 2 holds a NUL character"):
        read_text(path)


DEEP = 2_000
MALFORMED_JSON = {
    "": "Expecting value",
    "nope": "line 1",
    "{\n": "line 2",
    "[" * DEEP: "nested",
    "[" * 100_000 + "]" * 100_000: "nested",
    '{"a":' * 900 + "1" + "}" * 900: "nested",
    "9" * 5_000: "digits",
    "9" * 200: "digits",
    "-" + "9" * 200: "digits",
    "NaN": "not finite",
    "[1e999]": "not finite",
    "-Infinity": "not finite",
    r'"\ud800"': "surrogate",
    r'{"\udfff": 1}': "surrogate",
    r'{"a": [{"b": "\ud83d"}]}': "surrogate",
}
MALFORMED_TOML = {
    "a = ": "Invalid value",
    "a = " + "[" * DEEP + "]" * DEEP: "nested",
    "a = " + "[" * 200 + "]" * 200: "nested",
    "a = " + "{b=" * DEEP + "1" + "}" * DEEP: "nested",
    "[" + ".".join("a" * DEEP) + "]": "nested",
    ".".join("a" * 200_000) + " = 1": "nested",
    " . ".join(['"a b"'] * 200_000) + " = 1": "nested",
    "a = " + "9" * 5_000: "digits",
    "a = " + "9" * 200: "digits",
    "a = 0x" + "f" * 5_000: "digits",
    "a = 0b" + "1" * 50_000: "digits",
    "a = 2024-02-31": "date",
    "a = 1\na = 2": "Cannot overwrite",
}


@pytest.mark.parametrize("text", MALFORMED_JSON, ids=lambda text: text[:12])
def test_malformed_json_is_a_clause(text: str) -> None:
    with pytest.raises(MalformedText, match=MALFORMED_JSON[text]):
        parse_json(text)


@pytest.mark.parametrize("text", MALFORMED_TOML, ids=lambda text: text[:12])
def test_malformed_toml_is_a_clause(text: str) -> None:
    began = time.monotonic()
    with pytest.raises(MalformedText, match=f"(?i){MALFORMED_TOML[text]}"):
        parse_toml(text)
    assert time.monotonic() - began < 5


def test_beyond_limits_is_told_from_malformed() -> None:
    with pytest.raises(ExcessiveText):
        parse_toml("a = " + "9" * 5_000)
    with pytest.raises(MalformedText) as malformed:
        parse_toml("a = ")
    assert not isinstance(malformed.value, ExcessiveText)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(), inside, max_size=4),
    max_leaves=20,
)


@given(value=VALUES)
def test_whatever_json_may_hold_is_read(value: object) -> None:
    assert parse_json(json.dumps(value)) == value


def test_toml_of_every_kind_is_read() -> None:
    text = (
        'base = "a.b.c"\nrate = 1e-4\nlimit = inf\n[dataset]\ntemplates = ["a. b. c.", "1.2.3.4"]\n[a.b."c d"]\ne = 1'
    )
    values = parse_toml(text)
    assert values["limit"] == float("inf")
    assert values["a"] == {"b": {"c d": {"e": 1}}}


@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_value_or_a_clause(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "file"
    path.write_bytes(content)
    for read in READERS:
        try:
            read(path)
        except UserError as error:
            assert str(path) in str(error)  # noqa: PT017 - a value is as good


def test_a_faulty_line_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    separator = "\N{LINE SEPARATOR}"
    path.write_bytes(
        b'{"a": 1}\n\xff\n\n[1\n5\r\n' + json.dumps(f"a{separator}b", ensure_ascii=False).encode() + b"\nNaN"
    )
    lines = read_json_lines(path)
    assert [(line.number, line.value) for line in lines] == [
        (1, {"a": 1}),
        (2, None),
        (4, None),
        (5, 5),
        (6, f"a{separator}b"),
        (7, None),
    ]
    assert [line.fault for line in lines if line.fault] == [
        "it is not UTF-8",
        "Expecting ',' delimiter",
        "it holds the number nan, which is not finite",
    ]
    assert str(read_json_lines(path, finite=False)[-1].value) == "nan"


def test_a_png_is_read_with_its_texts(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    image = Image.new("RGB", (3, 2), "red")
    write_image(image, path, "a red one")
    read, texts = read_png(path)
    assert read.tobytes() == image.tobytes()
    assert texts.keys() == {"parameters", "seal"}
    assert texts["parameters"] == "a red one"
    whole = path.read_bytes()
    for damaged in (whole[:-20], whole[:40], b"", whole.replace(b"IDAT", b"IDAX")):
        path.write_bytes(damaged)
        with pytest.raises(UnreadableFile, match="not a whole PNG"):
            read_png(path)
    image.save(path, format="JPEG")
    with pytest.raises(UnreadableFile, match="not a whole PNG"):
        read_png(path)


def safetensors(header: object, data: bytes = b"") -> bytes:
    """A safetensors file of any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


FLOAT = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def test_a_tensor_file_is_read_with_its_metadata(tmp_path: Path) -> None:
    path = tmp_path / "tensors"
    path.write_bytes(safetensors({"a": FLOAT, "__metadata__": {"of": "x"}}, bytes(4)))
    header = read_header(path)
    assert (header.entries["a"].size, header.metadata) == (1, {"of": "x"})
    tensors, metadata = read_tensors(path)
    assert (tensors["a"].tolist(), metadata) == ([0.0], {"of": "x"})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        b"\xff" * 100,
        safetensors(b"{"),
        safetensors([]),
        safetensors({"a": 5}, bytes(4)),
        safetensors({"a": FLOAT}),
        safetensors({"a": FLOAT}, bytes(9)),
        safetensors({"a": FLOAT | {"shape": [-1]}}, bytes(4)),
        safetensors({"a": FLOAT | {"shape": [10**99]}}, bytes(4)),
        safetensors({"a": FLOAT | {"dtype": "F33"}}, bytes(4)),
        safetensors({"a": FLOAT | {"data_offsets": [4, 0]}}, bytes(4)),
        safetensors({"a": FLOAT, "__metadata__": {"of": 5}}, bytes(4)),
        safetensors(b'{"a":' * 5_000),
    ],
    ids=lambda content: repr(content[8:40]),
)
def test_a_damaged_tensor_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tensors"
    path.write_bytes(content)
    with pytest.raises(UnreadableFile, match=r"not a whole \.safetensors file"):
        read_tensors(path)
