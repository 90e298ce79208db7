"""Real files of cloneofsimo's lora: every key finds its layer, and every form draws the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel
from typer.testing import CliRunner

from mascot.adapters.adapter_file import Adapter
from mascot.adapters.formats.registry import FORMATS, architecture_of, read_format, write_format
from mascot.adapters.lora_keys import DOWN, UP, name_in_file
from mascot.adapters.token_rows import read_records
from mascot.cli.app import app
from mascot.models.base_files.clip_vocabulary import clip_tokenizer

NAMES = ("analog_svd_rank4", "lora_disney")
PROMPTS = {"analog_svd_rank4": "a dog in the style of analog", "lora_disney": "a dog in the style of <s1><s2>"}


@pytest.fixture(scope="module", params=NAMES)
def file(request: pytest.FixtureRequest, shared_data: Path) -> Path:
    """One of the real files."""
    return shared_data / "peer_adapters" / f"{request.param}.safetensors"


def test_every_key_has_a_layer_of_its_shape(file: Path) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        text = CLIPTextModel(CLIPTextConfig(hidden_size=768, num_hidden_layers=12, num_attention_heads=12))
    shapes = {
        f"{part}.{name_in_file(part, name)}": tuple(layer.weight.shape)
        for part, module in {"unet": unet, "text_encoder": text}.items()
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }
    adapter, stored = Adapter.read(file), load_file(file)
    layers = [key.removesuffix(DOWN) for key in adapter.tensors if key.endswith(DOWN)]
    assert len(layers) == 144 + 48
    assert [layer for layer in layers if layer not in shapes] == []
    for layer in layers:
        down, up = adapter.tensors[layer + DOWN], adapter.tensors[layer + UP]
        assert (len(up), down.shape[1]) == shapes[layer]
    words = [record.token for record in read_records(adapter.metadata)] if "disney" in file.name else []
    assert words == [key for key in stored if ":" not in key]
    for word in words:
        assert torch.equal(adapter.tensors[f"bundle_emb.{word}.{word}"][0], stored[word])
    assert len(adapter.tensors) == len(stored)


@pytest.mark.parametrize("to", FORMATS)
def test_every_form_has_the_same_weight_changes_to_the_bit(file: Path, to: str) -> None:
    adapter = Adapter.read(file)
    layers = {key: value for key, value in adapter.tensors.items() if not key.startswith("bundle_emb")}
    assert architecture_of(layers) == "sd1"
    written, header = write_format(to, layers, adapter.metadata if len(layers) == len(adapter.tensors) else {}, "sd1")
    back = read_format(written, header)
    before, after = changes(layers), changes(back.tensors)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], change) for name, change in before.items())
    assert all(torch.equal(back.tensors[key], value) for key, value in layers.items())


def changes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Multiply the projections of the first layers."""
    layers = [key.removesuffix(DOWN) for key in tensors if key.endswith(DOWN)]
    return {layer: tensors[layer + UP].float() @ tensors[layer + DOWN].float() for layer in sorted(layers)[:3]}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of random weights with the UNet and the text encoder of Stable Diffusion 1.5."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        projection_dim=768,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    autoencoder = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
    )
    pipeline: Any = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )
    folder = tmp_path_factory.mktemp("base") / "base"
    pipeline.to(dtype=torch.float16).save_pretrained(folder)
    return folder


def drawn(adapter: Path, base: Path, out: Path, prompt: str) -> Any:
    """Draw one small image by the command."""
    words = ["--base", str(base), "--count", "1", "--steps", "2", "--size", "64x64", "--out", str(out)]
    result = CliRunner().invoke(app, ["generate", str(adapter), prompt, *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (image,) = out.glob("*.png")
    return np.asarray(Image.open(image))


@pytest.mark.slow
def test_every_form_draws_what_the_real_file_draws(file: Path, base: Path, tmp_path: Path) -> None:
    prompt = PROMPTS[file.stem]
    first = drawn(file, base, tmp_path / "first", prompt)
    adapter = Adapter.read(file)
    for to in ("kohya", "comfyui", "diffusers"):
        written, header = write_format(to, adapter.tensors, adapter.metadata, "sd1")
        save_file({key: value.contiguous() for key, value in written.items()}, tmp_path / f"{to}.safetensors", header)
        assert (drawn(tmp_path / f"{to}.safetensors", base, tmp_path / to, prompt) == first).all(), to
    layers = {key: value for key, value in adapter.tensors.items() if not key.startswith("bundle_emb")}
    Adapter(tensors={key: 0 * value for key, value in layers.items()}, metadata={}, manifest=None).write(
        tmp_path / "nothing.safetensors"
    )
    assert not (drawn(tmp_path / "nothing.safetensors", base, tmp_path / "nothing", prompt) == first).all()
    if len(layers) < len(adapter.tensors):
        Adapter(tensors=layers, metadata={}, manifest=None).write(tmp_path / "wordless.safetensors")
        assert not (drawn(tmp_path / "wordless.safetensors", base, tmp_path / "wordless", prompt) == first).all()
