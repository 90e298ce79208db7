"""Words go through convert and back unchanged, beside layers or in files of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from laws.bad_places import fresh_adapter, fresh_token
from mascot.adapters.adapter_file import Adapter
from mascot.adapters.formats.word_files import Word, own_words
from mascot.cli.app import app
from tiny.families import tiny_base as tiny_family

ROWS = {size: torch.randn(2, size, generator=torch.Generator().manual_seed(size)) for size in (768, 1280)}
BASES = ("one", "two")


def converted(source: Path, out: Path, to: str, *words: str) -> str:
    """Convert by the command; returns what it said."""
    result = CliRunner().invoke(app, ["convert", str(source), str(out), "--to", to, *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Tell whether names and values are the same."""
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Mapping[str, Path]:
    """A base of one text encoder, and one of two."""
    return {"one": tiny_base, "two": tiny_family("sdxl", tmp_path_factory.mktemp("bases") / "two")}


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("to", ["kohya", "comfyui"])
def test_a_trained_word_goes_out_and_back_with_the_same_bytes(
    bases: Mapping[str, Path], tmp_path: Path, kind: str, to: str
) -> None:
    trained = fresh_token(bases[kind])
    trained.write(tmp_path / "run.safetensors")
    first, out, back = (tmp_path / name / "owl.safetensors" for name in ("first", "out", "back"))
    for path in (first, out, back):  # of one name, which is the title in their headers
        path.parent.mkdir()
    converted(tmp_path / "run.safetensors", first, "diffusers")
    said = converted(tmp_path / "run.safetensors", out, to)
    assert "call a word by its file's name, here owl and not sks" in said
    assert load_file(out).keys() == ({"emb_params"} if kind == "one" else {"clip_l", "clip_g"})
    converted(out, back, "diffusers")
    assert back.read_bytes() == first.read_bytes()
    assert equal(Adapter.read(back).tensors, trained.tensors)
    assert Adapter.read(out).manifest == trained.manifest


def with_words(base: Path) -> Adapter:
    """Layers and two words in our form, as pivotal tuning writes them."""
    layers = fresh_adapter(base)
    words = [Word(token=name, rows={"text_encoder": torch.randn(2, 32)}) for name in ("<s1>", "kit")]
    own, record = own_words(words, bundled=True)
    assert layers.manifest is not None
    manifest = layers.manifest.model_copy(update={"method": "pivotal"})
    return Adapter(tensors={**layers.tensors, **own}, metadata={**layers.metadata, **record}, manifest=manifest)


@pytest.mark.parametrize("to", ["kohya", "comfyui"])
def test_words_stay_beside_the_layers_where_the_tool_reads_them_there(
    bases: Mapping[str, Path], tmp_path: Path, to: str
) -> None:
    trained = with_words(bases["one"])
    trained.write(tmp_path / "run.safetensors")
    converted(tmp_path / "run.safetensors", tmp_path / "out.safetensors", to)
    assert {key for key in load_file(tmp_path / "out.safetensors") if key.startswith("bundle")} == {
        "bundle_emb.<s1>.string_to_param.*",
        "bundle_emb.kit.string_to_param.*",
    }
    back = Adapter.read(tmp_path / "out.safetensors")
    assert equal(back.tensors, trained.tensors)
    assert back.manifest == trained.manifest
    assert sorted(tmp_path.iterdir()) == [tmp_path / "out.safetensors", tmp_path / "run.safetensors"]


@pytest.mark.parametrize("to", ["diffusers", "peft"])
def test_words_get_files_of_their_own_where_the_tool_reads_them_there(
    bases: Mapping[str, Path], tmp_path: Path, to: str
) -> None:
    trained = with_words(bases["one"])
    trained.write(tmp_path / "run.safetensors")
    out = tmp_path / ("out" if to == "peft" else "out.safetensors")
    said = converted(tmp_path / "run.safetensors", out, to)
    assert "the words are in out_s1.safetensors, out_kit.safetensors" in " ".join(said.split())
    layers = Adapter.read(out)
    assert equal(layers.tensors, {k: v for k, v in trained.tensors.items() if not k.startswith("bundle")})
    for name, token in (("s1", "<s1>"), ("kit", "kit")):
        word = Adapter.read(tmp_path / f"out_{name}.safetensors")
        assert equal(word.tensors, {token: trained.tensors[f"bundle_emb.{token}.{token}"]})
        assert word.manifest is not None
        assert word.manifest.method == "textual-inversion"
    if to == "diffusers":
        assert layers.manifest is not None
        assert layers.manifest.method == "lora"
    again = CliRunner().invoke(app, ["convert", str(tmp_path / "run.safetensors"), str(out), "--to", to])
    assert "exists already" in str(again.exception)


def test_a_word_of_its_own_states_the_base_of_its_layers(shared_data: Path, tmp_path: Path) -> None:
    converted(shared_data / "peer_adapters" / "lora_disney.safetensors", tmp_path / "out.safetensors", "diffusers")
    stated = Adapter.read(tmp_path / "out_s1.safetensors").metadata
    assert stated["modelspec.architecture"] == "stable-diffusion-v1/textual-inversion"


def test_a_word_of_an_unknown_base_states_none(tmp_path: Path) -> None:
    save_file({"emb_params": torch.randn(1, 768)}, tmp_path / "style.safetensors")
    converted(tmp_path / "style.safetensors", tmp_path / "out.safetensors", "diffusers")
    stated = Adapter.read(tmp_path / "out.safetensors").metadata
    assert "modelspec.sai_model_spec" in stated
    assert "modelspec.architecture" not in stated


def test_several_words_alone_become_a_file_each(tmp_path: Path) -> None:
    words = [Word(token=name, rows={"text_encoder": ROWS[768].clone()}) for name in ("<a>", "b")]
    own, record = own_words(words, bundled=False)
    save_file(own, tmp_path / "both.safetensors", record)
    converted(tmp_path / "both.safetensors", tmp_path / "out.safetensors", "kohya")
    assert {path.name for path in tmp_path.iterdir()} == {"both.safetensors", "a.safetensors", "b.safetensors"}
    assert equal(load_file(tmp_path / "a.safetensors"), {"emb_params": ROWS[768]})


def test_what_other_tools_write_becomes_diffusers_form(tmp_path: Path) -> None:
    torch.save({"string_to_param": {"*": ROWS[768]}}, tmp_path / "style.pt")
    converted(tmp_path / "style.pt", tmp_path / "a.safetensors", "diffusers")
    assert equal(load_file(tmp_path / "a.safetensors"), {"style": ROWS[768]})
    save_file({"clip_l": ROWS[768], "clip_g": ROWS[1280]}, tmp_path / "pair.safetensors")
    converted(tmp_path / "pair.safetensors", tmp_path / "b.safetensors", "diffusers", "--dtype", "fp16")
    assert load_file(tmp_path / "b.safetensors")["clip_g"].dtype == torch.float16
    shown = CliRunner().invoke(app, ["inspect", "--json", str(tmp_path / "b.safetensors")]).stdout
    assert json.loads(shown)[0]["words"] == [
        {"token": "pair", "rows": 2, "widths": {"text_encoder": 768, "text_encoder_2": 1280}}
    ]


@pytest.mark.parametrize("to", ["peft", "kohya"])
def test_what_a_format_cannot_hold_is_refused_with_a_remedy_that_works(tmp_path: Path, to: str) -> None:
    if to == "peft":
        save_file({"a": ROWS[768]}, tmp_path / "in.safetensors")
    else:
        layer = {"unet.a.to_q.lora_A.weight": torch.ones(1, 2), "unet.a.to_q.lora_B.weight": torch.ones(2, 1)}
        name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1"
        layer = {key.replace("unet.a", name): value for key, value in layer.items()}
        save_file(layer | {"bundle_emb.a.b.a.b": ROWS[768]}, tmp_path / "in.safetensors")
    out = tmp_path / ("out" if to == "peft" else "out.safetensors")
    refused = CliRunner().invoke(app, ["convert", str(tmp_path / "in.safetensors"), str(out), "--to", to])
    assert refused.exit_code != 0
    assert "--to diffusers" in str(refused.exception)
    assert not out.exists()
    converted(tmp_path / "in.safetensors", tmp_path / "remedy.safetensors", "diffusers")
