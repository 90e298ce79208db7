"""Laws of single files: they load without a network as what they are, or say what they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from mascot.cli.app import main
from mascot.errors import UserError
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.models.base_files.architectures import autoencoder_settings, denoiser_settings
from mascot.models.base_files.clip_vocabulary import clip_tokenizer
from mascot.models.base_files.measured_prediction import measured_prediction
from mascot.models.families.registry import describe, load_family
from tiny.single_files import Kind, original_unet_name, original_vae_tensor, tiny_pipeline, tiny_single_file

KINDS: tuple[Kind, ...] = ("one", "two", "xl")


def loaded(base: Path) -> Any:
    """A base."""
    return load_family(str(base), device="cpu", precision="fp32")


def image(base: Path) -> np.ndarray:
    """One image by our generator."""
    knobs = Knobs(steps=2, guidance=3, height=64, width=64)
    made = next(iter(Generator(loaded(base)).generate([ImageRequest("a photo of a cat", 5)], knobs)))
    return np.asarray(made, np.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_file_generates_what_its_folder_generates(kind: Kind, tmp_path: Path) -> None:
    file = tiny_single_file(kind, tmp_path / "base.safetensors")
    tiny_pipeline(kind).save_pretrained(tmp_path / "folder")
    assert np.array_equal(image(file), image(tmp_path / "folder"))
    stage = loaded(file).stages[0]
    assert stage.resolution == (1024 if kind == "xl" else 512)
    assert stage.objective.prediction == "epsilon"
    stage.release_encoders(text=True)
    for name, part in {**stage.parts, "vae": stage.image_codec.module}.items():
        whole = getattr(tiny_pipeline(kind), name).state_dict()
        assert all(torch.equal(value, whole[key]) for key, value in part.state_dict().items()), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_keys_of_a_file_say_what_it_predicts(kind: Kind, tmp_path: Path) -> None:
    stage = loaded(tiny_single_file(kind, tmp_path / "base.safetensors", keys=("v_pred", "ztsnr"))).stages[0]
    assert stage.objective.prediction == "v_prediction"
    assert float(stage.objective.alphas_cumprod_T[-1]) == 0
    assert stage.scheduler.config["timestep_spacing"] == "trailing"
    assert stage.resolution == {"one": 512, "two": 768, "xl": 1024}[kind]
    plain = loaded(tiny_single_file(kind, tmp_path / "v.safetensors", keys=("v_pred",))).stages[0]
    assert plain.objective.prediction == "v_prediction"
    assert float(plain.objective.alphas_cumprod_T[-1]) > 0


def test_the_metadata_of_a_file_say_what_it_predicts(tmp_path: Path) -> None:
    file = tiny_single_file("one", tmp_path / "base.safetensors")
    save_file(load_file(file), file, metadata={"modelspec.prediction_type": "v"})
    assert loaded(file).stages[0].objective.prediction == "v_prediction"


def test_half_precision_an_old_layout_and_a_suffix_in_capitals_are_read(tmp_path: Path) -> None:
    tensors = load_file(tiny_single_file("one", tmp_path / "base.safetensors"))
    old = {name.replace("transformer.text_model.", "transformer."): tensor.half() for name, tensor in tensors.items()}
    old |= {f"model_ema.{number}": torch.zeros(1) for number in range(3)}
    save_file(old, tmp_path / "OLD.SAFETENSORS")
    assert np.abs(image(tmp_path / "OLD.SAFETENSORS") - image(tmp_path / "base.safetensors")).max() < 20


def test_the_vocabulary_is_clips() -> None:
    tokenizer = clip_tokenizer()
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("café, don't").input_ids == [49406, 15304, 267, 847, 713, 49407]
    assert len(tokenizer) == 49408
    assert tokenizer.pad_token_id == 49407
    assert clip_tokenizer(padding="!").pad_token_id == 0


def refusal(file: Path) -> str:
    """The sentence with which a file is refused, by its header alone."""
    with pytest.raises(UserError) as error:
        describe(str(file))
    assert str(error.value).endswith("give a whole checkpoint, a folder in the diffusers layout or a hub id.")
    return str(error.value)


PREFIXES = {
    "UNet": ("model.diffusion_model.",),
    "autoencoder": ("first_stage_model.",),
    "text encoder": ("cond_stage_model.",),
    "UNet and an autoencoder and not a text encoder": ("model.diffusion_model.", "first_stage_model."),
}


@pytest.mark.parametrize("what", PREFIXES)
def test_one_part_of_a_base_is_refused_by_its_name(what: str, tmp_path: Path) -> None:
    tensors = load_file(tiny_single_file("one", tmp_path / "base.safetensors"))
    kept = {name: tensor for name, tensor in tensors.items() if name.startswith(PREFIXES[what])}
    save_file(kept, tmp_path / "part.safetensors")
    assert f"it holds only {'an' if what[0] == 'a' else 'a'} {what}" in refusal(tmp_path / "part.safetensors")


OTHERS: dict[str, list[str]] = {
    "a LoRA": ["lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "unet.x.to_q.lora_A.weight"],
    "a ControlNet": ["control_model.input_blocks.0.0.weight", "controlnet_cond_embedding.conv_in.weight"],
    "an IP-Adapter": ["image_proj.proj.weight"],
    "an embedding": ["emb_params"],
    "a refiner": ["conditioner.embedders.0.model.ln_final.weight"],
    "only a UNet": ["down_blocks.0.resnets.0.conv1.weight", "model.diffusion_model.input_blocks.0.0.weight"],
    "only a transformer": ["double_blocks.0.img_attn.proj.weight", "transformer_blocks.0.attn.to_q.weight"],
    "only an autoencoder": ["encoder.down.0.block.0.conv1.weight", "decoder.up_blocks.0.resnets.0.conv1.weight"],
    "only a text encoder": ["text_model.encoder.layers.0.mlp.fc1.weight", "encoder.block.0.layer.0.x.weight"],
    "no model that mascot knows": ["something.weight"],
}


@pytest.mark.parametrize(("what", "name"), [(what, name) for what, names in OTHERS.items() for name in names])
def test_another_file_is_refused_by_what_it_is(what: str, name: str, tmp_path: Path) -> None:
    save_file({name: torch.zeros(1)}, tmp_path / "other.safetensors")
    assert what in refusal(tmp_path / "other.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_lacks_a_tensor_is_refused(kind: Kind, tmp_path: Path) -> None:
    file = tiny_single_file(kind, tmp_path / "base.safetensors")
    whole = load_file(file)
    for prefix in ("model.diffusion_model.out.2.b", "first_stage_model.decoder.conv_out.b", "cond"):
        names = [name for name in whole if name.startswith(prefix) and "ln_final.bias" not in name]
        wanted = next((name for name in names if "layer_norm.b" in name or "ln_1.bias" in name), names[0])
        save_file({name: tensor for name, tensor in whole.items() if name != wanted}, file)
        with pytest.raises(UserError, match="cannot be loaded"):
            loaded(file)


class OfNoise:
    """A UNet that predicts noise, made of one that predicts velocity."""

    def __init__(self, unet: Any, alphas_cumprod: torch.Tensor) -> None:
        self.unet, self.config, self.alphas_cumprod = unet, unet.config, alphas_cumprod

    def __call__(self, x: torch.Tensor, timestep: torch.Tensor, states: torch.Tensor, **options: Any) -> Any:
        """Turn the predicted velocity into noise (Salimans and Ho 2022, appendix D)."""
        alpha = self.alphas_cumprod[int(timestep)]
        velocity = self.unet(x, timestep, states, **options)[0]
        return (alpha.sqrt() * velocity + (1 - alpha).sqrt() * x,)


def test_what_a_trained_denoiser_predicts_is_measured(tmp_path: Path) -> None:
    stage: Any = load_family("starter", device="cpu", precision="fp32").stages[0]
    alphas = stage.scheduler.alphas_cumprod
    with torch.no_grad():
        states = stage.condition([""], [])["encoder_hidden_states"]
    assert stage.objective.prediction == "v_prediction"
    assert measured_prediction(stage.unet, states, alphas) == "v"
    assert measured_prediction(OfNoise(stage.unet, alphas), states, alphas) == "epsilon"
    untrained = loaded(tiny_single_file("two", tmp_path / "base.safetensors")).stages[0]
    assert untrained.objective.prediction == "epsilon"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_single_file_trains_by_the_command_without_a_network(
    kind: Kind, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_single_file(kind, tmp_path / "base.safetensors", keys=("v_pred",))
    monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / "cache"))
    settings = (
        *("training.steps=2", "training.checkpoint_every=2", "training.batch_size=1", "dataset.resolution=64"),
        *("knobs.steps=1", "previews.every=0", "prior.weight=0", "method.rank=2", "precision=fp32", "device=cpu"),
        *("selection.active=false", "diagnosis.active=false"),
    )
    words = [word for setting in settings for word in ("--set", setting)]
    run = tmp_path / "run"
    train = ("train", home / "photos", "--class-noun", "dog", "--base", base, "--out", run, *words)
    for command in (train, ("generate", run, "a photo of a cat", "--count", 1, "--out", tmp_path / "images")):
        monkeypatch.setattr("sys.argv", ["mascot", *map(str, command)])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 0
    assert len(list((tmp_path / "images").glob("*.png"))) == 1


def test_half_precision_variants_of_a_folder_are_read(tiny_base: Path, tmp_path: Path) -> None:
    """As the hub has them: only `*.fp16.safetensors`."""
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    for part in ("unet", "vae", "text_encoder"):
        [weights] = (base / part).glob("*.safetensors")
        save_file({name: tensor.half() for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    plain = image(base)
    assert loaded(base).identity
    for part in ("unet", "vae", "text_encoder"):
        [weights] = (base / part).glob("*.safetensors")
        weights.rename(weights.with_name(f"{weights.stem}.fp16.safetensors"))
    assert np.array_equal(image(base), plain)
    stage = loaded(base).stages[0]
    before = stage.encode(torch.zeros(1, 3, 64, 64)).mean_BCHW
    stage.release_encoders(text=True)
    assert torch.equal(stage.encode(torch.zeros(1, 3, 64, 64)).mean_BCHW, before)
    stage.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "model_index.json").read_text(encoding="utf-8"))


REAL: dict[str, dict[str, Any]] = {
    "one": {
        "block_out_channels": [320, 640, 1280, 1280],
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        "sample_size": 64,
    },
    "two": {
        "block_out_channels": [320, 640, 1280, 1280],
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
        "sample_size": 96,
    },
    "xl": {
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
        "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10],
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
        "sample_size": 128,
    },
}
"""Kind -> the published settings of its UNet, as far as they differ from diffusers' defaults."""


@pytest.mark.parametrize("kind", KINDS)
def test_the_settings_of_published_sizes_follow_from_their_shapes(kind: Kind) -> None:
    """On torch's meta device, where tensors have shapes alone."""
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(REAL[kind])
        vae: Any = AutoencoderKL.from_config(
            {
                "block_out_channels": [128, 256, 512, 512],
                "down_block_types": ["DownEncoderBlock2D"] * 4,
                "up_block_types": ["UpDecoderBlock2D"] * 4,
                "layers_per_block": 2,
            }
        )
    shapes = {original_unet_name(name, unet): tuple(value.shape) for name, value in unet.state_dict().items()}
    if kind == "xl":
        shapes["conditioner.embedders.1.model.text_projection"] = (1280, 1280)
    found = denoiser_settings(shapes, REAL[kind]["sample_size"])
    with torch.device("meta"):
        again: Any = UNet2DConditionModel.from_config(found)
    assert {name: value.shape for name, value in again.state_dict().items()} == {
        name: value.shape for name, value in unet.state_dict().items()
    }
    for name, value in REAL[kind].items():
        assert again.config[name] == value, name
    renamed = [original_vae_tensor(name, value, 4) for name, value in vae.state_dict().items()]
    settings = autoencoder_settings({name: tuple(value.shape) for name, value in renamed})
    for name in ("block_out_channels", "layers_per_block", "latent_channels"):
        assert settings[name] == vae.config[name], name
