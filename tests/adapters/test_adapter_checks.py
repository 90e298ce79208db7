"""Laws of damaged adapter files: one sentence that names what is wrong, before a base is loaded."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mascot.adapters.adapter_file import MANIFEST_KEY, Adapter, Manifest
from mascot.adapters.lora_keys import METADATA_KEY, PartSettings, read_settings
from mascot.errors import UserError

MANIFEST: dict[str, Any] = {
    "version": 1,
    "method": "lora",
    "base": "starter",
    "base_identity": "0123",
    "token": "sks",
    "class_noun": "dog",
    "resolution": 64,
    "step": 3,
    "recipe": {},
}
DOWN, UP = "unet.a.to_q.lora_A.weight", "unet.a.to_q.lora_B.weight"
PAIR = {DOWN: torch.ones(4, 6), UP: torch.ones(6, 4)}


def write(path: Path, tensors: Any = None, *, manifest: Any = MANIFEST, metadata: Any = None) -> Path:
    """Write an adapter file; `metadata` are peft's settings, as text or as values."""
    header = {} if manifest is None else {MANIFEST_KEY: manifest if isinstance(manifest, str) else json.dumps(manifest)}
    if metadata is not None:
        header[METADATA_KEY] = metadata if isinstance(metadata, str) else json.dumps(metadata)
    save_file({key: tensor.clone() for key, tensor in (tensors or PAIR).items()}, path, metadata=header)
    return path


def refusal(path: Path) -> str:
    """Read a file that must be refused, and return the sentence."""
    with pytest.raises(UserError) as refused:
        Adapter.read(path)
    said = str(refused.value)
    assert "\n" not in said, said
    assert said.endswith("."), said
    return said


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("own", [True, False])
def test_weights_that_are_not_finite_are_refused(
    tmp_path: Path, value: float, dtype: torch.dtype, *, own: bool
) -> None:
    up = torch.ones(6, 4, dtype=dtype)
    up[3, 2] = value
    path = write(tmp_path / "a.safetensors", PAIR | {UP: up}, manifest=MANIFEST if own else None)
    assert "NaN or infinite weights, in unet.a.to_q.lora_B.weight" in refusal(path)


@pytest.mark.parametrize(
    "change",
    [
        {"resolution": 0},
        {"resolution": -64},
        {"resolution": 10**9},
        {"resolution": "wide"},
        {"resolution": None},
        {"step": -1},
        {"token": " "},
        {"token": None},
        {"class_noun": ""},
        {"base": ""},
        {"base": 5},
        {"method": None},
        {"recipe": 5},
        {"recipe": []},
        {"recipe": {"dataset": 5}},
        {"recipe": {"dataset": {"background": 5}}},
        {"recipe": {"precision": "fp8"}},
        {"recipe": {"diagnosis": {"images": 10**9}}},
        {"recipe": {"diagnosis": {"active": "perhaps"}}},
        {"recipe": {"training": "long"}},
        {"recipe": {"training": {"steps": 10**400}}},
        {"knobs": 5},
    ],
    ids=str,
)
def test_absurd_manifests_are_refused_by_key(tmp_path: Path, change: dict[str, Any]) -> None:
    said = refusal(write(tmp_path / "a.safetensors", manifest=MANIFEST | change))
    assert "damaged manifest" in said
    assert next(iter(change)) in said


@pytest.mark.parametrize("text", ["", "5", "null", "[]", "{", "[" * 50_000, '{"a":' * 50_000, "\x00"])
def test_manifests_that_are_no_table_are_refused(tmp_path: Path, text: str) -> None:
    assert "damaged manifest" in refusal(write(tmp_path / "a.safetensors", manifest=text))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_in_a_recorded_recipe_are_finite(tmp_path: Path, number: str) -> None:
    text = json.dumps(MANIFEST | {"recipe": {"training": {"steps": [77777]}}}).replace("77777", number)
    assert "damaged manifest" in refusal(write(tmp_path / "a.safetensors", manifest=text))


@pytest.mark.parametrize(
    "metadata",
    [
        "{",
        "[]",
        "5",
        "[" * 50_000,
        '{"unet.r": Infinity}',
        '{"unet.r": NaN}',
        '{"unet.lora_alpha": Infinity}',
        '{"unet.lora_alpha": 1e999}',
        {"unet.r": 10**9},
        {"unet.r": 0},
        {"unet.r": -4},
        {"unet.r": "high"},
        {"unet.r": 8},
        {"unet.r": 4, "unet.lora_alpha": 1e30},
        {"unet.r": 4, "unet.alpha_pattern": 5},
        {"unet.r": 4, "unet.alpha_pattern": {"a.to_q": "high"}},
        {"unet.r": 4, "unet.alpha_pattern": {"(a+)+$": 2}},
        {"unet.r": 4, "unet.alpha_pattern": {"(": 2}},
        {"unet.r": 4, "unet.alpha_pattern": {".*.*.*x": 2}},
        {"unet.r": 4, "unet.rank_pattern": {"a.to_q": 8}},
        {"unet.r": 4, "unet.rank_pattern": {f"{number}.*": 8 for number in range(10_000)}},
        {"unet.r": 4, "unet.alpha_pattern": {str(number): 8 for number in range(100_000)}},
    ],
    ids=lambda metadata: str(metadata)[:60],
)
@pytest.mark.parametrize("own", [True, False])
def test_absurd_metadata_is_refused_at_once(tmp_path: Path, metadata: Any, *, own: bool) -> None:
    path = write(tmp_path / "a.safetensors", manifest=MANIFEST if own else None, metadata=metadata)
    began = time.monotonic()
    assert "damaged" in refusal(path)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("says", "tensors"),
    {
        "without its other half": {DOWN: torch.ones(4, 6)},
        "is without its other half": {UP: torch.ones(6, 4)},
        "and its other half 3": {DOWN: torch.ones(4, 6), UP: torch.ones(6, 3)},
        "is no matrix": {DOWN: torch.ones(4), UP: torch.ones(6, 4)},
        "no matrix": {DOWN: torch.ones(4, 6), UP: torch.tensor(1.0)},
        "is empty": {DOWN: torch.ones(4, 0), UP: torch.ones(6, 4)},
        "holds whole numbers": {DOWN: torch.ones(4, 6, dtype=torch.int64), UP: torch.ones(6, 4)},
        "beyond 1e+12": {DOWN: torch.full((4, 6), 1e20), UP: torch.full((6, 4), 1e20)},
        "above 4096": {DOWN: torch.ones(5000, 1), UP: torch.ones(1, 5000)},
        "lacks its magnitudes": PAIR
        | {key.replace("to_q", "to_k"): tensor for key, tensor in PAIR.items()}
        | {"unet.a.to_k.lora_magnitude_vector": torch.ones(6)},
        "lacks a factor": {"unet.a.to_q.hada_w1_a": torch.ones(6, 4), "unet.a.to_q.hada_w1_b": torch.ones(4, 6)},
        "a factor": {"unet.a.to_q.lokr_w1": torch.ones(2, 2), "unet.a.to_q.lokr_w2_a": torch.ones(4, 6)},
    }.items(),
)
def test_layers_that_are_not_whole_are_named(tmp_path: Path, says: str, tensors: Any) -> None:
    assert says in refusal(write(tmp_path / "a.safetensors", tensors))


def test_the_rank_of_a_loha_is_that_of_its_tensors(tmp_path: Path) -> None:
    names = ("w1_a", "w1_b", "w2_a", "w2_b")
    tensors = {f"unet.a.to_q.hada_{name}": torch.ones((6, 4) if name.endswith("a") else (4, 6)) for name in names}
    write(tmp_path / "good.safetensors", tensors, metadata={"unet.r": 4, "unet.alpha": 4})
    assert Adapter.read(tmp_path / "good.safetensors").manifest == Manifest.model_validate(MANIFEST)
    bad = write(tmp_path / "bad.safetensors", tensors, metadata={"unet.r": 2000, "unet.alpha": 4})
    assert "has rank 4, and its metadata says 2000" in refusal(bad)


@pytest.mark.parametrize(
    ("pattern", "layer", "matches"),
    [
        ("to_q", "a.0.to_q", True),
        ("0.to_q", "a.0.to_q", True),
        ("q", "a.0.to_q", False),
        ("a.0.to_q", "a.0.to_q", True),
        ("^a.0.to_q", "a.0.to_q", True),
        (r"a\.\d+\.to_q$", "a.10.to_q", True),
        ("a.*to_q", "a.b.c.to_q", True),
        ("text_model.encoder.layers.0.fc1", "encoder.layers.0.fc1", True),
        ("encoder.layers.0.fc1", "text_model.encoder.layers.0.fc1", True),
    ],
)
def test_patterns_are_matched_as_peft_matches_them(pattern: str, layer: str, *, matches: bool) -> None:
    settings = PartSettings(r=4, lora_alpha=1, alpha_pattern={pattern: 3}, rank_pattern={pattern: 8})
    assert settings.alpha_of(layer, 4) == (3 if matches else 1)
    assert settings.rank_of(layer) == (8 if matches else 4)


def test_many_layers_with_a_rank_of_their_own_are_read_quickly() -> None:
    ranks = {"unet.rank_pattern": {f"block.{number}.to_q": 1 + number % 64 for number in range(10_000)}}
    began = time.monotonic()
    settings = read_settings({METADATA_KEY: json.dumps({"unet.r": 4, **ranks})})["unet"]
    assert [settings.rank_of(f"block.{number}.to_q") for number in range(100)] == [1 + n % 64 for n in range(100)]
    assert time.monotonic() - began < 2
