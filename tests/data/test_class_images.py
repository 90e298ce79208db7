"""Laws of class images: generated once by the base model, cached by all that decides them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mascot.data.class_images import PriorSettings, read_or_generate
from mascot.data.photos import PhotoSet
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.models.families.registry import load_family
from mascot.recipe.recipe import Recipe
from mascot.runs.training_run import TrainingRun
from mascot.storage.image_files import open_image
from mascot.storage.run_folder import Run
from mascot.storage.user_cache import cache_folder

FACTS: dict[str, Any] = {"identity": "base", "prompt": "a photo of a dog", "resolution": 8, "precision": "fp32"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class GreyGenerator:
    """Generates one grey image a seed, and records its calls."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.generated = list[tuple[str, int]]()
        self.fails_at = fails_at

    def __call__(self, prompt: str, seeds: Sequence[int]) -> Iterator[Image.Image]:
        for seed in seeds:
            if seed == self.fails_at:
                raise KeyboardInterrupt
            self.generated.append((prompt, seed))
            yield Image.new("RGB", (8, 8), (seed, seed, seed))

    @property
    def seeds(self) -> list[int]:
        return [seed for _, seed in self.generated]


def greys(images: Sequence[Image.Image]) -> list[Any]:
    return [image.getpixel((0, 0))[0] for image in images]  # pyright: ignore[reportIndexIssue, reportOptionalSubscript]


def test_a_second_run_generates_none_and_gets_the_same_images_in_order() -> None:
    first, second = GreyGenerator(), GreyGenerator()
    images = read_or_generate(PriorSettings(count=3, seed=5), **FACTS, generate=first)
    assert first.generated == [("a photo of a dog", 5), ("a photo of a dog", 6), ("a photo of a dog", 7)]
    assert (
        greys(images) == greys(read_or_generate(PriorSettings(count=3, seed=5), **FACTS, generate=second)) == [5, 6, 7]
    )
    assert second.generated == []


def test_a_larger_count_generates_only_what_is_missing_and_a_smaller_one_nothing() -> None:
    read_or_generate(PriorSettings(count=2), **FACTS, generate=GreyGenerator())
    more, fewer, shifted = GreyGenerator(), GreyGenerator(), GreyGenerator()
    assert greys(read_or_generate(PriorSettings(count=5), **FACTS, generate=more)) == [0, 1, 2, 3, 4]
    assert more.seeds == [2, 3, 4]
    assert greys(read_or_generate(PriorSettings(count=1), **FACTS, generate=fewer)) == [0]
    assert fewer.seeds == []
    assert greys(read_or_generate(PriorSettings(count=3, seed=4), **FACTS, generate=shifted)) == [4, 5, 6]
    assert shifted.seeds == [5, 6]


def test_images_generated_before_an_interruption_are_kept() -> None:
    with pytest.raises(KeyboardInterrupt):
        read_or_generate(PriorSettings(count=4), **FACTS, generate=GreyGenerator(fails_at=2))
    rest = GreyGenerator()
    read_or_generate(PriorSettings(count=4), **FACTS, generate=rest)
    assert rest.seeds == [2, 3]


@pytest.mark.parametrize(
    "change",
    [
        {"identity": "other"},
        {"prompt": "a photo of a cat"},
        {"resolution": 16},
        {"precision": "bf16"},
        {"steps": 26},
        {"guidance": 5.5},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_decides_an_image_is_part_of_its_cache_key(change: dict[str, Any]) -> None:
    settings = PriorSettings(count=1)
    read_or_generate(settings, **FACTS, generate=GreyGenerator())
    again = GreyGenerator()
    other = settings.model_copy(update={key: value for key, value in change.items() if key not in FACTS})
    read_or_generate(other, **(FACTS | {key: value for key, value in change.items() if key in FACTS}), generate=again)
    assert again.seeds == [0]


def test_another_prior_weight_generates_nothing_anew() -> None:
    read_or_generate(PriorSettings(count=1), **FACTS, generate=GreyGenerator())
    again = GreyGenerator()
    read_or_generate(PriorSettings(count=1, weight=0.3), **FACTS, generate=again)
    assert again.seeds == []


def test_the_environment_sets_the_cache_folder(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read_or_generate(PriorSettings(count=1), **FACTS, generate=GreyGenerator())
    assert len(list(cache.rglob("0.png"))) == 1
    assert cache_folder() == cache
    monkeypatch.delenv("MASCOT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "mascot"


def test_a_runs_class_images_are_those_of_the_base_model(tiny_base: Path, tmp_path: Path) -> None:
    recipe = Recipe.preset(
        base=str(tiny_base),
        photos=["unused"],
        class_noun="dog",
        overrides=["prior.count=3", "prior.steps=2", "prior.guidance=3", "prior.seed=7"],
    )
    family = load_family(str(tiny_base), device="cpu", precision="fp32")
    run = TrainingRun(recipe=recipe, files=Run(tmp_path), photos=PhotoSet(photos=()), family=family)
    base = Generator(load_family(str(tiny_base), device="cpu", precision="fp32"))
    expected = base.generate([ImageRequest("a photo of a dog", 7 + i) for i in range(3)], Knobs(steps=2, guidance=3))
    assert [image.tobytes() for image in run.class_images["dog"]] == [image.tobytes() for image in expected]


def damage(path: Path, kind: str) -> None:
    """Damage or exchange a cached image."""
    image = open_image(path)
    path.unlink()
    if kind == "cut short":
        image.save(path)
        os.truncate(path, 50)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "black":
        Image.new("RGB", (8, 8)).save(path)
    elif kind == "exchanged":
        path.write_bytes(path.with_name("0.png").read_bytes())
    else:
        image.save(path, format="JPEG")


@pytest.mark.parametrize("kind", ["cut short", "pipe", "black", "exchanged", "jpeg"])
def test_a_damaged_image_is_generated_again_and_said(cache: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    read_or_generate(PriorSettings(count=4), **FACTS, generate=GreyGenerator())
    (path,) = cache.rglob("2.png")
    damage(path, kind)
    again = GreyGenerator()
    for _ in range(2):
        assert greys(read_or_generate(PriorSettings(count=4), **FACTS, generate=again)) == [0, 1, 2, 3]
        assert again.seeds == [2]
    (record,) = caplog.records
    said = "1 cached image(s) are damaged, exchanged or of an older version, and are generated again."
    assert record.getMessage() == f"{path.parent}: {said}"
