"""Laws of tensor files: read one at a time or written one at a time, they are the library's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mascot.errors import UserError
from mascot.storage.tensor_files import open_tensors, shape_of, stream_tensors, write_tensors
from mascot.storage.untrusted_files import UnreadableFile


def some_tensors() -> dict[str, Tensor]:
    """Tensors of every kind of type and shape, at any alignment."""
    return {
        "matrix": torch.arange(6.0).view(2, 3),
        "number": torch.tensor(4.0),
        "empty": torch.zeros(0, 5, dtype=torch.float16),
        "half": torch.arange(5, dtype=torch.float16),
        "brain": torch.arange(7, dtype=torch.bfloat16),
        "eight": torch.arange(3.0).to(torch.float8_e4m3fn),
        "marks": torch.tensor([True, False, True]),
        "ids": torch.arange(77)[None],
        "kernel": torch.arange(36.0, dtype=torch.float64).view(2, 2, 3, 3),
    }


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have one type, one shape and equal values."""
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one.double(), other.double())


def test_what_is_streamed_is_what_the_library_reads(tmp_path: Path) -> None:
    tensors, path = some_tensors(), tmp_path / "a.safetensors"
    write_tensors(path, tensors, {"key": "välue"})
    read = load_file(path)
    assert read.keys() == tensors.keys()
    assert all(same(read[name], tensor) for name, tensor in tensors.items())
    with open_tensors(path) as stored:
        assert stored.header.metadata == {"key": "välue"}


def test_what_the_library_wrote_is_read_one_at_a_time(tmp_path: Path) -> None:
    tensors, path = some_tensors(), tmp_path / "a.safetensors"
    save_file(tensors, path)
    with open_tensors(path) as stored:
        assert set(stored) == set(tensors)
        assert all(same(stored[name], tensor) for name, tensor in tensors.items())


def test_the_order_of_writing_changes_no_byte(tmp_path: Path) -> None:
    tensors = some_tensors()
    write_tensors(tmp_path / "a.safetensors", tensors, {"b": "1", "a": "2"})
    write_tensors(tmp_path / "b.safetensors", dict(reversed(tensors.items())), {"a": "2", "b": "1"})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_failure_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"older")

    def fail(temporary: Path) -> None:
        assert temporary.stat().st_size > 100
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"a\.safetensors cannot be written \(No space left on device\)"):
        write_tensors(path, some_tensors(), {}, finish=fail)
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
    assert path.read_bytes() == b"older"


def test_a_tensor_that_is_not_written_is_noticed(tmp_path: Path) -> None:
    shapes = {name: shape_of(tensor) for name, tensor in some_tensors().items()}
    with pytest.raises(AssertionError, match="every tensor"), stream_tensors(tmp_path / "a", shapes, {}) as write:
        write("number", torch.tensor(4.0))


def test_a_file_that_becomes_shorter_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(100_000)}, path)
    with open_tensors(path) as stored:
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(UserError, match="not a whole"):
            _ = stored["a"]


def test_a_header_that_lies_about_a_type_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for dtype in ("F64", "F99"):
        header = f'{{"a":{{"dtype":"{dtype}","shape":[2],"data_offsets":[0,8]}}}}'.encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
        with pytest.raises(UnreadableFile), open_tensors(path) as stored:
            _ = stored["a"]
