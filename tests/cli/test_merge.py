"""Laws of `merge`, `extract` and `resize` as commands: what they print, keep and refuse."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from adapters.weight_changes.made_adapters import difference, draw_sum, write_adapter
from mascot.adapters.adapter_file import Adapter
from mascot.adapters.weight_changes.low_rank import change_of, read_layers
from mascot.cli.app import main

Run = Callable[..., str]


@pytest.fixture
def mascot(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command: what it prints, or the sentence in which it refuses."""
    monkeypatch.setenv("COLUMNS", "300")

    def run(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["mascot", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        printed, errors = capfd.readouterr()
        assert (stop.value.code == 0) == (errors == ""), errors
        assert stop.value.code in {0, 2}
        return errors if stop.value.code else printed

    return run


def changes_in(path: Path) -> dict[str, torch.Tensor]:
    """The change of each layer of an adapter file of any format."""
    adapter = Adapter.read(path)
    layers = read_layers(adapter.tensors, adapter.metadata)
    return {name: change_of(layer, adapter.tensors).dense() for name, layer in layers.items()}


def test_a_merged_file_generates_what_both_adapters_do(tiny_base: Path, tmp_path: Path, mascot: Run) -> None:
    one = write_adapter(tiny_base, tmp_path / "owl.safetensors", seed=1, word="sks")
    other = write_adapter(tiny_base, tmp_path / "cat.safetensors", seed=2, word="zwx", rank=3)
    printed = mascot("merge", f"{one}:0.7:0.2", f"{other}:0.5", "--out", tmp_path / "both.safetensors")
    assert "owl at 0.7 and 0.2 (text), cat at 0.5 and 0.5 (text)" in printed
    assert "rank 19, 100.00% of the energy kept" in printed
    assert printed.rstrip().endswith("both.safetensors")
    options = (
        "--count",
        1,
        "--seed",
        3,
        "--steps",
        2,
        "--guidance",
        3,
        "--size",
        "64x64",
        "--out",
        tmp_path / "images",
    )
    mascot("generate", tmp_path / "both.safetensors", "a photo of a {cat} and a {owl}", *options)
    (image,) = (tmp_path / "images").glob("*.png")
    prompt = "a photo of a zwx dog and a sks dog"
    expected = draw_sum(tiny_base, [(one, 0.7, 0.2), (other, 0.5, 0.5)], prompt)
    assert difference(np.asarray(Image.open(image)), expected) <= 1
    both = (f"{one}:0.7:0.2", f"{other}:0.5")
    mascot("generate", *both, "a photo of a {cat} and a {owl}", *options[:-1], tmp_path / "together")
    (together,) = (tmp_path / "together").glob("*.png")
    assert difference(np.asarray(Image.open(together)), expected) <= 1


def test_a_rank_and_an_energy_are_kept_and_printed(tiny_base: Path, tmp_path: Path, mascot: Run) -> None:
    adapter = write_adapter(tiny_base, tmp_path / "owl.safetensors", rank=8)
    for option, value in (("--rank", 2), ("--energy", 0.5), ("--ratio", 2)):
        out = tmp_path / f"{option}.safetensors"
        printed = mascot("resize", adapter, option, value, "--out", out)
        assert "of the energy kept" in printed
        for name, change in changes_in(adapter).items():
            square = torch.linalg.svdvals(change).square()
            kept = torch.linalg.matrix_rank(changes_in(out)[name], rtol=1e-4)
            wanted = {
                "--rank": 2,
                "--energy": int((square.cumsum(0) < 0.5 * square.sum()).sum()) + 1,
                "--ratio": int((square * 4 >= square[0]).sum()),
            }
            assert kept == wanted[option]


def test_the_format_of_a_file_is_kept(tiny_base: Path, tmp_path: Path, mascot: Run) -> None:
    adapter = write_adapter(tiny_base, tmp_path / "owl.safetensors", rank=4, alpha=1)
    mascot("merge", f"{adapter}:1", "--to", "kohya", "--out", tmp_path / "kohya.safetensors")
    mascot("resize", tmp_path / "kohya.safetensors", "--energy", 1, "--out", tmp_path / "small.safetensors")
    with safe_open(tmp_path / "small.safetensors", framework="pt") as file:
        assert all(key.startswith(("lora_unet_", "lora_te")) for key in file.keys())  # noqa: SIM118 - not a mapping
        assert "sks dog" in file.metadata()["modelspec.trigger_phrase"]
    one, other = changes_in(adapter), changes_in(tmp_path / "small.safetensors")
    assert one.keys() == other.keys()
    for name, change in one.items():
        torch.testing.assert_close(other[name], change, atol=1e-5, rtol=1e-4)


def test_words_are_kept_and_clashes_are_refused(tiny_base: Path, tmp_path: Path, mascot: Run) -> None:
    pivotal = write_adapter(tiny_base, tmp_path / "owl.safetensors", "pivotal", word="owo", seed=1)
    layers = write_adapter(tiny_base, tmp_path / "cat.safetensors", word="sks", seed=2)
    words = write_adapter(tiny_base, tmp_path / "fox.safetensors", "textual-inversion", word="zwx", seed=3)
    printed = mascot("merge", pivotal, f"{layers}:0.5", f"{words}:1", "--out", tmp_path / "all.safetensors")
    assert "owo, zwx" in printed
    merged = Adapter.read(tmp_path / "all.safetensors")
    assert merged.manifest is not None
    assert merged.manifest.method == "pivotal"
    assert torch.equal(merged.tensors["bundle_emb.zwx.zwx"], Adapter.read(words).tensors["zwx"])
    assert torch.equal(merged.tensors["bundle_emb.owo.owo"], Adapter.read(pivotal).tensors["bundle_emb.owo.owo"])
    options = ("--count", 1, "--steps", 1, "--out", tmp_path / "images")
    mascot("generate", tmp_path / "all.safetensors", "a {owl}, a {cat} and a {fox}", *options)
    assert len(list((tmp_path / "images").glob("*.png"))) == 1
    again = write_adapter(tiny_base, tmp_path / "wolf.safetensors", "textual-inversion", word="zwx", seed=4)
    said = mascot("merge", words, again, "--out", tmp_path / "b.safetensors")
    assert "fox and wolf both hold the word 'zwx', with different embeddings" in said
    assert not (tmp_path / "b.safetensors").exists()


def test_what_is_no_sum_of_products_is_refused_with_the_way_out(tiny_base: Path, tmp_path: Path, mascot: Run) -> None:
    dora = write_adapter(tiny_base, tmp_path / "dora.safetensors", variant="dora")
    whole = write_adapter(tiny_base, tmp_path / "whole.safetensors", "dreambooth")
    out = ("--out", tmp_path / "b.safetensors")
    assert "dora is a DoRA, whose change depends on the weights of the base" in mascot("merge", dora, *out)
    assert "whole holds whole weights" in mascot("merge", whole, *out)
    assert "extract a LoRA from it" in mascot("resize", whole, "--rank", 1, *out)
    assert not (tmp_path / "b.safetensors").exists()
    mascot("merge", dora, f"{whole}:0.5", "--into", tiny_base, "--out", tmp_path / "baked")
    mascot("extract", tmp_path / "baked", "--base", tiny_base, "--rank", 4, *out)
    printed = mascot("resize", dora, "--rank", 2, "--out", tmp_path / "c.safetensors")
    assert "kept; the energy is that of the directions" in printed
    small = Adapter.read(tmp_path / "c.safetensors")
    magnitudes = [key for key in small.tensors if key.endswith("magnitude_vector")]
    assert magnitudes
    assert all(torch.equal(small.tensors[key], Adapter.read(dora).tensors[key]) for key in magnitudes)


def test_an_interrupted_or_failed_bake_leaves_nothing(
    tiny_base: Path, tmp_path: Path, mascot: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = write_adapter(tiny_base, tmp_path / "a.safetensors")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mascot.api.adapters.bake.put_weight", full)
    said = mascot("merge", adapter, "--into", tiny_base, "--out", tmp_path / "baked")
    assert said.startswith(f"mascot: {tmp_path / 'baked'} cannot be written (No space left on device)")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
