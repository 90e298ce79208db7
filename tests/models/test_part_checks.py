"""Laws of a base's parts: odd settings and broken weights are refused by what they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.utils import logging as transformers_logging

from laws.bad_places import copy, put
from mascot.errors import UserError
from mascot.evaluation.metrics.image_encoders import read_clip, read_identity_encoder
from mascot.models.base_files.part_checks import unfinite_weights
from mascot.models.families.registry import load_family
from tiny.encoders import tiny_clip, tiny_identity
from tiny.families import MAKERS
from tiny.families import tiny_base as tiny_base_of
from tiny.stable_diffusion import WORDS, tiny_clip_tokenizer

UNET, VAE, TEXT = "unet/config.json", "vae/config.json", "text_encoder/config.json"
SCHEDULER, TOKENIZER = "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json"
MISSING = object()
ODD: dict[str, dict[str, tuple[object, ...]]] = {
    UNET: {
        "sample_size": (0, -8, 10**6, "64", 8.5, None, [8, 8], True, MISSING),
        "layers_per_block": (10**6, -1, "one", None, [10**6, 1]),
        "block_out_channels": ([], [-16, 32], ["a", "b"], 16, None, [10**12, 2]),
        "in_channels": (0, -4, "4", None, 10**9),
        "cross_attention_dim": (0, -1, "x", 10**9),
        "attention_head_dim": (0, -1),
        "norm_num_groups": (0, -4),
        "down_block_types": ([], "DownBlock2D", [3, 4], ["CrossAttnDownBlock2D"]),
    },
    VAE: {
        "scaling_factor": (None, 0, -1, "big", float("nan"), float("inf"), 10**300),
        "shift_factor": (float("nan"), "x"),
        "block_out_channels": ([], None, [0]),
        "latent_channels": (0, "4", 10**8),
        "layers_per_block": (10**6,),
    },
    TEXT: {
        "num_hidden_layers": (0, 10**6, "2", -1),
        "hidden_size": (0, -32, "x", 10**9),
        "vocab_size": (0, -1, None, 10**12),
        "max_position_embeddings": (0, -77, "x"),
        "num_attention_heads": (0, 3),
        "model_type": ([], {}, 3),
        "hidden_act": ([], 3),
    },
    SCHEDULER: {
        "prediction_type": ([], [[None]], {}, 3),
        "num_train_timesteps": (0, -1, "1000", None, 10**12, 1),
        "beta_start": (float("nan"), 0, -1, "x", 2.0),
        "beta_end": (float("nan"), float("inf"), None),
        "trained_betas": ([], [float("nan")] * 3, "x", [0.1, 7.0]),
        "beta_schedule": ("straight", 3),
        "timestep_spacing": ("no", None),
        "steps_offset": (-1, "x", 10**9),
    },
    TOKENIZER: {"model_max_length": (-1, 0, "77", None, 10**5 + 1, 10**30, 1)},
}
"""File of a base -> setting -> values that no base has."""
CASES = [
    pytest.param(file, key, value, id=f"{file.split('/')[0]}-{key}-{'missing' if value is MISSING else value}"[:60])
    for file, keys in ODD.items()
    for key, values in keys.items()
    for value in values
]


@pytest.fixture(autouse=True)
def _no_progress_bars() -> Iterator[None]:
    """Switch them off, as every command does."""
    loggings = (diffusers_logging, transformers_logging)
    for logging in loggings:
        logging.disable_progress_bar()
    yield
    for logging in loggings:
        logging.enable_progress_bar()


def change(path: Path, key: str, value: object) -> None:
    """Change one setting of a file, or leave it out."""
    settings: dict[str, Any] = {name: old for name, old in json.loads(path.read_bytes()).items() if name != key}
    put(path, json.dumps(settings if value is MISSING else settings | {key: value}).encode())


@pytest.mark.parametrize(("file", "key", "value"), CASES)
def test_an_odd_setting_is_refused_before_anything_is_built(
    tiny_base: Path, tmp_path: Path, file: str, key: str, value: object, capfd: pytest.CaptureFixture[str]
) -> None:
    """The sentence names base and file; no library prints a line of its own."""
    base = copy(tiny_base, tmp_path / "base")
    change(base / file, key, value)
    with pytest.raises(UserError, match=r"cannot be (loaded|personalized)") as refusal:
        load_family(str(base), device="cpu", precision="fp32")
    assert str(base) in str(refusal.value)
    assert capfd.readouterr().err == ""


def exchange(base: Path, part: str, **settings: object) -> None:
    """Put another healthy part of other settings in the place of a base's own."""
    if part == "tokenizer":
        tiny_clip_tokenizer((*WORDS, "zebra", "hedgehog")).save_pretrained(base / part)
        return
    kind: Any = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}[part]
    if part == "text_encoder":
        kind(CLIPTextConfig.from_pretrained(base / part, **settings)).save_pretrained(base / part)
    else:
        kind.from_config({**kind.load_config(base / part), **settings}).save_pretrained(base / part)


@pytest.mark.parametrize(
    ("part", "settings", "reason"),
    [
        ("text_encoder", {"hidden_size": 16}, "unet reads text embeddings of width 32, and text_encoder write 16"),
        ("unet", {"cross_attention_dim": 64}, "unet reads text embeddings of width 64, and text_encoder write 32"),
        ("unet", {"encoder_hid_dim": 16, "encoder_hid_dim_type": "text_proj"}, "of width 16"),
        ("unet", {"class_embed_type": "timestep"}, "reads class labels, by class_embed_type"),
        ("unet", {"num_class_embeds": 10}, "reads class labels, by num_class_embeds"),
        ("vae", {"latent_channels": 8}, "unet writes 4 channels, and vae reads 8"),
        ("text_encoder", {"vocab_size": 620}, "text_encoder has 620 tokens, and its tokenizer"),
        ("tokenizer", {}, "and its tokenizer"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_parts_that_do_not_fit_each_other_are_refused_by_both_names(
    tiny_base: Path, tmp_path: Path, part: str, settings: dict[str, object], reason: str
) -> None:
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    exchange(base, part, **settings)
    with pytest.raises(UserError, match=r"cannot be (loaded|personalized)") as refusal:
        load_family(str(base), device="cpu", precision="fp32")
    assert reason in str(refusal.value)


@pytest.mark.parametrize("name", MAKERS)
def test_no_healthy_base_is_refused(tmp_path: Path, name: str) -> None:
    """Settings that other tools leave out, or write as null, are none of these."""
    load_family(str(tiny_base_of(name, tmp_path / "base")), device="cpu", precision="fp32")


@pytest.mark.parametrize(
    ("name", "file", "key", "value"),
    [
        ("flux", "tokenizer_2/tokenizer_config.json", "model_max_length", -1),
        ("flux", "transformer/config.json", "num_layers", 10**6),
        ("flux", "transformer/config.json", "axes_dims_rope", [4, 4, 9]),
        ("flux", "scheduler/scheduler_config.json", "base_image_seq_len", 4096),
        ("sd3", "transformer/config.json", "sample_size", None),
        ("sd3", "text_encoder_3/config.json", "num_layers", 10**6),
        ("sdxl", "unet/config.json", "transformer_layers_per_block", [1, 10**6]),
        ("deepfloyd_if", "unet/config.json", "encoder_hid_dim", 0),
    ],
)
def test_odd_settings_of_other_families(tmp_path: Path, name: str, file: str, key: str, value: object) -> None:
    base = tiny_base_of(name, tmp_path / "base")
    change(base / file, key, value)
    with pytest.raises(UserError, match=key):
        load_family(str(base), device="cpu", precision="fp32")


def spoil(file: Path, value: float) -> None:
    """Put one number into the first tensor of a file."""
    tensors = load_file(file)
    name = min(tensors)
    changed = tensors[name].clone()
    changed.flatten()[-1] = value
    file.unlink()
    save_file(tensors | {name: changed}, file, metadata={"format": "pt"})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")], ids=str)
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_base_with_a_weight_that_is_no_finite_number_is_refused(
    tiny_base: Path, tmp_path: Path, part: str, value: float
) -> None:
    base = copy(tiny_base, tmp_path / "base")
    spoil(next((base / part).glob("*.safetensors")), value)
    with pytest.raises(UserError, match=rf"not finite numbers \({part}: .*another one\.$"):
        load_family(str(base), device="cpu", precision="fp32")


def test_an_encoder_with_such_a_weight_is_refused(tmp_path: Path) -> None:
    clip, identity = tiny_clip(tmp_path / "clip"), tiny_identity(tmp_path / "identity")
    for folder in (clip, identity):
        spoil(folder / "model.safetensors", float("nan"))
    with pytest.raises(UserError, match="not finite numbers"):
        read_clip(clip)
    with pytest.raises(UserError, match="not finite numbers"):
        read_identity_encoder(identity)


def test_large_weights_whose_sum_overflows_are_finite() -> None:
    layer = torch.nn.Linear(8, 8)
    layer.weight.data.fill_(3e38)
    assert not list(unfinite_weights(layer))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_part_without_weights_is_told_in_our_sentence_alone(
    tiny_base: Path, tmp_path: Path, part: str, capfd: pytest.CaptureFixture[str]
) -> None:
    base = copy(tiny_base, tmp_path / "base")
    next((base / part).glob("*.safetensors")).unlink()
    with pytest.raises(UserError, match="no file named"):
        load_family(str(base), device="cpu", precision="fp32")
    assert capfd.readouterr() == ("", "")


def test_a_scheduler_of_another_kind_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    base = copy(tiny_base, tmp_path / "base")
    change(base / "model_index.json", "scheduler", ["diffusers", "FlowMatchEulerDiscreteScheduler"])
    with pytest.raises(UserError, match="flow matching"):
        load_family(str(base), device="cpu", precision="fp32")
