"""A recipe from the fields of a form, and what the form offers: nouns, bases, methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

import tomli_w

from mascot.api.library.lineage import changed_settings, recipe_of
from mascot.errors import UserError
from mascot.methods.registry import DEFAULT, METHODS
from mascot.models import starter
from mascot.recipe.changes import show
from mascot.recipe.overrides import insert, merge, parse_overrides
from mascot.recipe.recipe import Recipe, preset_values
from mascot.recipe.unused_settings import check_used
from mascot.storage.run_folder import Run
from mascot.storage.strict_parsing import MalformedText, parse_toml

Effort = Literal["quick", "usual", "thorough"]
"""How long a training is: a quarter, as the preset says, or twice as long."""
FACTORS: Final[Mapping[str, float]] = {"quick": 0.25, "usual": 1.0, "thorough": 2.0}
QUICK: Final[Mapping[str, object]] = {"report.images": 0, "selection.knobs": False}
"""What a quick look leaves out."""
PLACES: Final = ("photos", "class_noun", "base")
"""Keys that have fields of their own."""
FIELDS: Final[Mapping[str, str]] = {
    "steps": "training.steps",
    "learning_rate": "method.learning_rate",
    "previews_every": "previews.every",
    "seed": "seed",
}
"""Field of a number -> the key that it sets."""
MOST_FOLDERS: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeForm:
    """The fields of the form; None or an empty text leaves a setting to the preset."""

    class_noun: str
    base: str = "starter"
    method: str = DEFAULT
    effort: Effort = "usual"
    steps: int | None = None
    learning_rate: float | None = None
    seed: int | None = None
    previews_every: int | None = None
    masked: float | None = None
    """Loss weight of what lies outside the masks of photos; None ignores masks."""
    settings: str = ""
    """More settings as TOML; they win over the fields."""


def recipe_from(form: RecipeForm, photos: Path) -> Recipe:
    """Build the recipe of a form.

    Raises:
        UserError: all mistakes at once, each with its key; or a setting changes nothing.
    """
    written = parse_settings(form.settings)
    given = merge(form_values(form), written)
    for key in PLACES:
        if key in written:
            raise UserError(f"{key} has a field of its own; leave it out of the settings.")
    overrides = [f"{key}={value}" for key, value in flat(given)]
    noun, base = form.class_noun.strip() or None, form.base.strip() or None
    recipe = Recipe.preset(base=base, overrides=overrides, photos=[str(photos)], class_noun=noun)
    check_used([recipe], overrides=parse_overrides([f"{key}={value}" for key, value in flat(written)]), in_file={})
    return recipe


def parse_settings(text: str) -> dict[str, object]:
    """Parse more settings.

    Raises:
        UserError: they are not TOML.
    """
    try:
        return parse_toml(text)
    except MalformedText as error:
        raise UserError(f"The settings are not TOML ({error}); correct them.") from None


def form_values(form: RecipeForm) -> dict[str, object]:
    """Return what the fields say, as nested values of a recipe."""
    values: dict[str, object] = {}
    base = form.base.strip() or "starter"
    steps = form.steps
    if steps is None and form.effort != "usual":
        steps = int(preset_fields(base, form.method, form.effort)["steps"])
    given: dict[str, object] = {"method.name": form.method, "dataset.masked": form.masked}
    given |= {key: getattr(form, field) for field, key in FIELDS.items()} | {"training.steps": steps}
    given |= QUICK if form.effort == "quick" else {}
    for key, value in given.items():
        if value is not None:
            insert(values, key.split("."), value)
    return values


def preset_fields(base: str, method: str, effort: Effort) -> dict[str, float]:
    """Return what a preset recommends for the fields of numbers; 0 where it says nothing.

    The keys are `steps`, `rate` and `every`. A base that cannot be read has no preset.
    """
    try:
        preset = preset_values(base.strip() or "starter", method)
    except UserError:
        preset = {}
    found = {
        name: float(str(cast("Mapping[str, object]", preset.get(section, {})).get(key, 0)))
        for name, section, key in (
            ("steps", "training", "steps"),
            ("rate", "method", "learning_rate"),
            ("every", "previews", "every"),
        )
    }
    return found | {"steps": float(round(found["steps"] * FACTORS[effort]))}


def flat(values: Mapping[str, object], before: str = "") -> list[tuple[str, str]]:
    """List nested values by dotted keys, written as `--set` reads them."""
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += flat(cast("Mapping[str, object]", value), f"{before}{key}.")
        else:
            found.append((f"{before}{key}", show(value)))
    return found


def settings_text_of(run: Run, changes: Sequence[str] = ()) -> tuple[RecipeForm, str]:
    """Return the form of a run's recipe, with some changes such as `method.rank=8` on top.

    The second value is the settings as TOML: those that differ from the preset, then the changes.

    Raises:
        UserError: the recipe cannot be read, or a change is malformed.
    """
    recipe = recipe_of(run)
    changed = merge(changed_settings(recipe), parse_overrides(changes))
    for key in (*PLACES, "token", "subject", "device"):
        changed.pop(key, None)
    method = cast("dict[str, object]", changed.get("method", {}))
    method.pop("name", None)
    if not method:
        changed.pop("method", None)
    numbers: dict[str, Any] = {field: take(changed, key) for field, key in FIELDS.items()}
    form = RecipeForm(
        class_noun=recipe.class_noun or "", base=recipe.base, method=str(getattr(recipe.method, "name", "")), **numbers
    )
    return form, tomli_w.dumps(changed)


def take(values: dict[str, object], key: str) -> object:
    """Take a dotted key out of nested values, and a section that is empty then."""
    section, _, name = key.rpartition(".")
    inner = cast("dict[str, object]", values.get(section, {})) if section else values
    found = inner.pop(name, None)
    if section and not inner:
        values.pop(section, None)
    return found


def nouns() -> list[str]:
    """List the nouns that the embedded base knows."""
    return list(starter.nouns())


def methods() -> list[str]:
    """List the names of the methods."""
    return list(METHODS)


def find_bases(folders: Sequence[Path]) -> list[str]:
    """List the embedded base, and the folders of bases in some folders."""
    found = ["starter"]
    for folder in folders:
        if folder.is_dir():
            entries = sorted(folder.iterdir())[:MOST_FOLDERS]
            found += [str(path) for path in entries if (path / "model_index.json").is_file()]
    return found
