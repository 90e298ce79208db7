"""Words from other tools' files draw what ours draw by the command, alone and beside layers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from laws.bad_places import fresh_adapter
from mascot.adapters.adapter_file import Adapter
from mascot.adapters.formats.registry import write_format
from mascot.adapters.formats.word_files import Word, own_words
from mascot.cli.app import app
from mascot.models.families.registry import load_family
from tiny.families import tiny_base as tiny_family

WORD = "owlet"
PROMPT = f"a photo of a {WORD} dog"


def word_for(base: Path, name: str = WORD, rows: int = 2) -> Word:
    """Make a word of random rows for a tiny base, as large as its embeddings."""
    vocabularies = load_family(str(base), device="cpu", precision="fp32").stages[0].vocabularies
    made: dict[str, Tensor] = {}
    for number, (part, vocabulary) in enumerate(vocabularies.items()):
        width = vocabulary.embeddings("dog").shape[1]
        values = torch.randn(rows, width, generator=torch.Generator().manual_seed(number))
        made[part] = values * vocabulary.typical_norm / width**0.5
    return Word(token=name, rows=made)


def drawn(adapter: Path, base: Path, out: Path, *words: str, prompt: str = PROMPT) -> Any:
    """Draw one image by the command."""
    command = ["generate", str(adapter), prompt, "--base", str(base), "--count", "1", "--steps", "2"]
    result = CliRunner().invoke(app, [*command, "--out", str(out), *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (file,) = out.glob("*.png")
    return np.asarray(Image.open(file))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Mapping[str, Path]:
    """A base of one text encoder, and one of two."""
    return {"one": tiny_base, "two": tiny_family("sdxl", tmp_path_factory.mktemp("bases") / "two")}


@pytest.mark.parametrize("kind", ["one", "two"])
def test_a_word_draws_the_same_from_every_file(bases: Mapping[str, Path], tmp_path: Path, kind: str) -> None:
    word = word_for(bases[kind])
    own, record = own_words([word], bundled=False)
    save_file(own, tmp_path / "ours.safetensors", record)
    first = drawn(tmp_path / "ours.safetensors", bases[kind], tmp_path / "ours")
    rows, *second = word.rows.values()
    files: dict[str, dict[str, Tensor]] = {"plain": own} if kind == "one" else {}
    if second:
        files |= {"pair": {"clip_l": rows, "clip_g": second[0]}}
        files |= {"cog": {"text_encoders_0": rows, "text_encoders_1": second[0]}}
    else:
        files |= {name: {name: rows} for name in ("emb_params", "emp_params", "clip_l")}
    for name, tensors in files.items():
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / f"{WORD}.safetensors")
        image = drawn(tmp_path / name / f"{WORD}.safetensors", bases[kind], tmp_path / name / "out")
        assert (image == first).all(), name
    if not second:
        torch.save({"string_to_param": {"*": rows}, "string_to_token": {"*": 265}}, tmp_path / f"{WORD}.pt")
        assert (drawn(tmp_path / f"{WORD}.pt", bases[kind], tmp_path / "pt") == first).all()
    none = drawn(tmp_path / "ours.safetensors", bases[kind], tmp_path / "none", "--text-scale", "0")
    half = drawn(tmp_path / "ours.safetensors", bases[kind], tmp_path / "half", "--text-scale", "0.5")
    assert not (none == first).all()
    assert not (half == first).all()
    assert not (half == none).all()


@pytest.mark.parametrize("to", ["kohya", pytest.param("comfyui", marks=pytest.mark.slow)])
def test_words_beside_layers_draw_the_same_in_every_form(bases: Mapping[str, Path], tmp_path: Path, to: str) -> None:
    layers = fresh_adapter(bases["one"])
    moved = {key: tensor + 0.1 for key, tensor in layers.tensors.items()}
    own, record = own_words([word_for(bases["one"]), word_for(bases["one"], "kit", 1)], bundled=True)
    ours = Adapter(tensors=moved | own, metadata={**layers.metadata, **record}, manifest=None)
    ours.write(tmp_path / "ours.safetensors")
    prompt = f"a {WORD} beside a kit"
    first = drawn(tmp_path / "ours.safetensors", bases["one"], tmp_path / "ours", prompt=prompt)
    written, metadata = write_format(to, ours.tensors, ours.metadata, None)
    assert f"bundle_emb.{WORD}.string_to_param.*" in written
    for name, header in {"with": metadata, "without": {}}.items():
        save_file(written, tmp_path / f"{name}.safetensors", header)
        image = drawn(tmp_path / f"{name}.safetensors", bases["one"], tmp_path / name, prompt=prompt)
        assert (image == first).all(), name
    for name, tensors in {"layers": moved, "words": own}.items():
        part = Adapter(tensors=tensors, metadata={**layers.metadata, **record}, manifest=None)
        part.write(tmp_path / f"{name}.safetensors")
        image = drawn(tmp_path / f"{name}.safetensors", bases["one"], tmp_path / name, prompt=prompt)
        assert not (image == first).all(), name


def test_a_word_of_another_base_is_refused(bases: Mapping[str, Path], tmp_path: Path) -> None:
    save_file({"emb_params": torch.ones(1, 768)}, tmp_path / "owl.safetensors")
    for base in bases.values():
        command = ["generate", str(tmp_path / "owl.safetensors"), "an owl", "--base", str(base), "--steps", "1"]
        result = CliRunner().invoke(app, command)
        assert result.exit_code != 0
        assert "use the base it was trained on" in str(result.exception)
