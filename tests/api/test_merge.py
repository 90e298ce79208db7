"""Laws of merged files: what is merged draws what the adapters draw together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adapters.weight_changes.made_adapters import KNOBS, difference, draw, draw_sum, load, write_adapter
from mascot.adapters.adapter_file import Adapter
from mascot.api.adapters.bake import bake
from mascot.api.adapters.merge import merge
from mascot.api.adapters.resize import resize
from mascot.api.generate import generate
from mascot.errors import UserError
from mascot.progress import Event
from tiny.families import tiny_base as family_base
from tiny.single_files import tiny_pipeline, tiny_single_file

PROMPT = "a photo of a sks dog"
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "two ranks": ({"rank": 2, "alpha": 4}, {"rank": 3, "alpha": 1, "text_rank": 2}),
    "rank-stabilized and convolutions": ({"variant": "rslora"}, {"layers": "all", "text_learning_rate": 0}),
    "products": ({"variant": "loha", "rank": 2}, {"variant": "lokr", "rank": 2}),
}
BAKED = (
    {"rank": 2},
    {"variant": "dora", "layers": "all"},
    {"variant": "loha", "layers": "all"},
    {"method": "dreambooth"},
)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_merged_file_draws_what_both_draw(tiny_base: Path, tmp_path: Path, pair: str) -> None:
    one, other = (
        write_adapter(tiny_base, tmp_path / f"{n}.safetensors", seed=n, **o) for n, o in enumerate(PAIRS[pair])
    )
    out = tmp_path / "both.safetensors"
    merge([f"owl={one}:0.7:0.2", f"cat={other}:0.5"], out)
    expected = draw_sum(tiny_base, [(one, 0.7, 0.2), (other, 0.5, 0.5)], PROMPT)
    assert difference(expected, draw(load(tiny_base), PROMPT)) > 8
    merged = Adapter.read(out)
    assert difference(draw(load(tiny_base), PROMPT, adapter=merged), expected) <= 1
    assert merged.manifest is not None
    assert [subject.name for subject in merged.manifest.subjects] == ["owl", "cat"]
    assert [part["unet_scale"] for part in merged.manifest.recipe["merged"]] == [0.7, 0.5]


def test_a_merged_file_states_the_base_that_its_inputs_state(tiny_base: Path, tmp_path: Path) -> None:
    stated = {"modelspec.architecture": "stable-diffusion-v1/lora", "modelspec.prediction_type": "v"}
    for seed in (0, 1):
        adapter = Adapter.read(write_adapter(tiny_base, tmp_path / "a.safetensors", seed=seed))
        replace(adapter, metadata={**adapter.metadata, **stated}).write(tmp_path / f"{seed}.safetensors")
    merge([str(tmp_path / "0.safetensors"), f"cat={tmp_path / '1.safetensors'}"], tmp_path / "both.safetensors")
    written = Adapter.read(tmp_path / "both.safetensors").metadata
    assert {key: written[key] for key in stated} == stated
    assert written["ss_base_model_version"] == "sd_v1_v"


@pytest.mark.parametrize("options", BAKED, ids=str)
def test_a_baked_folder_draws_what_base_and_adapter_draw(
    tiny_base: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    adapter = write_adapter(tiny_base, tmp_path / "a.safetensors", **options)
    bake([adapter], str(tiny_base), tmp_path / "baked")
    expected = draw(load(tiny_base), PROMPT, adapter=Adapter.read(adapter))
    assert difference(draw(load(tmp_path / "baked"), PROMPT), expected) <= 1
    assert difference(draw(load(tiny_base), PROMPT), expected) > 8


@pytest.mark.parametrize("pair", [("lora", "dora"), pytest.param(("dora", "dora"), marks=pytest.mark.slow)])
def test_a_dora_beside_others_is_baked_as_it_is_drawn(tiny_base: Path, tmp_path: Path, pair: tuple[str, str]) -> None:
    files = [
        write_adapter(tiny_base, tmp_path / f"{n}.safetensors", seed=n, variant=kind) for n, kind in enumerate(pair)
    ]
    sources = [f"{files[0]}:0.7", f"{files[1]}:0.9"]
    bake(sources, str(tiny_base), tmp_path / "baked")
    (expected,) = generate(sources, [PROMPT], KNOBS, count=1, seed=3)
    assert difference(draw(load(tmp_path / "baked"), PROMPT), np.asarray(expected)) <= 1


def test_weights_of_another_shape_are_refused_before_anything_is_baked(tiny_base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tiny_base, tmp_path / "a.safetensors")
    other = tiny_single_file("one", tmp_path / "other.safetensors")
    events: list[Event] = []
    with pytest.raises(UserError, match="a has another shape of text_encoder"):
        bake([adapter], str(other), tmp_path / "baked.safetensors", on_event=events.append)
    assert not events


@pytest.mark.parametrize("kind", ["one", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("two", "xl"))])
def test_a_baked_file_draws_what_base_and_adapters_draw(tmp_path: Path, kind: Any) -> None:
    base = tiny_single_file(kind, tmp_path / "base.safetensors")
    one = write_adapter(base, tmp_path / "a.safetensors", seed=1, layers="all", text_learning_rate=1e-5)
    other = write_adapter(base, tmp_path / "b.safetensors", seed=2, variant="lokr")
    bake([f"{one}:0.7:0.4", f"{other}:1.2"], str(base), tmp_path / "baked.safetensors")
    expected = draw_sum(base, [(one, 0.7, 0.4), (other, 1.2, 1.2)], PROMPT)
    assert difference(draw(load(tmp_path / "baked.safetensors"), PROMPT), expected) <= 1
    assert difference(draw(load(base), PROMPT), expected) > 8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux", "deepfloyd_if"])
def test_every_family_is_merged_and_baked(tmp_path: Path, name: str) -> None:
    base = family_base(name, tmp_path / "base")
    text = {"text_learning_rate": 0.0} if name == "deepfloyd_if" else {}
    one, other = (write_adapter(base, tmp_path / f"{n}.safetensors", seed=n, **text) for n in (1, 2))
    sources = [f"{one}:0.7:0.2", f"{other}:0.5"]
    merge(sources, tmp_path / "both.safetensors")
    bake(sources, str(base), tmp_path / "baked")
    expected = draw_sum(base, [(one, 0.7, 0.2), (other, 0.5, 0.5)], PROMPT)
    assert difference(draw(load(base), PROMPT, adapter=Adapter.read(tmp_path / "both.safetensors")), expected) <= 1
    assert difference(draw(load(tmp_path / "baked"), PROMPT), expected) <= 1


@pytest.mark.parametrize("options", [{"rank": 4}, {"variant": "loha", "rank": 2}], ids=str)
def test_at_full_energy_a_resized_adapter_draws_the_same(
    tiny_base: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    adapter = write_adapter(tiny_base, tmp_path / "a.safetensors", **options)
    resize(adapter, tmp_path / "b.safetensors", energy=1.0)
    one, other = (draw(load(tiny_base), PROMPT, adapter=Adapter.read(tmp_path / f"{n}.safetensors")) for n in "ab")
    assert difference(one, other) <= 1


def test_a_half_precision_base_stays_one(tmp_path: Path) -> None:
    tiny_pipeline("one").to(torch.float16).save_pretrained(tmp_path / "base", variant="fp16")
    adapter = write_adapter(tmp_path / "base", tmp_path / "a.safetensors")
    bake([adapter], str(tmp_path / "base"), tmp_path / "baked")
    names = {path.relative_to(tmp_path / "baked") for path in (tmp_path / "baked").rglob("*") if path.is_file()}
    assert names == {path.relative_to(tmp_path / "base") for path in (tmp_path / "base").rglob("*") if path.is_file()}
    expected = draw(load(tmp_path / "base"), PROMPT, adapter=Adapter.read(adapter))
    assert difference(draw(load(tmp_path / "baked"), PROMPT), expected) <= 3
