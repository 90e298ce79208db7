"""Laws of the encoding cache: every input is encoded once, and sharing changes no byte."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from mascot.api.train import train
from mascot.data.encoding_cache import CachedConditioning, CachedEncoders, EncodingCache
from mascot.experiments.base_pool import BasePool
from mascot.models.families.registry import load_family
from mascot.models.pipeline_stage import PipelineStage
from mascot.protocols import Framing, Stage
from mascot.recipe.recipe import Recipe
from mascot.storage.run_folder import Run

FRAMING = Framing(original=(64, 64), target=(64, 64))


@pytest.fixture(scope="module")
def stage(tiny_base: Path) -> Stage:
    return load_family(str(tiny_base), device="cpu", precision="fp32").stages[0]


READ_BACK = 6
"""Prompts that reading a file back encodes: of three images, each with an empty negative prompt."""


class EncoderCalls:
    """Records the inputs of a stage's encoders from here on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
        self.images: list[Any] = []
        self.prompts: list[str] = []
        encode, condition = PipelineStage.encode, kind.condition  # pyright: ignore[reportAttributeAccessIssue] - each family has its own

        def counted_encode(stage: Any, pixels: Any) -> Any:
            self.images.append(pixels)
            return encode(stage, pixels)

        def counted_condition(stage: Any, prompts: Any, framings: Any) -> Any:
            self.prompts += prompts
            return condition(stage, prompts, framings)

        monkeypatch.setattr(PipelineStage, "encode", counted_encode)
        monkeypatch.setattr(kind, "condition", counted_condition)


def test_encodings_are_the_stages_own_and_computed_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected, conditioning = stage.encode(pixels), stage.condition(["a dog"], [FRAMING])
    calls, cache = EncoderCalls(monkeypatch, type(stage)), EncodingCache()
    for _ in range(2):
        encoders = CachedEncoders(stage, 0, cache)
        assert torch.equal(encoders.encode(pixels.clone()).mean_BCHW, expected.mean_BCHW)
        assert torch.equal(encoders.encode(pixels).deviation_BCHW, expected.deviation_BCHW)
        cached = encoders.condition("a dog", FRAMING)
        assert all(torch.equal(cached[name], conditioning[name]) for name in conditioning)
        assert not any(tensor.requires_grad for tensor in cached.values())
    assert (len(calls.images), calls.prompts) == (1, ["a dog"])


def test_different_inputs_are_encoded_anew(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """So are other pixels, the same numbers in another shape, another prompt, framing or stage."""
    calls, cache = EncoderCalls(monkeypatch, type(stage)), EncodingCache()
    first, second = CachedEncoders(stage, 0, cache), CachedEncoders(stage, 1, cache)
    pixels = torch.zeros(1, 3, 64, 128)
    for encoders in (first, second):
        for image in (pixels, pixels + 0.1, pixels.reshape(1, 3, 128, 64)):
            encoders.encode(image)
        for prompt, framing in (
            ("a dog", FRAMING),
            ("a cat", FRAMING),
            ("a dog", Framing(original=(96, 64), target=(64, 64))),
        ):
            encoders.condition(prompt, framing)
    assert (len(calls.images), len(calls.prompts)) == (6, 6)


def test_encodings_beyond_the_limit_are_computed_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.zeros(1, 3, 64, 64)
    size = 2 * stage.encode(pixels).mean_BCHW.nbytes
    calls, cache = EncoderCalls(monkeypatch, type(stage)), EncodingCache(max_bytes=size)
    encoders = CachedEncoders(stage, 0, cache)
    for image in (pixels, pixels, pixels + 0.1, pixels + 0.1):
        encoders.encode(image)
    assert len(calls.images) == 3
    assert cache.size == size


def small_recipe(home: Path, base: Path, seed: int) -> Recipe:
    overrides = (
        "device=cpu",
        "precision=fp32",
        "prior.count=2",
        "prior.steps=1",
        "previews.every=0",
        "selection.active=false",
        "training.steps=2",
        "training.batch_size=2",
        "method.rank=2",
        "method.learning_rate=1e-2",
        "method.text_learning_rate=0",
    )
    return Recipe.preset(
        photos=[str(home / "photos")], class_noun="dog", base=str(base), seed=seed, overrides=overrides
    )


def test_a_run_with_shared_encodings_has_the_same_bytes_and_encodes_nothing(
    home: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run finds all encodings; so does the third, whose base model is loaded again."""
    monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / "cache"))
    alone = train(small_recipe(home, tiny_base, 1), out=tmp_path / "alone", report=False)
    pool = BasePool()
    calls = EncoderCalls(monkeypatch, type(load_family(str(tiny_base), device="cpu", precision="fp32").stages[0]))
    before = (0, 0)
    for seed, name in ((0, "first"), (1, "second"), (1, "third")):
        recipe = small_recipe(home, tiny_base, seed)
        with pool.lend(recipe) as family:
            train(recipe, out=tmp_path / name, report=False, family=family, encodings=pool.encodings)
            count = len(calls.images), len(calls.prompts) - READ_BACK
            calls.prompts = calls.prompts[: count[1]]
            assert (count == before) == (name != "first")
            before = count
            if name == "second":
                next(iter(family.stages[0].parts.values())).requires_grad_()  # so that the pool does not lend it again
    assert before == (3 + 2, 2), "three photos and two class images, one caption for each kind"
    for name in ("second", "third"):
        for file in ("adapter", "steps", "effective", "recipe"):
            assert getattr(Run(tmp_path / name), file).read_bytes() == getattr(alone, file).read_bytes()


def test_another_base_model_starts_with_an_empty_cache(home: Path, tiny_base: Path) -> None:
    pool = BasePool()
    with pool.lend(small_recipe(home, tiny_base, 0)):
        encodings = pool.encodings
    with pool.lend(small_recipe(home, tiny_base, 1)):
        assert pool.encodings is encodings
    with pool.lend(small_recipe(home, tiny_base, 0).model_copy(update={"precision": "bf16"})):
        assert pool.encodings is not encodings


def test_the_conditioning_of_many_captions_stays_within_its_limit(stage: Stage) -> None:
    row = stage.condition(["a dog"], [FRAMING])
    size = sum(tensor.nbytes for tensor in row.values())
    conditioning = CachedConditioning(CachedEncoders(stage, cache=EncodingCache(0)), max_bytes=3 * size)
    prompts = [f"a dog {letter}" for letter in "abcdefgh"]
    for one, two in pairwise(prompts):
        joined = conditioning([one, two], [FRAMING] * 2)
        assert len(conditioning.rows) <= 3
        assert conditioning.size == len(conditioning.rows) * size
        for number, prompt in enumerate((one, two)):
            alone = stage.condition([prompt], [FRAMING])
            assert all(torch.equal(joined[name][number : number + 1], alone[name]) for name in alone)
    assert conditioning(prompts, [FRAMING] * 8)["encoder_hidden_states"].shape[0] == 8
