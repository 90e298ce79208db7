"""Laws of the adapter file: it reads back as written, is written atomically, never unpickled."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mascot.adapters import adapter_file
from mascot.adapters.adapter_file import Adapter, Manifest
from mascot.adapters.lora_keys import read_settings
from mascot.diffusion.noise import gaussian, seeded
from mascot.errors import UserError

MANIFEST = Manifest(
    method="lora",
    base="owner/name",
    base_identity="0123",
    token="sks",  # noqa: S106 - a token of prompts, no secret
    class_noun="dog",
    resolution=64,
    step=3,
    recipe={"seed": 1, "ö": [1.5]},
)


def made(manifest: Manifest | None = MANIFEST, names: str = "bac") -> Adapter:
    tensors = {f"unet.{name}.lora_A.weight": gaussian((3, 2), [seeded(name)])[0] for name in names}
    tensors |= {f"unet.{name}.lora_B.weight": gaussian((2, 3), [seeded(name)])[0] for name in names}
    return Adapter(
        tensors=tensors, metadata={"z": "1", "lora_adapter_metadata": '{"unet.r": 3}', "a": "ü"}, manifest=manifest
    )


@pytest.mark.parametrize(
    "manifest", [MANIFEST, MANIFEST.model_copy(update={"class_noun": None}), None], ids=["ours", "no noun", "theirs"]
)
def test_what_is_written_is_what_is_read(tmp_path: Path, manifest: Manifest | None) -> None:
    written = made(manifest)
    written.write(tmp_path / "new" / "adapter.safetensors")
    read = Adapter.read(tmp_path / "new" / "adapter.safetensors")
    assert read.metadata == written.metadata
    assert read.manifest == written.manifest
    assert set(read.tensors) == set(written.tensors)
    for name, tensor in written.tensors.items():
        assert torch.equal(read.tensors[name], tensor)
        assert read.tensors[name].dtype == tensor.dtype


def test_equal_adapters_are_equal_bytes_whatever_their_order(tmp_path: Path) -> None:
    contents = set[bytes]()
    for number, names in enumerate(["abc", "bca", "cab"] * 4):
        made(names=names).write(tmp_path / f"{number}.safetensors")
        contents.add((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(contents) == 1


def test_other_tools_find_the_metadata_and_the_tensors(tmp_path: Path) -> None:
    made().write(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        metadata = file.metadata()
        assert metadata["format"] == "pt"
        assert metadata["lora_adapter_metadata"] == '{"unet.r": 3}'
        assert sorted(file.keys()) == [f"unet.{name}.lora_{half}.weight" for name in "abc" for half in "AB"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    made().write(path)
    before = path.read_bytes()

    def full(target: Path) -> None:
        assert target.exists()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(adapter_file, "fill_hashes", full)
    with pytest.raises(UserError, match="No space left"):
        made(names="x").write(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_a_broken_and_a_pickled_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    made().write(path)
    whole = path.read_bytes()
    with pytest.raises(UserError, match="does not exist"):
        Adapter.read(tmp_path / "b.safetensors")
    with pytest.raises(UserError, match="does not exist"):
        Adapter.read(tmp_path)
    for content in (b"", whole[:5], whole[:-7], b"\xff" * 100, whole[:8] + b"!" + whole[9:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a whole"):
            Adapter.read(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match="pickled weights"):
        Adapter.read(path)


@pytest.mark.parametrize(
    "text",
    [MANIFEST.model_dump_json().replace('"version":1', '"version":2'), '{"version":1,"new":2}'],
)
def test_a_manifest_of_another_version_is_refused(tmp_path: Path, text: str) -> None:
    save_file({"unet.a.lora_A.weight": torch.zeros(1)}, tmp_path / "a.safetensors", metadata={"mascot": text})
    with pytest.raises(UserError, match="another version of mascot"):
        Adapter.read(tmp_path / "a.safetensors")


def test_the_weights_of_a_peft_folder_are_read_with_the_settings_beside_them(tmp_path: Path) -> None:
    layer = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    halves = {f"{layer}.lora_A.weight": torch.ones(4, 8), f"{layer}.lora_B.weight": torch.ones(8, 4)}
    save_file(halves, tmp_path / "adapter_model.safetensors")
    alone = Adapter.read(tmp_path / "adapter_model.safetensors")
    assert read_settings(alone.metadata)["unet"].lora_alpha == 4
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 32, "use_rslora": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    beside = Adapter.read(tmp_path / "adapter_model.safetensors")
    assert beside.metadata == Adapter.read(tmp_path).metadata
    assert read_settings(beside.metadata)["unet"].lora_alpha == 64
