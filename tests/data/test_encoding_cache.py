"""Laws of encodings: each picture and prompt is asked once of one base, and a run that shares them ends in the same bytes as one alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mascot.api.train import train
from mascot.data.encoding_cache import CachedEncoders, EncodingCache
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


class Counting:
    """Whatever a stage's encoders are asked, from here on."""

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


def test_answers_are_the_stages_own_and_asked_for_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected, told = stage.encode(pixels), stage.condition(["a dog"], [FRAMING])
    counting, known = Counting(monkeypatch, type(stage)), EncodingCache()
    for _ in range(2):
        encoders = CachedEncoders(stage, 0, known)
        assert torch.equal(encoders.encode(pixels.clone()).mean_BCHW, expected.mean_BCHW)
        assert torch.equal(encoders.encode(pixels).deviation_BCHW, expected.deviation_BCHW)
        said = encoders.condition("a dog", FRAMING)
        assert all(torch.equal(said[name], told[name]) for name in told)
        assert not any(tensor.requires_grad for tensor in said.values())
    assert (len(counting.images), counting.prompts) == (1, ["a dog"])


def test_nothing_else_passes_for_the_same(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another picture, the same numbers in another shape, another prompt, framing or stage are asked anew."""
    counting, known = Counting(monkeypatch, type(stage)), EncodingCache()
    here, there = CachedEncoders(stage, 0, known), CachedEncoders(stage, 1, known)
    pixels = torch.zeros(1, 3, 64, 128)
    for encoders in (here, there):
        for image in (pixels, pixels + 0.1, pixels.reshape(1, 3, 128, 64)):
            encoders.encode(image)
        for prompt, framing in (
            ("a dog", FRAMING),
            ("a cat", FRAMING),
            ("a dog", Framing(original=(96, 64), target=(64, 64))),
        ):
            encoders.condition(prompt, framing)
    assert (len(counting.images), len(counting.prompts)) == (6, 6)


def test_what_has_no_room_is_asked_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.zeros(1, 3, 64, 64)
    size = 2 * stage.encode(pixels).mean_BCHW.nbytes
    counting, known = Counting(monkeypatch, type(stage)), EncodingCache(most=size)
    encoders = CachedEncoders(stage, 0, known)
    for image in (pixels, pixels, pixels + 0.1, pixels + 0.1):
        encoders.encode(image)
    assert len(counting.images) == 3
    assert known.size == size


def small(home: Path, base: Path, seed: int) -> Recipe:
    settings = (
        "device=cpu", "precision=fp32", "prior.count=2", "prior.steps=1", "previews.every=0", "selection.active=false", "training.steps=2",
        "training.batch_size=2", "method.rank=2", "method.learning_rate=1e-2", "method.text_learning_rate=0",
    )  # fmt: skip
    return Recipe.preset(photos=[str(home / "photos")], class_noun="dog", base=str(base), seed=seed, overrides=settings)


def test_a_run_that_shares_is_the_same_to_the_byte_and_asks_nothing(
    home: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photos, class pictures and captions of a second run are known, and those of a third, whose base had to be loaded again."""
    monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / "cache"))
    alone = train(small(home, tiny_base, 1), out=tmp_path / "alone", report=False)
    lent = BasePool()
    counting = Counting(monkeypatch, type(load_family(str(tiny_base), device="cpu", precision="fp32").stages[0]))
    before = (0, 0)
    for seed, name in ((0, "first"), (1, "second"), (1, "third")):
        recipe = small(home, tiny_base, seed)
        with lent.lend(recipe) as family:
            train(recipe, out=tmp_path / name, report=False, family=family, encodings=lent.encodings)
            asked = len(counting.images), len(counting.prompts)
            assert (asked == before) == (name != "first")
            before = asked
            if name == "second":
                next(iter(family.stages[0].parts.values())).requires_grad_()  # so that it cannot be lent again
    assert before == (3 + 2, 2), "three photos, two class pictures, a caption of each"
    for name in ("second", "third"):
        for file in ("adapter", "steps", "effective", "recipe"):
            assert getattr(Run(tmp_path / name), file).read_bytes() == getattr(alone, file).read_bytes()


def test_another_base_has_heard_nothing(home: Path, tiny_base: Path) -> None:
    lent = BasePool()
    with lent.lend(small(home, tiny_base, 0)):
        known = lent.encodings
    with lent.lend(small(home, tiny_base, 1)):
        assert lent.encodings is known
    with lent.lend(small(home, tiny_base, 0).model_copy(update={"precision": "bf16"})):
        assert lent.encodings is not known
