"""Laws of extraction: base and extracted LoRA draw what the trained model draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from adapters.weight_changes.made_adapters import difference, draw, load, write_adapter
from mascot.adapters.adapter_file import Adapter
from mascot.adapters.weight_changes.low_rank import change_of, read_layers
from mascot.api.adapters.bake import bake
from mascot.api.adapters.extract import extract
from mascot.errors import UserError
from mascot.storage.tensor_files import read_tensors
from tiny.single_files import tiny_single_file

PROMPT = "a photo of a sks dog"


def changes_in(path: Path) -> dict[str, torch.Tensor]:
    """The change of each layer of an adapter file."""
    tensors, metadata = read_tensors(path)
    return {name: change_of(layer, tensors).dense() for name, layer in read_layers(tensors, metadata).items()}


@pytest.mark.parametrize("layout", ["folder", "file"])
def test_what_was_baked_is_extracted_again(tiny_base: Path, tmp_path: Path, layout: str) -> None:
    ending, base = ("", tiny_base) if layout == "folder" else (".safetensors", tmp_path / "base.safetensors")
    if layout == "file":
        tiny_single_file("xl", base)
    adapter = write_adapter(base, tmp_path / "a.safetensors", rank=3, layers="all", text_learning_rate=1e-5)
    bake([adapter], str(base), tmp_path / f"tuned{ending}")
    work = extract(str(tmp_path / f"tuned{ending}"), str(base), tmp_path / "b.safetensors", rank=3)
    one, other = (changes_in(tmp_path / f"{name}.safetensors") for name in "ab")
    assert one.keys() == other.keys()
    for name, change in one.items():
        torch.testing.assert_close(other[name], change, atol=2e-5, rtol=1e-4)
    kept = [value for name, value in work.rows if name.endswith("all weights")]
    assert kept
    assert all(value == "100.0% of the change kept" for value in kept)
    expected = draw(load(base), PROMPT, adapter=Adapter.read(adapter))
    assert difference(draw(load(base), PROMPT, adapter=Adapter.read(tmp_path / "b.safetensors")), expected) <= 1


def test_ranks_of_convolutions_are_their_own(tiny_base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tiny_base, tmp_path / "a.safetensors", "dreambooth", text_learning_rate=1e-6)
    bake([adapter], str(tiny_base), tmp_path / "tuned")
    work = extract(str(tmp_path / "tuned"), str(tiny_base), tmp_path / "b.safetensors", rank=4, conv_rank=2)
    tensors, _ = read_tensors(tmp_path / "b.safetensors")
    ranks = {(tensor.ndim, tuple(tensor.shape[2:])): len(tensor) for key, tensor in tensors.items() if "lora_A" in key}
    assert ranks == {(2, ()): 4, (4, (1, 1)): 4, (4, (3, 3)): 2}
    groups = dict(work.rows)
    assert groups["unet, norms"].startswith("left out")
    assert "% kept" in groups["unet, convolutions"]
    assert "% kept" in groups["text_encoder, attention"]


def tune_words(base: Path, tuned: Path, *, added: str, changed: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Add one word to a base's text encoder, and change the row of another; returns both rows."""
    import shutil

    shutil.copytree(base, tuned)
    tokenizer: Any = CLIPTokenizer.from_pretrained(base / "tokenizer")
    encoder: Any = CLIPTextModel.from_pretrained(base / "text_encoder")
    tokenizer.add_tokens([added])
    encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    table = encoder.get_input_embeddings().weight.data
    numbers = [tokenizer.convert_tokens_to_ids(added), tokenizer.convert_tokens_to_ids(f"{changed}</w>")]
    for number in numbers:
        table[number] = torch.randn(table.shape[1], generator=torch.Generator().manual_seed(number))
    encoder.save_pretrained(tuned / "text_encoder")
    tokenizer.save_pretrained(tuned / "tokenizer")
    return table[numbers[0]].clone(), table[numbers[1]].clone()


def test_words_that_were_added_or_changed_are_extracted(tiny_base: Path, tmp_path: Path) -> None:
    one, other = tune_words(tiny_base, tmp_path / "tuned", added="<rex>", changed="dog")
    work = extract(str(tmp_path / "tuned"), str(tiny_base), tmp_path / "b.safetensors", rank=2)
    tensors, _ = read_tensors(tmp_path / "b.safetensors")
    assert set(tensors) == {"bundle_emb.<rex>.<rex>", "bundle_emb.dog.dog"}
    assert torch.equal(tensors["bundle_emb.<rex>.<rex>"][0], one)
    assert torch.equal(tensors["bundle_emb.dog.dog"][0], other)
    assert dict(work.rows)["words"] == "dog, <rex>"


def test_equal_models_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(tiny_base, tmp_path / "copy")
    with pytest.raises(UserError, match="nothing to extract"):
        extract(str(tmp_path / "copy"), str(tiny_base), tmp_path / "b.safetensors", rank=2)
    with pytest.raises(UserError, match="is the base itself"):
        extract(str(tiny_base), str(tiny_base), tmp_path / "b.safetensors", rank=2)
    assert not (tmp_path / "b.safetensors").exists()


def test_models_of_other_kinds_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    other = tiny_single_file("xl", tmp_path / "xl.safetensors")
    with pytest.raises(UserError, match="give a model and the base"):
        extract(str(other), str(tiny_base), tmp_path / "b.safetensors", rank=2)
    other = tiny_single_file("one", tmp_path / "one.safetensors")
    with pytest.raises(UserError, match="different kinds of bases"):
        extract(str(other), str(tiny_base), tmp_path / "b.safetensors", rank=2)
