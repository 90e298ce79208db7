"""Laws of recipes: what is written is read again, later values win, mistakes are named at once."""

from __future__ import annotations

import ast
import math
import string
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from mascot.errors import UserError
from mascot.methods.registry import METHODS, settings_of
from mascot.recipe.mistakes import sections_of
from mascot.recipe.overrides import parse_overrides, parse_value
from mascot.recipe.recipe import Recipe, preset_values
from mascot.recipe.subject_tables import OF_ONE, SubjectTable

ROOT = Path(__file__).resolve().parents[2]
PRESETS = sorted((ROOT / "src" / "mascot" / "recipe" / "presets").glob("*.toml"))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda text: text.strip().lower() not in {"", "none"}
)


TOKENS = st.sampled_from([("sks", "zwx", "ohwx"), (None, None, None), ("sks", None, "zwx")])


def models() -> Iterator[tuple[str, type[BaseModel]]]:
    """List every group of settings with its dotted path; the methods' under their names."""
    yield "", Recipe
    for name, field in Recipe.model_fields.items():
        if (
            isinstance(field.annotation, type)
            and issubclass(field.annotation, BaseModel)
            and field.annotation is not BaseModel
        ):
            yield name, field.annotation
    yield "subject", SubjectTable
    for name in METHODS:
        yield f"method:{name}", settings_of(name)


def leaves() -> Iterator[tuple[str, str]]:
    """List every setting that holds a value, as group and name; the subjects' tables hold lists."""
    groups = {path.partition(":")[0] for path, _ in models()} | {"tables"}
    yield from (
        (path, name)
        for path, model in models()
        for name in model.model_fields
        if path != "subject" and (path or name not in groups)
    )


def number(kind: type, bounds: dict[str, float]) -> st.SearchStrategy[Any]:
    """Generate numbers within a setting's bounds."""
    low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
    if kind is int:
        return st.integers(int(low or 0) + ("gt" in bounds), int(high or 2**40) - ("lt" in bounds))
    return st.floats(
        low, high, exclude_min="gt" in bounds, exclude_max="lt" in bounds, allow_nan=False, allow_infinity=False
    )


def values_of(model: type[BaseModel], name: str) -> st.SearchStrategy[Any]:
    """Generate any value that a setting allows."""
    field = model.model_fields[name]
    bounds = {
        key: getattr(rule, key) for rule in field.metadata for key in ("ge", "gt", "le", "lt") if hasattr(rule, key)
    }
    kinds = [kind for kind in (get_args(field.annotation) or (field.annotation,)) if kind is not type(None)]
    kinds = [choice for kind in kinds for choice in (get_args(kind) or (kind,))]
    absent = [st.none()] if type(None) in get_args(field.annotation) else []
    if all(isinstance(kind, str) for kind in kinds):
        return st.one_of(*absent, st.sampled_from(kinds))
    plain = {bool: st.booleans(), str: TEXT}
    [kind] = [kind for kind in kinds if kind is not Ellipsis]
    if issubclass(kind, BaseModel):
        return of(kind, "name")
    found = plain[kind] if kind in plain else number(kind, bounds)
    return st.one_of(*absent, st.lists(found, min_size=1, max_size=3).map(tuple) if Ellipsis in kinds else found)


def of(model: type[BaseModel], *leave: str) -> st.SearchStrategy[dict[str, Any]]:
    """Generate every setting of a group, at any value that it allows."""
    return st.fixed_dictionaries({name: values_of(model, name) for name in model.model_fields if name not in leave})


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Generate any recipe."""
    groups = [name for name, _ in models() if name and ":" not in name and name != "subject"]
    top = draw(of(Recipe, "method", "tables", *groups))
    several = draw(st.lists(of(SubjectTable, "name", "token"), max_size=3))
    if several:
        tokens = draw(TOKENS)
        tables = [{**table, "name": f"name{index}", "token": tokens[index]} for index, table in enumerate(several)]
        top = {key: value for key, value in top.items() if key not in OF_ONE} | {"subject": tables}
    method = draw(st.sampled_from(sorted(METHODS)))
    nested = {name: draw(of(model)) for name, model in models() if name in groups}
    if nested["prior"].get("weight") == 0 or nested["prior"].get("form") == "outputs":
        nested["prior"].pop("folder", None)  # a folder of class images would be of no use
    return Recipe.parse({**top, **nested, "method": {"name": method} | draw(of(settings_of(method), "name"))})


@settings(max_examples=60)
@given(recipe=recipes())
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> None:
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    path.write_text(recipe.to_toml(), encoding="utf-8")
    assert Recipe.read(path) == recipe


@settings(max_examples=15)
@given(recipe=recipes())
def test_a_written_recipe_holds_every_setting(recipe: Recipe) -> None:
    written = tomllib.loads(recipe.to_toml())
    method = recipe.model_dump()["method"]["name"]
    for path, name in leaves():
        if recipe.tables and not path and name in OF_ONE:
            assert name not in written
            continue
        section = written if not path else written[path.partition(":")[0]]
        assert name in section or path not in {"", path.partition(":")[0], f"method:{method}"}


def test_a_written_recipe_is_repeated_exactly_whatever_the_preset_says(tmp_path: Path) -> None:
    recipe = Recipe.preset(photos=("p",), overrides=["dataset.resolution=none", "knobs.height=none", "class_noun=none"])
    assert preset_values("starter", "lora")["dataset"]["resolution"] is not None
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.to_toml(), encoding="utf-8")
    assert recipe.dataset.resolution is None
    assert Recipe.preset(file=path) == recipe


def preset(*overrides: str, file: str = "", folder: Path | None = None, **given: Any) -> Recipe:
    """Build a recipe on the embedded base, with a file of this text."""
    path = None
    if folder is not None:
        path = folder / "recipe.toml"
        path.write_text(file, encoding="utf-8")
    return Recipe.preset(overrides=overrides, file=path, **{"photos": ("p",)} | given)


def test_the_preset_lies_below_everything() -> None:
    values = preset_values("starter", "lora")
    recipe = preset()
    assert recipe.training.steps == values["training"]["steps"] != type(recipe.training)().steps
    assert recipe.model_dump()["method"]["learning_rate"] == values["method"]["learning_rate"]


def test_a_file_wins_over_the_preset_an_option_over_the_file_and_set_over_all(tmp_path: Path) -> None:
    text = "seed = 1\ntoken = 'abc'\n[training]\nsteps = 11\nbatch_size = 3\n[method]\nrank = 5\n"
    recipe = preset("training.steps=33", "seed=3", file=text, folder=tmp_path, seed=2, token=None)
    assert (recipe.training.steps, recipe.seed) == (33, 3)
    assert (recipe.training.batch_size, recipe.token) == (3, "abc")
    assert recipe.model_dump()["method"]["rank"] == 5
    assert recipe.training.warmup_steps == preset_values("starter", "lora")["training"]["warmup_steps"]
    assert preset(file=text, folder=tmp_path, seed=2).seed == 2
    assert preset(file=text, folder=tmp_path).seed == 1


def test_the_later_of_two_overrides_wins() -> None:
    assert preset("seed=1", "seed=2").seed == 2


def test_a_base_in_the_file_chooses_the_preset_and_an_option_wins_over_it(tmp_path: Path, tiny_base: Path) -> None:
    text = f"base = '{tiny_base}'"
    assert preset(file=text, folder=tmp_path).prior.count == preset_values(str(tiny_base), "lora")["prior"]["count"]
    assert (
        preset(file=text, folder=tmp_path, base="starter").prior.count
        == preset_values("starter", "lora")["prior"]["count"]
    )
    assert preset(f"base={tiny_base}").base == str(tiny_base)


def test_an_unknown_pair_has_no_preset() -> None:
    assert preset_values("starter", "no such method") == {}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("16", 16),
        ("1e-4", 1e-4),
        ("true", True),
        ("none", None),
        ("None", None),
        ("'none'", "none"),
        ("word", "word"),
        ("", ""),
        ("two words", "two words"),
        ("['a', 'b']", ["a", "b"]),
        ('"3"', "3"),
        ("a # b", "a # b"),
        ("C:\\x", "C:\\x"),
        ("1\nb = 2", "1\nb = 2"),
    ],
)
def test_a_value_is_toml_or_else_text(text: str, value: object) -> None:
    assert parse_value(text) == value


def test_overrides_nest_and_keep_what_follows_the_first_equals_sign() -> None:
    assert parse_overrides(["a.b=1", "a.c=x=y", " d = 2 "]) == {"a": {"b": 1, "c": "x=y"}, "d": 2}


@pytest.mark.parametrize("key", ["dataset.resolution", "training.min_snr", "knobs.height", "knobs.width", "class_noun"])
@pytest.mark.parametrize("spelling", ["none", "None", '"none"'])
def test_none_is_absence_where_a_setting_may_be_absent(key: str, spelling: str, tmp_path: Path) -> None:
    section, _, name = key.rpartition(".")
    text = f"[{section}]\n{name} = 'none'" if section else f"{name} = 'none'"
    for recipe in (preset(f"{key}={spelling}"), preset(file=text, folder=tmp_path)):
        holder: Any = getattr(recipe, section) if section else recipe
        assert getattr(holder, name) is None


def test_none_is_a_word_where_a_setting_is_a_text(tmp_path: Path) -> None:
    assert preset("dataset.background='none'").dataset.background == "none"
    assert preset(file="[knobs]\nnegative = 'none'", folder=tmp_path).knobs.negative == "none"


def test_all_mistakes_are_named_at_once_with_their_paths_and_what_was_meant() -> None:
    with pytest.raises(UserError) as raised:
        preset(
            "seed=-1",
            "method.rank=0",
            "method.txt_learning_rate=1",
            "training.stepz=5",
            "previews.prompts=[]",
            "color=red",
            "prior.count=x",
        )
    sentence = str(raised.value)
    for part in (
        "the recipe has mistakes: ",
        "seed = -1: ",
        "method.rank = 0: ",
        "method.txt_learning_rate is not a setting; did you mean 'text_learning_rate'?",
        "training.stepz is not a setting; did you mean 'steps'?",
        "previews.prompts = []: ",
        "color is not a setting; ",
        'prior.count = "x": ',
    ):
        assert part in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(("path", "name"), list(leaves()), ids=str)
def test_a_misspelt_setting_is_understood(path: str, name: str) -> None:
    section = path.partition(":")[0]
    wrong = f"{section}.{name}x".lstrip(".")
    with pytest.raises(
        UserError, match=rf"^the recipe has a mistake: {wrong} is not a setting; did you mean '{name}'\?$"
    ):
        preset(f"{wrong}=1", *([f"method.name={path.partition(':')[2]}"] if section == "method" else []))


@pytest.mark.parametrize(("path", "name"), [leaf for leaf in leaves() if leaf[1] != "name"], ids=str)
def test_not_a_number_and_infinity_are_refused_everywhere(path: str, name: str) -> None:
    key = f"{path.partition(':')[0]}.{name}".lstrip(".")
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(UserError, match=key):
            preset(f"{key}={value}")


@pytest.mark.parametrize("method", [3, "lora", [], None, True])
def test_a_method_that_is_no_group_is_refused(method: object) -> None:
    with pytest.raises(UserError, match=r"method = .*: a method is a group of settings"):
        Recipe.parse({"photos": ["p"], "method": method})


def test_every_setting_is_described() -> None:
    undescribed = [
        f"{path}.{name}".lstrip(".")
        for path, model in models()
        for name, field in model.model_fields.items()
        if not described(field)
    ]
    assert undescribed == []


def described(field: Any) -> bool:
    """Return whether a setting has a description, or is a group whose class has one."""
    kind = field.annotation
    return bool(field.description or (isinstance(kind, type) and issubclass(kind, BaseModel) and kind.__doc__))


def test_the_sections_that_suggestions_know_are_those_there_are() -> None:
    assert dict(sections_of(Recipe)) == {
        path: [field.alias or name for name, field in model.model_fields.items()]
        for path, model in models()
        if ":" not in path
    }


def used_names() -> set[str]:
    """List every attribute that the package reads, beyond the settings' own definitions."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "src" / "mascot").rglob("*.py")]
    return {
        node.attr
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


def test_no_setting_is_accepted_that_nothing_reads() -> None:
    used = used_names()
    assert [f"{path}.{name}" for path, name in leaves() if name not in used] == []
    assert "no_such_setting" not in used


def chosen(dumped: Any, like: Any) -> Any:
    """Return a complete recipe's values of the settings that a preset gives."""
    return {key: chosen(dumped[key], value) for key, value in like.items()} if isinstance(like, dict) else dumped


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_packaged_preset_begins_with_its_command_and_holds_only_settings(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# mascot train ")
    assert len([line for line in text.splitlines() if line.startswith("#")]) >= 2
    name, _, method = path.stem.partition("-")
    values = tomllib.loads(text)
    recipe = Recipe.parse({"photos": ["p"], "base": name} | values)
    assert values["method"]["name"] == method
    assert method in METHODS
    dumped = recipe.model_dump(mode="json")
    assert values == chosen(dumped, values)


def test_the_presets_are_in_the_package() -> None:
    assert len(PRESETS) >= 2
    assert sorted(path.name for path in (files("mascot") / "recipe" / "presets").iterdir()) == [
        path.name for path in PRESETS
    ]


def test_no_letter_of_a_recipe_file_raises_anything_but_a_user_error(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    for letter in string.printable + "\x00\ufeff\u2028":
        path.write_text(f"photos = ['p']\n{letter} = 1", encoding="utf-8")
        try:
            Recipe.preset(file=path)
        except UserError as error:
            assert "recipe" in str(error)  # noqa: PT017 - most letters must be refused, blanks and comments may pass
