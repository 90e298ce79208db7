"""Laws of bases: what is refused, identity by weights, dropping parts and reading them again."""

from __future__ import annotations

import gc
import json
import pickle
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mascot.diffusion.noise import gaussian, seeded
from mascot.errors import UserError
from mascot.models.families.registry import FAMILIES, describe, family_name, load_family
from mascot.protocols import Family, Framing, Stage
from tiny.stable_diffusion import tiny_stable_diffusion

FRAMING = Framing(original=(64, 64), target=(64, 64))
WEIGHTS = (
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
)


def loaded(base: Path | str) -> Family:
    return load_family(str(base), device="cpu", precision="fp32")


@pytest.fixture
def copied(tiny_base: Path, tmp_path: Path) -> Path:
    """A base of one's own, to be broken."""
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


def refusal(base: Path | str, *, load: bool = False) -> str:
    """The one sentence with which a base is refused."""
    with pytest.raises(UserError) as error:
        _ = loaded(base) if load else describe(str(base))
    sentence = str(error.value)
    assert "\n" not in sentence
    assert sentence.endswith((".", "?"))
    assert len(sentence) < 500
    return sentence


def test_every_family_in_the_table_can_be_imported_and_names_itself() -> None:
    from importlib import import_module

    for path in FAMILIES.values():
        module = import_module(path)
        assert module.NAME
        assert callable(module.load)


def test_a_base_is_described_by_its_index_alone(tiny_base: Path, tmp_path: Path) -> None:
    assert describe(str(tiny_base))["_class_name"] == "StableDiffusionPipeline"
    shutil.copy(tiny_base / "model_index.json", tmp_path)
    assert describe(str(tmp_path))["_class_name"] == "StableDiffusionPipeline"
    assert family_name(str(tmp_path)) == "sd"


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    assert "model_index.json" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b'"text"', b"[" * 100_000],
    ids=["empty", "cut", "list", "binary", "text", "deep"],
)
def test_an_index_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model_index.json").write_bytes(content)
    assert "download the base again" in refusal(tmp_path)


def test_a_pipeline_of_another_kind_is_refused_with_a_suggestion(copied: Path) -> None:
    (copied / "model_index.json").write_text(json.dumps({"_class_name": "StableDifusionPipeline"}), encoding="utf-8")
    assert refusal(copied).endswith("did you mean 'StableDiffusionPipeline'?")
    (copied / "model_index.json").write_text("{}", encoding="utf-8")
    assert "StableDiffusionPipeline" in refusal(copied)


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.bin", "model"])
def test_a_pickle_is_never_opened(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(pickle.dumps({"state_dict": {}}))
    assert "pickled" in refusal(file)


@pytest.mark.parametrize("part", WEIGHTS)
def test_truncated_weights_are_refused(copied: Path, part: str) -> None:
    file = copied / part
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    sentence = refusal(copied, load=True)
    assert str(copied) in sentence
    assert "complete" in sentence


@pytest.mark.parametrize("part", [*WEIGHTS, "unet/config.json", "tokenizer", "scheduler/scheduler_config.json"])
def test_a_missing_part_is_refused(copied: Path, part: str) -> None:
    gone = copied / part
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    assert str(copied) in refusal(copied, load=True)


def test_pickled_weights_in_a_folder_are_refused(copied: Path) -> None:
    for part in WEIGHTS:
        pickled = "pytorch_model.bin" if part.startswith("text_encoder") else "diffusion_pytorch_model.bin"
        torch.save(load_file(copied / part), (copied / part).with_name(pickled))
        (copied / part).unlink()
    assert str(copied) in refusal(copied, load=True)


def test_a_single_file_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"nothing")
    assert "cannot be loaded" in refusal(file)


def test_a_misspelt_hub_id_says_what_to_check() -> None:
    sentence = refusal("stable-diffusion-v1-5/stable-difusion-v1-5")
    assert "stable-difusion-v1-5" in sentence
    assert "check the name and the network" in sentence


@pytest.mark.parametrize(
    "base", ["nowhere", "./nowhere", "/nowhere/at/all", "nowhere/model.safetensors", "a/b/c", "~/x"]
)
def test_a_base_that_does_not_exist_is_refused(base: str) -> None:
    assert "does not exist" in refusal(base)


def test_a_prediction_that_is_neither_noise_nor_velocity_is_refused(copied: Path) -> None:
    file = copied / "scheduler" / "scheduler_config.json"
    file.write_text(
        json.dumps(json.loads(file.read_text(encoding="utf-8")) | {"prediction_type": "sample"}), encoding="utf-8"
    )
    with pytest.raises(UserError, match="'sample'"):
        _ = loaded(copied).stages[0].objective


@pytest.mark.parametrize("part", WEIGHTS)
def test_one_other_weight_is_another_identity(tiny_base: Path, copied: Path, part: str) -> None:
    assert loaded(copied).identity == loaded(tiny_base).identity
    tensors = load_file(copied / part)
    name = sorted(tensors)[len(tensors) // 2]
    tensors[name].view(-1)[0] += 1
    save_file(tensors, copied / part, metadata={"format": "pt"})
    assert loaded(copied).identity != loaded(tiny_base).identity


def test_identity_does_not_depend_on_where_the_base_lies(tiny_base: Path, tmp_path: Path) -> None:
    other = tmp_path / "deep" / "elsewhere"
    shutil.copytree(tiny_base, other)
    assert loaded(other).identity == loaded(tiny_base).identity
    assert loaded(tiny_stable_diffusion(tmp_path / "other", seed=1)).identity != loaded(tiny_base).identity


def outputs(stage: Stage) -> list[Tensor]:
    """What each encoder returns for one input."""
    pixels = gaussian((3, 64, 64), [seeded("pixels")]).clamp(-1, 1)
    latents = stage.encode(pixels)
    with torch.no_grad():
        states = stage.condition(["a dog"], [FRAMING])["encoder_hidden_states"]
    return [latents.mean_BCHW, latents.deviation_BCHW, stage.decode(latents.mean_BCHW), states]


def test_released_encoders_leave_memory_and_come_back_equal(tiny_base: Path) -> None:
    stage: Any = loaded(tiny_base).stages[0]
    before = outputs(stage)
    image, text, unet = (
        weakref.ref(stage.image_codec.module),
        weakref.ref(stage.text_encoder("text_encoder")),
        weakref.ref(stage.unet),
    )
    stage.release_encoders(text=False)
    gc.collect()
    assert image() is None
    assert text() is not None
    stage.release_encoders(text=True)
    gc.collect()
    assert text() is None
    assert unet() is not None
    assert all(torch.equal(one, other) for one, other in zip(before, outputs(stage), strict=True))
    assert not any(parameter.requires_grad for part in stage.parts.values() for parameter in part.parameters())


def test_resolution_and_shapes_are_known_without_the_encoders(tiny_base: Path) -> None:
    stage: Any = loaded(tiny_base).stages[0]
    assert (stage.resolution, stage.multiple, stage.latent_shape(64, 96)) == (64, 16, (4, 8, 12))
    stage.release_encoders(text=True)
    assert (stage.resolution, stage.multiple, stage.latent_shape(64, 96)) == (64, 16, (4, 8, 12))
    assert stage.loaded == {}


def test_a_batch_is_encoded_and_decoded_row_by_row(tiny_base: Path) -> None:
    stage = loaded(tiny_base).stages[0]
    pixels = gaussian((3, 64, 64), [seeded(i) for i in range(3)]).clamp(-1, 1)
    latents = stage.encode(pixels)
    decoded = stage.decode(latents.mean_BCHW)
    assert decoded.min() >= 0
    assert decoded.max() <= 1
    for i in range(3):
        assert torch.equal(stage.encode(pixels[i : i + 1]).mean_BCHW[0], latents.mean_BCHW[i])
        assert torch.equal(stage.decode(latents.mean_BCHW[i : i + 1])[0], decoded[i])


def test_a_prompt_is_as_long_as_its_tokens_with_both_ends(tiny_base: Path) -> None:
    stage = loaded(tiny_base).stages[0]
    assert stage.truncations("dog " * 75) == {}
    assert stage.truncations("dog " * 100) == {"text_encoder": (102, 77, ("dog " * 25).strip())}
    with torch.no_grad():
        states = stage.condition(["dog " * 75, "dog " * 100], [FRAMING] * 2)["encoder_hidden_states"]
    assert torch.equal(states[0], states[1])


def test_an_unknown_layer_set_is_refused_with_a_suggestion(tiny_base: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'attention'"):
        loaded(tiny_base).stages[0].adaptable("unet", "atention")
