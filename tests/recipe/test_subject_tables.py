"""Laws of several subjects in a recipe: names, tokens, options, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mascot.cli.options import build_recipe
from mascot.errors import UserError
from mascot.recipe.recipe import Recipe, with_tokens


def made(*tables: dict[str, Any], **given: Any) -> Recipe:
    return Recipe.preset(subject=[{"photos": ["p"]} | table for table in tables], **given)


def built(*photos: str, class_noun: str | None = None, token: str | None = None, file: Path | None = None) -> Recipe:
    return build_recipe(
        file,
        photos=[Path(path) for path in photos],
        class_noun=class_noun,
        base=None,
        method=None,
        token=token,
        overrides=None,
        steps=None,
        seed=None,
    )


@pytest.mark.parametrize(
    ("tables", "names"),
    [
        ([{"class_noun": "owl"}, {"class_noun": "Teddy bear"}], ("owl", "teddy_bear")),
        ([{"class_noun": "dog", "photos": ["a/rex/"]}, {"class_noun": "dog", "photos": ["Fido"]}], ("rex", "fido")),
        ([{"class_noun": "dog", "photos": ["a/1"]}, {"class_noun": "dog", "photos": ["b/1"]}], ("dog1", "dog2")),
        ([{"photos": ["a/token"]}, {"photos": ["b/class"]}], ("subject1", "subject2")),
        ([{"class_noun": "owl", "name": "Hoot"}, {"class_noun": "cat"}], ("Hoot", "cat")),
    ],
)
def test_a_subject_is_called_by_its_noun_else_its_folder(tables: list[dict[str, Any]], names: tuple[str, ...]) -> None:
    assert made(*tables).subjects.names == names


def test_the_file_of_several_subjects_is_read_again(tmp_path: Path) -> None:
    recipe = made({"class_noun": "owl"}, {"class_noun": "cat", "token": "zwx"})
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.to_toml(), encoding="utf-8")
    assert Recipe.read(path) == recipe
    assert "\nphotos" not in recipe.to_toml().partition("[[subject]]")[0]
    assert "[[subject]]" not in Recipe.preset(photos=("p",)).to_toml()


def test_a_recipe_without_tokens_fits_the_run_that_chose_them() -> None:
    recipe = made({"class_noun": "owl"}, {"class_noun": "cat", "token": "zwx"})
    chosen = with_tokens(recipe, ["sks", None])
    assert [subject.words for subject in chosen.subject.all] == ["sks owl", "zwx cat"]
    assert recipe.fits(chosen)
    assert not recipe.fits(Recipe.preset(photos=("p",)))
    assert not chosen.fits(with_tokens(recipe, ["ohwx", None]))


def test_options_with_commas_are_several_subjects(tmp_path: Path) -> None:
    recipe = built("owl", "cat", class_noun="owl, cat", token="sks,zwx")  # noqa: S106 - words of prompts
    assert [(subject.name, subject.words) for subject in recipe.subject.all] == [("owl", "sks owl"), ("cat", "zwx cat")]
    assert recipe.subjects.photo_groups == (("owl",), ("cat",))
    two_dogs = built("rex", "fido", class_noun="dog", token="sks,zwx")  # noqa: S106
    assert [subject.class_noun for subject in two_dogs.subject.all] == ["dog", "dog"]
    one = built("owl", "more", class_noun="owl")
    assert (one.tables, one.photos) == ((), ("owl", "more"))
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.to_toml(), encoding="utf-8")
    changed = built(file=path, token="ohwx,abc")  # noqa: S106
    assert [subject.words for subject in changed.subject.all] == ["ohwx owl", "abc cat"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"photos": ["a"], "class_noun": "owl,cat"}, "is for 2 subjects, and there are 1 folders"),
        ({"photos": ["a", "b", "c"], "class_noun": "owl,cat"}, "is for 2 subjects, and there are 3 folders"),
        ({"photos": ["a", "b"], "class_noun": "owl,"}, "has an empty item"),
        ({"photos": ["a", "b"], "class_noun": "owl,cat", "token": "sks"}, "--token sks is for 1 subjects"),
        ({"photos": ["a", "b"], "class_noun": "owl,cat", "token": "sks,SKS"}, "a token of its own"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        built(*options.pop("photos"), **options)


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        ([{"token": "sks"}, {"token": "sks dog"}], "'sks' and 'sks dog' of .* are alike"),
        ([{"name": "rex"}, {"name": "rex"}], "two subjects are called 'rex'"),
        ([{"name": "class"}, {"name": "rex"}], "another meaning in prompts"),
        ([{"name": "a b"}, {"name": "rex"}], r"subject\.0\.name"),
        ([{"tokn": "x"}, {}], r"subject\.0\.tokn is not a setting; did you mean 'token'"),
        ([{"class_noun": "owl"}, {"token": "owl", "class_noun": "cat"}], "'owl' of cat is the class noun of owl"),
    ],
)
def test_subjects_that_cannot_be_told_apart_are_refused(tables: list[dict[str, Any]], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        made(*tables)


def test_tables_stand_alone() -> None:
    with pytest.raises(UserError, match=r"photos cannot stand beside \[\[subject\]\] tables; write them into"):
        made({"name": "owl"}, photos=("more",))
    with pytest.raises(UserError, match="class_noun cannot stand beside"):
        made({"name": "owl"}, class_noun="owl")
