"""Settings that change nothing beside the others: a user who gives one is told, by its key.

A run's own `recipe.toml` lists every setting, used or not, so it is read without this check. What a
user gives is refused only where it differs from the default: then it was meant to change something.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel

from mascot.adapters.sides import DENOISER, TEXT_ENCODERS
from mascot.errors import UserError
from mascot.models.families.registry import embeds_guidance
from mascot.protocols import Method
from mascot.recipe.overrides import read_toml
from mascot.recipe.recipe import Recipe, preset_values

CLASS_IMAGES = ("count", "steps", "guidance", "seed")
"""Settings of prior preservation that class images alone use."""
SELECTION = ("checkpoints", "patience", "knobs", "cost")
"""Settings of the selection that it alone uses; its encoders score other images too."""


def unused_settings(recipe: Recipe) -> dict[str, str]:
    """Map the dotted key of each setting that changes nothing to what it would need."""
    method = cast("Method", recipe.method)
    found = {f"method.{key}": f"method.{needed} above 0" for key, needed in method.unused.items()}
    if not recipe.dataset.shuffle_tags and not recipe.dataset.tag_dropout:
        found["dataset.keep_tags"] = "dataset.shuffle_tags=true or dataset.tag_dropout above 0"
    return {**found, **unused_in_prior(recipe), **unused_knobs(recipe, method), **unused_later(recipe)}


def unused_in_prior(recipe: Recipe) -> dict[str, str]:
    """Find the settings of prior preservation that it does not use as it is, or where it is off."""
    prior = recipe.prior
    if prior.weight == 0:
        keys = ("form", *(key for key in CLASS_IMAGES if key != "count" or prior.count))
        return {f"prior.{key}": "prior.weight above 0" for key in keys}
    if prior.form == "outputs":
        return {f"prior.{key}": "prior.form=images" for key in CLASS_IMAGES}
    if prior.count == 0:
        return {f"prior.{key}": "prior.count above 0" for key in ("weight", *CLASS_IMAGES[1:])}
    return {}


def unused_knobs(recipe: Recipe, method: Method) -> dict[str, str]:
    """Find scales of what the method does not train, and guidance that is not used."""
    found: dict[str, str] = {}
    for knob, side in {"unet_scale": DENOISER, "text_scale": TEXT_ENCODERS}.items():
        if side not in method.changes:
            found[f"knobs.{knob}"] = f"a method that trains the {side}"
    return found | unused_guidance(recipe)


def unused_guidance(recipe: Recipe) -> dict[str, str]:
    """Find a negative prompt without guidance, and true guidance on a base that has no other."""
    knobs = recipe.knobs
    asked = bool(knobs.negative) or knobs.true_guidance != 1  # else the base need not be asked
    if asked and embeds_guidance(recipe.base):
        return {"knobs.negative": "a knobs.true_guidance other than 1"} if knobs.true_guidance == 1 else {}
    needed = "a base that embeds its guidance scale, and knobs.guidance is true guidance here"
    found = {"knobs.true_guidance": needed} if asked else {}
    return found | ({"knobs.negative": "a knobs.guidance other than 1"} if knobs.guidance == 1 else {})


def unused_later(recipe: Recipe) -> dict[str, str]:
    """Find settings of previews, selection and diagnosis where these are off."""
    found: dict[str, str] = {}
    if recipe.previews.every == 0:
        found |= {f"previews.{key}": "previews.every above 0" for key in ("prompts", "seed")}
    if not recipe.selection.active:
        found |= {f"selection.{key}": "selection.active=true" for key in SELECTION}
    elif not recipe.subjects.class_nouns:
        found |= {f"selection.{key}": "a class noun (--class-noun)" for key in SELECTION}
    if not recipe.diagnosis.active:
        found["diagnosis.images"] = "diagnosis.active=true"
    return found


def check_used(
    recipes: Sequence[Recipe], *, overrides: Mapping[str, object], in_file: Mapping[str, object] | None = None
) -> None:
    """Refuse settings that a user gave and that change nothing in any of some recipes.

    Args:
        recipes: The whole recipes, one or several that the same settings made.
        overrides: What the user gave on the command line, nested.
        in_file: What stands in the user's recipe file, nested. It may be the complete recipe of
            another run, so the values of every preset count as defaults in it.

    Raises:
        UserError: it names the first such setting, and what would use it.
    """
    for given, lenient in ((overrides, False), (in_file or {}, True)):
        for key, _ in flatten(given):
            refused = [needed for recipe in recipes if (needed := why_unused(recipe, key, lenient=lenient))]
            if len(refused) == len(recipes):
                raise UserError(describe_unused(key, refused[0]))


def why_unused(recipe: Recipe, key: str, *, lenient: bool) -> str:
    """Tell what a setting would need to change something; empty where it is used, or the default.

    With `lenient`, the values of all presets count as defaults.
    """
    needed = unused_settings(recipe).get(key, "")
    if not needed:
        return ""
    own = dict(flatten(preset_values(recipe.base, str(getattr(recipe.method, "name", "")))))
    presets = [own, *(all_presets() if lenient else ())]
    defaults = [default_of(recipe, key), *(preset[key] for preset in presets if key in preset)]
    return "" if value_of(recipe, key) in defaults else needed


def check_given_once(overrides: Mapping[str, object], others: Mapping[str, str]) -> None:
    """Refuse a `--set` of what another option gives: one of the two would have no effect.

    `others` maps the dotted keys that are given otherwise to what gives them.

    Raises:
        UserError: it names both.
    """
    for key in dict(flatten(overrides)).keys() & others.keys():
        raise UserError(f"{others[key]} and --set {key} give the same setting; leave one of them out.")


def check_undiagnosed(keys: Iterable[str], what: str) -> None:
    """Refuse settings of the diagnosis where no run is diagnosed; `what` the runs belong to.

    Raises:
        UserError: one of the keys is such a setting.
    """
    for key in keys:
        if key.startswith("diagnosis."):
            raise UserError(f"{key} has no effect, as the runs of a {what} are not diagnosed; leave it out.")


def check_axes(recipes: Sequence[Recipe], keys: Sequence[str]) -> None:
    """Refuse settings of a sweep that change nothing in any of its recipes.

    Without recipes only those are refused that no sweep uses: a search proposes its recipes later.

    Raises:
        UserError: it names the first such setting, and what would use it.
    """
    check_undiagnosed(keys, "sweep")
    unused = [unused_settings(recipe) for recipe in recipes]
    for key in keys:
        if unused and all(key in one for one in unused):
            raise UserError(describe_unused(key, unused[0][key]))


def describe_unused(key: str, needed: str) -> str:
    """Write the error message for a setting that changes nothing."""
    remedy = f"give {needed} too" if needed[0] != "a" else "change that too"
    return f"{key} has no effect, as it needs {needed}; leave it out, or {remedy}."


def flatten(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """List nested values by their dotted keys."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def value_of(recipe: Recipe, key: str) -> object:
    """Look up a setting by its dotted key."""
    found: Any = recipe
    for part in key.split("."):
        found = getattr(found, part)
    return found


def default_of(recipe: Recipe, key: str) -> object:
    """Look up the default of a setting in its section's class."""
    section, _, name = key.rpartition(".")
    owner = value_of(recipe, section) if section else recipe
    assert isinstance(owner, BaseModel)
    return type(owner).model_fields[name].get_default(call_default_factory=True)


@cache
def all_presets() -> tuple[Mapping[str, object], ...]:
    """Read the values of every preset, by dotted key."""
    folder = files("mascot") / "recipe" / "presets"
    return tuple(dict(flatten(read_toml(Path(str(path))))) for path in folder.iterdir() if path.name.endswith(".toml"))
