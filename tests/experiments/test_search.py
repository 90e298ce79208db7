"""Laws of the points of a sweep: each combination once, whole recipes, mistakes found early."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mascot.errors import UserError
from mascot.experiments.search import SweepPoint, grid_search, make_point, recipe_values, tpe_search
from mascot.experiments.search_space import ValueRange, expand_keys, parse_over, split_values
from mascot.recipe.recipe import Recipe


@pytest.fixture
def values(home: Path) -> dict[str, Any]:
    return {"photos": [str(home / "photos")], "class_noun": "dog"}


def all_of(values: Mapping[str, Any], over: Mapping[str, Any]) -> list[SweepPoint]:
    return next(grid_search(values, expand_keys(over)))


def test_values_are_parsed_as_recipes_have_them() -> None:
    items = [
        "method.rank=4,16",
        "training.min_snr=none,5",
        "method.name=lora,pivotal",
        'token="a, b",sks',
        "seed=1..9",
        "steps=1_000",
    ]
    assert parse_over(items) == {
        "method.rank": [4, 16],
        "training.min_snr": [None, 5],
        "method.name": ["lora", "pivotal"],
        "token": ["a, b", "sks"],
        "seed": ValueRange(1, 9),
        "steps": [1000],
    }
    assert parse_over(['dataset.templates=["a {token}", "b, {token}"],["c {token}"]']) == {
        "dataset.templates": [["a {token}", "b, {token}"], ["c {token}"]]
    }


@given(st.lists(st.text(st.characters(exclude_characters=",[]{}\"'"), min_size=1), min_size=1))
def test_plain_values_are_split_at_every_comma(pieces: list[str]) -> None:
    assert split_values(",".join(pieces)) == pieces


def test_an_apostrophe_is_a_letter() -> None:
    assert split_values("dog's,cat") == ["dog's", "cat"]


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (["method.rank"], "key=value"),
        (["=1,2"], "key=value"),
        (["method..rank=1"], "key=value"),
        (["method.rank=1,,2"], "empty value"),
        (["method.rank="], "empty value"),
        (["method.rank=1", "method.rank=2"], "given twice"),
        (["seed=9..1"], "is empty"),
    ],
)
def test_what_is_not_of_the_form_is_refused(items: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_over(items)


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({}, "nothing is varied"),
        ({"seed": []}, "has no values"),
        ({"seed": [1, 2, 1]}, "has the value 1 twice"),
        ({"steps": [1], "training.steps": [2]}, "the same setting"),
        ({"method.rnk": [4]}, "did you mean 'rank'"),
        ({"trainin.batch_size": [4]}, "did you mean 'training'"),
        ({"method.rank": [4, "many"]}, "many"),
        ({"method.name": ["lora", "pivotl"]}, "did you mean 'pivotal'"),
        ({"seed": ValueRange(0, 9)}, "--trials"),
        ({"photos": [["nowhere"]]}, "nowhere"),
    ],
)
def test_mistakes_are_found_before_anything_runs(values: dict[str, Any], over: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        all_of(values, over)


def test_a_grid_has_every_combination_once_and_knows_its_position(values: dict[str, Any]) -> None:
    points = all_of(values, {"method.rank": [4, 16], "steps": [1, 2, 3]})
    assert {
        point.position: (point.recipe.method.model_dump()["rank"], point.recipe.training.steps) for point in points
    } == {(i, j): (rank, steps) for i, rank in enumerate([4, 16]) for j, steps in enumerate([1, 2, 3])}
    assert len({point.name for point in points}) == 6
    assert dict(points[0].changes) == {"method.rank": 4, "training.steps": 1}


def test_points_that_share_a_loaded_base_follow_each_other(values: dict[str, Any]) -> None:
    points = all_of(values, {"precision": ["fp32", "bf16"], "method.rank": [4, 8, 16]})
    assert [point.recipe.precision for point in points] == ["fp32"] * 3 + ["bf16"] * 3


def test_only_what_is_swept_differs_from_the_recipe(home: Path) -> None:
    recipe = Recipe.preset(
        photos=[str(home / "photos")], class_noun="dog", overrides=["method.rank=3", "training.min_snr=none"]
    )
    point = make_point(recipe_values(recipe), {"training.steps": 7})
    assert point.recipe == recipe.model_copy(update={"training": recipe.training.model_copy(update={"steps": 7})})


def test_another_method_brings_the_settings_of_its_preset(values: dict[str, Any], home: Path) -> None:
    recipe = Recipe.preset(photos=[str(home / "photos")], class_noun="dog", overrides=["method.rank=3"])
    made = make_point(recipe_values(recipe), {"method.name": "pivotal"})
    assert made.recipe.method == Recipe.preset(**values, overrides=["method.name=pivotal"]).method
    assert make_point(recipe_values(recipe), {"method.name": "lora"}).recipe == recipe
    assert make_point(values, {"method.name": "pivotal"}).recipe == Recipe.preset(
        **values, overrides=["method.name=pivotal"]
    )


def test_a_name_stands_for_the_recipe_and_for_the_photos_content(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    photo = folder / "0.png"
    photo.write_bytes((home / "photos" / "0.png").read_bytes())
    values = {"photos": [str(folder)], "class_noun": "dog"}
    name = make_point(values, {"seed": 1}).name
    assert make_point(values, {"seed": 1}).name == name
    assert make_point(values, {"seed": 2}).name != name
    (folder / "0.txt").write_text("a photo of a {token} asleep")
    captioned = make_point(values, {"seed": 1}).name
    assert captioned != name
    photo.write_bytes((home / "photos" / "1.png").read_bytes())
    assert make_point(values, {"seed": 1}).name not in {name, captioned}


SPACE = {
    "method.rank": [2, 4, 8, 16],
    "method.learning_rate": ValueRange(1e-5, 1e-3),
    "training.steps": ValueRange(10, 20),
}


def searched(
    values: Mapping[str, Any], *, trials: int, round_size: int = 1, lowest: bool = False, seed: int = 0
) -> list[SweepPoint]:
    """A search whose metric is the rank."""
    rounds, tried = (
        tpe_search(values, SPACE, trials=trials, round_size=round_size, lowest=lowest, seed=seed),
        list[SweepPoint](),
    )
    points: Sequence[SweepPoint] = next(rounds)
    try:
        while True:
            tried += points
            points = rounds.send({point.name: float(point.changes["method.rank"]) for point in points})
    except StopIteration:
        return tried


@pytest.mark.parametrize("round_size", [1, 4])
def test_a_search_stays_in_its_ranges_and_is_the_same_each_time(values: dict[str, Any], round_size: int) -> None:
    points = searched(values, trials=9, round_size=round_size)
    assert len(points) == 9
    assert [point.name for point in points] == [
        point.name for point in searched(values, trials=9, round_size=round_size)
    ]
    assert [point.name for point in points] != [
        point.name for point in searched(values, trials=9, round_size=round_size, seed=1)
    ]
    for point in points:
        learning_rate, steps = point.changes["method.learning_rate"], point.changes["training.steps"]
        assert 1e-5 <= float(str(learning_rate)) <= 1e-3
        assert learning_rate == float(f"{learning_rate:.3g}")
        assert isinstance(steps, int)
        assert 10 <= steps <= 20
        assert point.recipe.training.steps == steps


@pytest.mark.parametrize(("lowest", "good"), [(False, 16), (True, 2)])
def test_a_search_finds_good_values(values: dict[str, Any], lowest: bool, good: int) -> None:  # noqa: FBT001 - a case
    ranks = [point.changes["method.rank"] for point in searched(values, trials=40, lowest=lowest)]
    assert ranks[20:].count(good) > 10


def test_a_failed_trial_does_not_stop_a_search(values: dict[str, Any]) -> None:
    rounds = tpe_search(values, {"method.rank": [2, 4]}, trials=2)
    (first,) = next(rounds)
    assert len(rounds.send({first.name: None})) == 1


def test_a_search_refuses_mistakes_before_anything_runs(
    values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="16x"):
        next(tpe_search(values, {"method.rank": [*range(1, 40), "16x"]}, trials=2))
    with pytest.raises(UserError, match="at least one"):
        next(tpe_search(values, SPACE, trials=0))
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"mascot\[search\]"):
        next(tpe_search(values, SPACE, trials=2))
