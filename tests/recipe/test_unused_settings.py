"""Settings that change nothing are refused by name where a user gives them; old files are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mascot.api.experiments.evaluate_suite import suite_recipe
from mascot.cli.options import build_recipe
from mascot.errors import UserError
from mascot.experiments.search import grid_search
from mascot.experiments.subject_collection import CollectionSubject
from mascot.experiments.sweep import SweepFolder, SweepJob, sweep_recipes
from mascot.methods.registry import METHODS
from mascot.recipe.recipe import Recipe
from mascot.recipe.unused_settings import check_used, default_of, unused_settings, value_of
from tiny.photos import noise

UNUSED = {
    ("prior.weight=0", "prior.steps=9"): "prior.steps has no effect, as it needs prior.weight above 0",
    ("prior.weight=0", "prior.count=9"): "prior.count has no effect",
    ("prior.weight=0", "prior.form=outputs"): "prior.form has no effect",
    ("prior.count=0", "prior.weight=2"): "prior.weight has no effect, as it needs prior.count above 0",
    ("prior.count=0", "prior.seed=3"): "prior.seed has no effect",
    ("prior.form=outputs", "prior.count=9"): "prior.count has no effect, as it needs prior.form=images",
    ("prior.form=outputs", "prior.guidance=9"): "prior.guidance has no effect",
    ("previews.every=0", "previews.seed=9"): "previews.seed has no effect, as it needs previews.every above 0",
    ("previews.every=0", 'previews.prompts=["a dog"]'): "previews.prompts has no effect",
    ("selection.active=false", "selection.cost=2"): "selection.cost has no effect, as it needs selection.active=true",
    ("selection.active=false", "selection.patience=2"): "selection.patience has no effect",
    ("selection.active=false", "selection.knobs=false"): "selection.knobs has no effect",
    ("dataset.keep_tags=3",): "needs dataset.shuffle_tags=true or dataset.tag_dropout above 0",
    ("diagnosis.active=false", "diagnosis.images=9"): "diagnosis.images has no effect",
    ("knobs.guidance=1", "knobs.negative=fog"): "knobs.negative has no effect",
    ("method.text_learning_rate=0", "method.text_rank=4"): "needs method.text_learning_rate above 0",
    ("method.text_learning_rate=0", "method.text_alpha=4"): "method.text_alpha has no effect",
    ("method.text_learning_rate=0", "method.text_until=0.5"): "method.text_until has no effect",
    ("method.text_learning_rate=0", "knobs.text_scale=0.5"): "knobs.text_scale has no effect",
    ("method.name=dreambooth", "method.text_learning_rate=0", "method.text_until=0.5"): "method.text_until has",
    ("method.name=textual-inversion", "knobs.unet_scale=0.5"): "knobs.unet_scale has no effect",
    ("method.name=textual-inversion", "prior.count=9"): "needs prior.weight above 0",
    ("method.name=pivotal", "method.layers.text_learning_rate=0", "method.layers.text_rank=4"): "method.layers.text_r",
}
"""Overrides -> what the refusal says."""


def built(*overrides: str, file: Path | None = None, **options: Any) -> Recipe:
    """Build a recipe as `mascot train` does."""
    given: dict[str, Any] = {
        "photos": [Path("photos")],
        "class_noun": "dog",
        "overrides": list(overrides),
        **dict.fromkeys(("base", "token", "seed", "method", "steps")),
    }
    return build_recipe(file, **(given | options))


@pytest.mark.parametrize("overrides", UNUSED, ids=" ".join)
def test_a_setting_without_effect_is_refused_by_name(overrides: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no effect") as refused:
        built(*overrides)
    assert UNUSED[overrides] in str(refused.value)
    recipe = Recipe.preset(photos=("photos",), class_noun="dog", overrides=overrides)
    (tmp_path / "run.toml").write_text(recipe.to_toml(), encoding="utf-8")
    assert Recipe.read(tmp_path / "run.toml") == recipe, "runs that stand on the disk can be resumed"
    with pytest.raises(UserError, match="has no effect"):
        built(file=tmp_path / "run.toml", class_noun=None)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("embedded", [True, False])
def test_complete_recipes_are_read_whatever_is_switched_off(
    tmp_path: Path, tiny_base: Path, method: str, *, embedded: bool
) -> None:
    base = "starter" if embedded else str(tiny_base)
    off = ("prior.weight=0", "previews.every=0", "selection.active=false", "diagnosis.active=false")
    recipe = Recipe.preset(photos=("photos",), base=base, overrides=[f"method.name={method}"])
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.to_toml(), encoding="utf-8")
    assert built(file=path, class_noun=None) == recipe
    for others in ((), ("base=starter",)):
        built(*off, *others, file=path, class_noun=None)


def test_what_is_off_may_be_switched_off_twice_and_defaults_may_be_given() -> None:
    built("prior.weight=0", "prior.count=0")
    built("prior.weight=0", "prior.seed=0", "prior.steps=25")
    built("previews.every=0", "previews.seed=0")


@pytest.mark.parametrize(
    ("options", "override"),
    [
        ({"steps": 5}, "training.steps=9"),
        ({"method": "lora"}, "method.name=dreambooth"),
        ({"seed": 1}, "seed=2"),
        ({"token": "sks"}, "token=xyz"),
        ({"base": "starter"}, "base=other"),
        ({}, "class_noun=cat"),
    ],
)
def test_one_setting_from_two_options_is_refused(options: dict[str, Any], override: str) -> None:
    with pytest.raises(UserError, match=f"--set {override.partition('=')[0]} give the same setting"):
        built(override, **options)


def test_a_selection_without_a_class_noun_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"selection\.patience has no effect, as it needs a class noun"):
        built("prior.count=0", "selection.patience=7", class_noun=None)


def test_a_setting_that_one_of_several_recipes_uses_is_not_refused() -> None:
    recipes = [
        Recipe.preset(photos=("photos",), overrides=[f"method.name={method}", "prior.count=9"])
        for method in ("lora", "textual-inversion")
    ]
    check_used(recipes, overrides={"prior": {"count": 9}})
    with pytest.raises(UserError, match=r"prior\.count has no effect"):
        check_used(recipes[1:], overrides={"prior": {"count": 9}})


def test_every_rule_names_a_setting_with_a_default() -> None:
    for overrides in UNUSED:
        recipe = Recipe.preset(photos=("photos",), class_noun="dog", overrides=overrides)
        for key in unused_settings(recipe):
            _ = value_of(recipe, key), default_of(recipe, key)


def test_an_axis_of_a_sweep_that_changes_nothing_is_refused(tmp_path: Path) -> None:
    noise().save(tmp_path / "photo.png")
    plain: dict[str, object] = {"photos": [str(tmp_path / "photo.png")], "class_noun": "dog"}

    def sweep(values: dict[str, object], over: dict[str, list[object]]) -> None:
        job: Any = SweepJob(files=SweepFolder(tmp_path / "out"), train_run=None, score_run=None, scored_by="")
        sweep_recipes(plain | values, over, job, by="identity")

    with pytest.raises(UserError, match=r"prior\.steps has no effect, as it needs prior\.weight above 0"):
        sweep({"prior": {"weight": 0}}, {"prior.steps": [1, 2]})
    with pytest.raises(UserError, match=r"diagnosis\.images has no effect, as the runs of a sweep"):
        sweep({}, {"diagnosis.images": [2, 4]})
    points = next(grid_search(plain, {"prior.weight": [0, 1], "prior.steps": [1]}))
    assert len(points) == 2
    assert not (tmp_path / "out").exists()


def test_a_suite_refuses_what_its_own_options_give(tmp_path: Path) -> None:
    subject: Any = CollectionSubject
    made = object.__new__(subject)
    object.__setattr__(made, "photos", tmp_path)
    object.__setattr__(made, "class_noun", "dog")
    for override, says in {
        "method.name=dreambooth": "--methods and --set method.name",
        "seed=4": "--seed and --set seed",
        "base=x": "--base and --set base",
        "diagnosis.images=4": "the runs of a suite are not diagnosed",
    }.items():
        with pytest.raises(UserError, match=says):
            suite_recipe(made, method="lora", base="starter", seed=0, overrides=[override])
