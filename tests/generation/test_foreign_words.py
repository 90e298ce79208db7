"""Words from other tools' files draw what ours draw by the command, alone and beside layers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from laws.bad_places import fresh_adapter
from mascot.adapters.adapter_file import Adapter
from mascot.adapters.formats.registry import write_format
from mascot.adapters.formats.word_files import Word, own_words
from mascot.cli.app import app
from mascot.diffusion.noise import gaussian, seeded
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
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


KNOBS = Knobs(steps=3, guidance=3.0, height=64, width=64)


@pytest.mark.parametrize("kind", [pytest.param("one", marks=pytest.mark.slow), "two"])
def test_diffusers_draws_our_image_from_converted_layers_and_words(
    bases: Mapping[str, Path], tmp_path: Path, kind: str
) -> None:
    layers = fresh_adapter(bases[kind])
    generator = torch.Generator().manual_seed(3)
    moved = {
        key: tensor + 0.02 * torch.randn(tensor.shape, generator=generator) for key, tensor in layers.tensors.items()
    }
    own, record = own_words([word_for(bases[kind])], bundled=True)
    ours = Adapter(tensors=moved | own, metadata={**layers.metadata, **record}, manifest=None)
    ours.write(tmp_path / "ours.safetensors")
    command = ["convert", str(tmp_path / "ours.safetensors"), str(tmp_path / "out.safetensors"), "--to", "diffusers"]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    family = load_family(str(bases[kind]), device="cpu", precision="fp32")
    (image,) = Generator(family, Adapter.read(tmp_path / "ours.safetensors")).generate([ImageRequest(PROMPT, 5)], KNOBS)
    pipeline: Any = DiffusionPipeline.from_pretrained(bases[kind], local_files_only=True, dtype=torch.float32)
    pipeline.load_lora_weights(tmp_path, weight_name="out.safetensors")
    name = f"out_{WORD}.safetensors"
    if kind == "one":
        pipeline.load_textual_inversion(tmp_path, weight_name=name)
    else:
        for key, encoder, tokenizer in (
            ("clip_l", "text_encoder", "tokenizer"),
            ("clip_g", "text_encoder_2", "tokenizer_2"),
        ):
            pipeline.load_textual_inversion(
                load_file(tmp_path / name)[key],
                token=WORD,
                text_encoder=getattr(pipeline, encoder),
                tokenizer=getattr(pipeline, tokenizer),
            )
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    theirs = pipeline(
        PROMPT,
        negative_prompt="",
        latents=gaussian(family.stages[0].latent_shape(64, 64), [seeded("picture", 5)]),
        output_type="np",
        num_inference_steps=KNOBS.steps,
        guidance_scale=KNOBS.guidance,
        height=64,
        width=64,
    ).images[0]
    wordless = Adapter(tensors=moved, metadata=layers.metadata, manifest=None)
    (other,) = Generator(family, wordless).generate([ImageRequest(PROMPT, 5)], KNOBS)
    assert np.abs(np.asarray(image, np.float64) - np.asarray(other, np.float64)).max() > 2
    assert np.abs(np.asarray(image, np.float64) - 255 * np.asarray(theirs, np.float64)).max() <= 1.01
