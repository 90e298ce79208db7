"""TODO experiments.search."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from mascot.errors import UserError
from mascot.experiments.base_pool import loading_of
from mascot.experiments.search_space import METHOD_KEY, Choices, ValueRange
from mascot.generation.image_grid import Place, places
from mascot.methods.registry import DEFAULT
from mascot.recipe.overrides import merge, spell_absences
from mascot.recipe.recipe import Recipe, preset_values


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPoint:
    """One combination of settings, as a whole recipe."""

    name: str
    """A hash of the recipe and of what its photos hold: what its folder is called."""
    changes: Mapping[str, Any]
    """Dotted key -> value."""
    recipe: Recipe
    place: Place | None = None
    """Where it lies in the grid."""


Rounds = Generator[list[SweepPoint], Mapping[str, float | None], None]
"""Yields what to try next, and is sent what came of it: name -> value of the metric, None where there is none."""


def values_of(recipe: Recipe) -> dict[str, Any]:
    """A recipe as nested values, with nothing left to a preset."""
    return spell_absences(recipe.model_dump(mode="json"))


def make_point(values: Mapping[str, Any], changes: Mapping[str, Any], place: Place | None = None) -> SweepPoint:
    """Lay changes over a recipe's values, and what they leave open over the preset of the point's own base and method.

    Where the method changes, settings of the one before are not those of the new one: its preset takes their place.

    Raises:
        UserError: a key is unknown (with a suggestion), a value is out of range, or the photos are not there.
    """
    below = dict(values)
    before = below.get("method")
    if METHOD_KEY in changes and not (isinstance(before, Mapping) and before.get("name") == changes[METHOD_KEY]):
        below.pop("method", None)
    for key, value in changes.items():
        nested: Any = spell_absences(value)
        for part in reversed(key.split(".")):
            nested = {part: nested}
        below = merge(below, nested)
    method = below.get("method", {})
    name = str(method.get("name", DEFAULT)) if isinstance(method, Mapping) else ""
    base = str(below.get("base", "starter"))
    recipe = Recipe.parse(merge(preset_values(base, name), {**below, "base": base}))
    return SweepPoint(name=name_of(recipe), changes=dict(changes), recipe=recipe, place=place)


def name_of(recipe: Recipe) -> str:
    """Hash a recipe and all that lies in its photos' folders, captions and masks too: 12 hexadecimal digits."""
    digest = hashlib.sha256(recipe.to_toml().encode())
    for photos in map(Path, recipe.photos):
        files = sorted(file for file in photos.iterdir() if file.is_file()) if photos.is_dir() else [photos]
        for file in files:
            try:
                content = file.read_bytes()
            except OSError as error:
                raise UserError(f"{file} cannot be read ({error.strerror}); give photos that can.") from None
            digest.update(f"\0{file.name}\0{len(content)}\0".encode(errors="surrogateescape") + content)
    return digest.hexdigest()[:12]


def grid(values: Mapping[str, Any], over: Mapping[str, Choices]) -> Rounds:
    """All combinations, in one round; those that share a loaded base follow each other.

    Raises:
        UserError: a range has no list of values; or see `make_point`.
    """
    axes: dict[str, Sequence[Any]] = {}
    for key, choices in over.items():
        if isinstance(choices, ValueRange):
            raise UserError(
                f"{key}={choices.low}..{choices.high} is a range, of which a grid knows no values; give --trials N too."
            )
        axes[key] = choices
    points: list[SweepPoint] = []
    for place in places([len(choices) for choices in axes.values()]):
        changes = {key: choices[i] for i, (key, choices) in zip(place, axes.items(), strict=True)}
        points.append(make_point(values, changes, place))
    first: dict[Any, int] = {}
    points.sort(key=lambda point: first.setdefault(loading_of(point.recipe), len(first)))
    yield points


def search(
    values: Mapping[str, Any],
    over: Mapping[str, Choices],
    *,
    trials: int,
    together: int = 1,
    seed: int = 0,
    lowest: bool = False,
) -> Rounds:
    """Up to `trials` combinations, chosen by the tree-structured Parzen estimator (Bergstra et al. 2011) in rounds of `together`.

    The same values sent back give the same combinations, so a search that was cut off is gone through again. One that is chosen twice
    is one point. Numbers of a range that is not whole are rounded to three digits.

    Raises:
        UserError: optuna is not installed, `trials` is no count, or see `make_point`: every value is tried in a recipe at first.
    """
    if trials < 1 or together < 1:
        raise UserError("a search needs at least one trial; give --trials 20 (say).")
    check_choices(values, over)
    optuna = search_library()
    study = optuna.create_study(
        direction="minimize" if lowest else "maximize", sampler=optuna.samplers.TPESampler(seed=seed)
    )
    spaces = {key: space_of(optuna, choices) for key, choices in over.items()}
    for start in range(0, trials, together):
        asked = [study.ask(spaces) for _ in range(min(together, trials - start))]
        points = [make_point(values, {key: chosen(over[key], trial.params[key]) for key in over}) for trial in asked]
        results = yield list({point.name: point for point in points}.values())
        for trial, point in zip(asked, points, strict=True):
            value = results[point.name]
            failed = optuna.trial.TrialState.FAIL if value is None else None
            study.tell(trial, value, state=failed)


def check_choices(values: Mapping[str, Any], over: Mapping[str, Choices]) -> None:
    """Make a recipe with each value once, so that a mistake is found before anything runs."""
    listed = {
        key: (choices.low, choices.high) if isinstance(choices, ValueRange) else tuple(choices)
        for key, choices in over.items()
    }
    usual = {key: choices[0] for key, choices in listed.items()}
    for key, choices in listed.items():
        for value in choices:
            make_point(values, {**usual, key: value})


def search_library() -> Any:
    """Optuna, without its notices.

    Raises:
        UserError: it is not installed.
    """
    try:
        optuna: Any = import_module("optuna")
    except ImportError:
        raise UserError("optuna is not installed; run pip install 'mascot[search]', or leave --trials out.") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def space_of(optuna: Any, choices: Choices) -> Any:
    """What optuna may choose from: a range's numbers, or the places in a list, whose values it need not understand."""
    distributions = optuna.distributions
    if not isinstance(choices, ValueRange):
        return distributions.CategoricalDistribution(tuple(range(len(choices))))
    if isinstance(choices.low, int) and isinstance(choices.high, int):
        return distributions.IntDistribution(choices.low, choices.high, log=choices.logarithmic)
    return distributions.FloatDistribution(float(choices.low), float(choices.high), log=choices.logarithmic)


def chosen(choices: Choices, answer: Any) -> Any:
    """The value that optuna's answer stands for."""
    if not isinstance(choices, ValueRange):
        return choices[answer]
    return answer if isinstance(answer, int) else min(max(float(f"{answer:.3g}"), choices.low), choices.high)
