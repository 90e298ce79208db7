"""Laws of the end of training: the file gives the image of what was trained, or is not written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mascot.adapters.adapter_file import Adapter
from mascot.api import train as module
from mascot.api.train import train
from mascot.errors import UserError
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.read_back import SMALLEST, small_side
from mascot.generation.stack.applied_stack import NO_EFFECT
from mascot.models.families.registry import load_family
from mascot.progress import AdapterReadBack, Event
from mascot.recipe.recipe import Recipe
from mascot.storage.run_folder import Run
from tiny.families import tiny_base as make_base

COMMON = ("training.steps=1", "previews.every=0", "prior.weight=0", "precision=fp32", "device=cpu")


def recipe_of(base: str | Path, home: Path, *overrides: str, **given: Any) -> Recipe:
    named = {"class_noun": "dog", "token": "zwx", "photos": (str(home / "photos"),)} | given
    return Recipe.preset(base=str(base), overrides=(*COMMON, *overrides), **named)


def proof_of(recipe: Recipe, out: Path) -> tuple[Run, AdapterReadBack]:
    events: list[Event] = []
    run = train(recipe, out=out, report=False, on_event=events.append)
    return run, next(event for event in events if isinstance(event, AdapterReadBack))


@pytest.fixture(scope="module")
def proven(tiny_base: Path, home: Path) -> tuple[Run, AdapterReadBack]:
    """A LoRA after the first step of a long warm-up."""
    recipe = recipe_of(tiny_base, home, "method.rank=4", "method.alpha=8", "training.warmup_steps=100")
    return proof_of(recipe, home / "proven")


METHODS: Mapping[str, tuple[str, ...]] = {
    "rslora": ("method.variant=rslora",),
    "dora": ("method.variant=dora",),
    "loha": ("method.variant=loha",),
    "lokr": ("method.variant=lokr",),
    "dreambooth": ('method.name="dreambooth"', "method.text_learning_rate=1e-4"),
    "textual-inversion": ('method.name="textual-inversion"', "method.vectors=2"),
    "pivotal": ('method.name="pivotal"', "training.steps=2"),
}


SLOW = {"rslora", "dora", "loha", "lokr"}


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in METHODS]
)
def test_one_step_of_any_method_is_read_back_bit_for_bit(method: str, tiny_base: Path, home: Path) -> None:
    """The layer's change is the one of the file too."""
    run, proof = proof_of(recipe_of(tiny_base, home, *METHODS[method]), home / method)
    check_proof(run, proof, tiny_base)


def test_a_first_step_of_a_warm_up_changes_something(proven: tuple[Run, AdapterReadBack], tiny_base: Path) -> None:
    check_proof(*proven, tiny_base)


def check_proof(run: Run, proof: AdapterReadBack, base: Path) -> None:
    assert proof.difference == 0
    assert 0 < proof.layer_change < 10
    assert proof.image_change >= 0
    generator = Generator(load_family(str(base), device="cpu", precision="fp32"), Adapter.read(run.adapter))
    assert dict(generator.applied.changes())[proof.layer] == pytest.approx(proof.layer_change)


@pytest.mark.parametrize(
    "family",
    ["sdxl", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sd3", "flux", "deepfloyd_if_cascade"))],
)
def test_other_families_are_read_back(family: str, home: Path, tmp_path: Path) -> None:
    """Two text encoders, transformers, and a cascade of two stages."""
    text = "1e-3" if family != "deepfloyd_if_cascade" else "0"
    recipe = recipe_of(make_base(family, tmp_path), home, f"method.text_learning_rate={text}")
    _, proof = proof_of(recipe, tmp_path / "run")
    assert proof.difference == 0
    assert proof.layer_change > 0


def test_the_change_of_a_layer_is_that_of_its_weights(proven: tuple[Run, AdapterReadBack], tiny_base: Path) -> None:
    """Recomputed by hand from the two factors of a LoRA and the base's own weights."""
    run, proof = proven
    tensors = Adapter.read(run.adapter).tensors
    family = load_family(str(tiny_base), device="cpu", precision="fp32")
    changes: dict[str, float] = {}
    for key, down in tensors.items():
        if key.startswith("unet.") and key.endswith(".lora_A.weight"):
            layer = key.removesuffix(".lora_A.weight")
            change = 2.0 * tensors[f"{layer}.lora_B.weight"].double() @ down.double()
            weight: torch.Tensor = family.stages[0].parts["unet"].get_submodule(layer[5:]).weight  # pyright: ignore[reportAssignmentType]
            changes[layer] = (change.norm() / weight.double().norm()).item()
    assert max(changes, key=changes.__getitem__) == proof.layer
    assert proof.layer_change == pytest.approx(changes[proof.layer], rel=1e-4)


@pytest.mark.parametrize("method", ["lora", pytest.param("textual-inversion", marks=pytest.mark.slow)])
def test_several_subjects_are_read_back_together(method: str, tiny_base: Path, home: Path, tmp_path: Path) -> None:
    photos = [str(home / "photos" / f"{number}.png") for number in range(2)]
    tables = [
        {"photos": [photo], "class_noun": noun, "token": token}
        for photo, noun, token in zip(photos, ("dog", "cat"), ("zwx", "qqz"), strict=True)
    ]
    recipe = Recipe.preset(base=str(tiny_base), overrides=(*COMMON, f'method.name="{method}"'), subject=tables)
    _, proof = proof_of(recipe, tmp_path / method)
    assert proof.difference == 0


def test_an_adapter_that_changes_nothing_is_not_written(tiny_base: Path, home: Path, tmp_path: Path) -> None:
    """Steps of 1e-30 are lost in float32: no adapter, no model, no companion, but checkpoints."""
    overrides = ('method.name="dreambooth"', "method.learning_rate=1e-30", "method.extract_rank=2")
    with pytest.raises(UserError, match=r"changes nothing after 1 steps.* train again with higher learning rates"):
        train(recipe_of(tiny_base, home, *overrides), out=tmp_path / "run", report=False)
    run = Run(tmp_path / "run")
    assert not run.adapter.exists()
    assert not run.companion("low_rank").exists()
    assert not run.model().exists()
    assert [path.name for path in run.checkpoints()] == ["step000001"]


def zeroed(adapter: Adapter) -> Adapter:
    tensors = {key: value * (".lora_B." not in key) for key, value in adapter.tensors.items()}
    return Adapter(tensors=tensors, metadata=adapter.metadata, manifest=adapter.manifest)


def test_a_file_that_changes_nothing_is_refused_where_it_is_used(
    proven: tuple[Run, AdapterReadBack], tiny_base: Path, tmp_path: Path
) -> None:
    """It can be read, but not applied; the base stays the base, and one layer is enough."""
    run, proof = proven
    adapter = Adapter.read(run.adapter)
    zeroed(adapter).write(tmp_path / "zero.safetensors")
    zero = Adapter.read(tmp_path / "zero.safetensors")
    family = load_family(str(tiny_base), device="cpu", precision="fp32")
    before = image(Generator(family))
    with pytest.raises(UserError) as refused:
        Generator(family, zero)
    assert str(refused.value) == NO_EFFECT
    assert np.array_equal(image(Generator(family)), before)
    one = dict(zero.tensors) | {f"{proof.layer}.lora_B.weight": adapter.tensors[f"{proof.layer}.lora_B.weight"]}
    Generator(family, Adapter(tensors=one, metadata=zero.metadata, manifest=zero.manifest)).remove_adapter()


def image(generator: Generator) -> np.ndarray:
    knobs = Knobs(steps=1, guidance=1.0)
    return np.asarray(next(iter(generator.generate([ImageRequest("a dog", 0)], knobs))))


def test_a_file_that_gives_another_image_is_not_kept(
    tiny_base: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted fault: what is written is not what was trained."""

    def faulty(run: Any) -> Adapter:
        adapter = export(run)
        tensors = {key: value * 300 if ".lora_B." in key else value for key, value in adapter.tensors.items()}
        return Adapter(tensors=tensors, metadata=adapter.metadata, manifest=adapter.manifest)

    export = module.export_adapter
    recipe = recipe_of(tiny_base, home, "method.learning_rate=1e-2")
    monkeypatch.setattr(module, "export_adapter", faulty)
    with pytest.raises(UserError, match="gives another image than what was trained"):
        train(recipe, out=tmp_path / "run", report=False)
    assert not Run(tmp_path / "run").adapter.exists()
    monkeypatch.setattr(module, "export_adapter", export)
    assert train(recipe, out=tmp_path / "run", resume=True, report=False).adapter.exists()


@pytest.mark.parametrize(
    ("resolution", "multiple", "expected"),
    [(64, 8, 64), (512, 8, 128), (768, 8, 192), (1024, 16, 256), (32, 8, 32), (250, 8, 64), (1000, 64, 256)],
)
def test_the_image_is_small(resolution: int, multiple: int, expected: int) -> None:
    assert small_side(resolution, multiple) == expected
    assert expected >= min(SMALLEST, resolution)
