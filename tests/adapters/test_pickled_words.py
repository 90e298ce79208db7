"""Pickled words and layers are read as tensors alone; anything else is refused by name."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch
from torch import nn

from mascot.adapters.adapter_file import Adapter
from mascot.adapters.formats.numbered_layers import unet_layers
from mascot.adapters.token_rows import read_records
from mascot.errors import UserError

ROWS = torch.randn(2, 768, generator=torch.Generator().manual_seed(0))
A1111 = {"string_to_token": {"*": 265}, "name": "inner", "step": 500, "sd_checkpoint": None}
LAYERS = list(unet_layers(("attn1", "ff", "attn2"), 768, residual=False))


def pairs(shapes: list[tuple[int, ...]]) -> list[torch.Tensor]:
    """Up and down projections in turn, of rank 1."""
    return [tensor for out, inner in shapes for tensor in (torch.ones(out, 1), torch.ones(1, inner))]


@pytest.mark.parametrize(
    ("content", "token"),
    [
        ({**A1111, "string_to_param": {"*": ROWS}}, "style"),
        ({**A1111, "string_to_param": {"*": nn.Parameter(ROWS)}}, "style"),
        ({"emb_params": ROWS}, "style"),
        ({"<owl>": ROWS}, "<owl>"),
        ({"clip_l": ROWS, "clip_g": ROWS}, "style"),
    ],
    ids=["A1111", "a parameter", "kohya", "diffusers", "a pair"],
)
@pytest.mark.parametrize("ending", [".pt", ".bin"])
def test_a_word_is_read_from_a_pickle(tmp_path: Path, content: object, token: str, ending: str) -> None:
    torch.save(content, tmp_path / f"style{ending}")
    adapter = Adapter.read(tmp_path / f"style{ending}")
    assert [record.token for record in read_records(adapter.metadata)] == [token]
    assert all(torch.equal(rows, ROWS) for rows in adapter.tensors.values())


def test_three_files_of_cloneofsimo_are_one_adapter(tmp_path: Path) -> None:
    torch.save(pairs([shape for _, (*shape,) in LAYERS]), tmp_path / "owl.pt")
    torch.save(pairs([(768, 768)] * 48), tmp_path / "owl.text_encoder.pt")
    torch.save({"<s1>": ROWS[0], "<s2>": ROWS[1]}, tmp_path / "owl.ti.pt")
    adapter = Adapter.read(tmp_path / "owl.pt")
    assert len(adapter.tensors) == 2 * (len(LAYERS) + 48) + 2
    assert [record.token for record in read_records(adapter.metadata)] == ["<s1>", "<s2>"]
    assert adapter.format == "cloneofsimo"
    alone = Adapter.read(tmp_path / "owl.text_encoder.pt")
    assert {key.partition(".")[0] for key in alone.tensors} == {"text_encoder"}


class Bomb:
    """Something that runs when it is unpickled as Python does."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        """Leave a trace."""
        return (Path.touch, (str(self.path),))


def test_what_needs_more_than_tensors_is_refused_by_name(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    torch.save({"string_to_param": nn.ParameterDict({"*": ROWS})}, tmp_path / "old.pt")
    torch.save({"string_to_param": {"*": Bomb(ran)}}, tmp_path / "bomb.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"string_to_param": {"*": Bomb(ran)}}))
    for name, reason in {
        "old": "holds a torch.nn.modules.container.ParameterDict, not tensors alone",
        "bomb": "holds a pathlib.Path.touch|holds a ",
        "plain": "holds a |holds more than tensors",
    }.items():
        with pytest.raises(UserError, match=reason) as refused:
            Adapter.read(tmp_path / f"{name}.pt")
        assert str(refused.value).endswith("give a .safetensors file.")
    assert not ran.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04junk", b"\x80\x02junk"])
def test_damaged_pickles_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        Adapter.read(tmp_path / "a.pt")


def test_a_truncated_pickle_and_a_bomb_of_zeros_are_refused(tmp_path: Path) -> None:
    whole = io.BytesIO()
    torch.save({"<a>": ROWS}, whole)
    (tmp_path / "half.pt").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    with ZipFile(tmp_path / "zeros.pt", "w", ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\0" * (300 << 20))
    for name, reason in {"half": "no whole file of pickled tensors", "zeros": "unpacks to more than 256 MiB"}.items():
        with pytest.raises(UserError, match=reason):
            Adapter.read(tmp_path / f"{name}.pt")


@pytest.mark.parametrize("content", [{}, [], {"a": 1}, 3, {"string_to_param": {"a": ROWS, "b": ROWS}}, [ROWS, 3]])
def test_pickles_of_something_else_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match="holds no tensors of words or layers"):
        Adapter.read(tmp_path / "a.pt")
