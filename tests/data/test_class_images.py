"""Laws of class pictures: drawn once by the untouched base, kept by everything that decides them, topped up when more are wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mascot.data.class_images import PriorSettings, class_images
from mascot.data.photos import PhotoSet
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.models.families.registry import load_family
from mascot.recipe.recipe import Recipe
from mascot.runs.training_run import TrainingRun
from mascot.storage.run_folder import Run
from mascot.storage.user_cache import cache_folder

FACTS: dict[str, Any] = {"identity": "base", "prompt": "a photo of a dog", "resolution": 8, "precision": "fp32"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Painter:
    """Draws one grey a seed and remembers for which it was asked."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.drawn = list[tuple[str, int]]()
        self.fails_at = fails_at

    def __call__(self, prompt: str, seeds: Sequence[int]) -> Iterator[Image.Image]:
        for seed in seeds:
            if seed == self.fails_at:
                raise KeyboardInterrupt
            self.drawn.append((prompt, seed))
            yield Image.new("RGB", (8, 8), (seed, seed, seed))

    @property
    def seeds(self) -> list[int]:
        return [seed for _, seed in self.drawn]


def greys(images: Sequence[Image.Image]) -> list[Any]:
    return [image.getpixel((0, 0))[0] for image in images]  # pyright: ignore[reportIndexIssue, reportOptionalSubscript]


def test_a_second_run_draws_none_and_gets_the_same_pictures_in_order() -> None:
    first, second = Painter(), Painter()
    drawn = class_images(PriorSettings(count=3, seed=5), **FACTS, generate=first)
    assert first.drawn == [("a photo of a dog", 5), ("a photo of a dog", 6), ("a photo of a dog", 7)]
    assert greys(drawn) == greys(class_images(PriorSettings(count=3, seed=5), **FACTS, generate=second)) == [5, 6, 7]
    assert second.drawn == []


def test_topping_up_draws_only_what_is_missing_and_asking_for_fewer_nothing() -> None:
    class_images(PriorSettings(count=2), **FACTS, generate=Painter())
    more, fewer, shifted = Painter(), Painter(), Painter()
    assert greys(class_images(PriorSettings(count=5), **FACTS, generate=more)) == [0, 1, 2, 3, 4]
    assert more.seeds == [2, 3, 4]
    assert greys(class_images(PriorSettings(count=1), **FACTS, generate=fewer)) == [0]
    assert fewer.seeds == []
    assert greys(class_images(PriorSettings(count=3, seed=4), **FACTS, generate=shifted)) == [4, 5, 6]
    assert shifted.seeds == [5, 6]


def test_what_was_drawn_before_an_interruption_is_kept() -> None:
    with pytest.raises(KeyboardInterrupt):
        class_images(PriorSettings(count=4), **FACTS, generate=Painter(fails_at=2))
    rest = Painter()
    class_images(PriorSettings(count=4), **FACTS, generate=rest)
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
def test_whatever_decides_a_picture_decides_where_it_is_kept(change: dict[str, Any]) -> None:
    settings = PriorSettings(count=1)
    class_images(settings, **FACTS, generate=Painter())
    again = Painter()
    other = settings.model_copy(update={key: value for key, value in change.items() if key not in FACTS})
    class_images(other, **(FACTS | {key: value for key, value in change.items() if key in FACTS}), generate=again)
    assert again.seeds == [0]


def test_the_priors_weight_draws_nothing_anew() -> None:
    class_images(PriorSettings(count=1), **FACTS, generate=Painter())
    again = Painter()
    class_images(PriorSettings(count=1, weight=0.3), **FACTS, generate=again)
    assert again.seeds == []


def test_the_cache_is_where_the_environment_says(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class_images(PriorSettings(count=1), **FACTS, generate=Painter())
    assert len(list(cache.rglob("0.png"))) == 1
    assert cache_folder() == cache
    monkeypatch.delenv("MASCOT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "mascot"


def test_a_runs_class_pictures_are_the_bases_own(tiny_base: Path, tmp_path: Path) -> None:
    recipe = Recipe.preset(
        base=str(tiny_base),
        photos=["unused"],
        class_noun="dog",
        overrides=["prior.count=3", "prior.steps=2", "prior.guidance=3", "prior.seed=7"],
    )
    family = load_family(str(tiny_base), device="cpu", precision="fp32")
    job = TrainingRun(recipe=recipe, run=Run(tmp_path), photos=PhotoSet(photos=()), family=family)
    base = Generator(load_family(str(tiny_base), device="cpu", precision="fp32"))
    expected = base.generate([ImageRequest("a photo of a dog", 7 + i) for i in range(3)], Knobs(steps=2, guidance=3))
    assert [image.tobytes() for image in job.class_images] == [image.tobytes() for image in expected]
