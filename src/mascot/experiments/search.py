"""The points of a sweep: all combinations of some settings, or those that an optimizer proposes."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from mascot.data.image_decoding import BYTE_LIMIT
from mascot.errors import UserError
from mascot.experiments.base_pool import LoadSettings, load_settings
from mascot.experiments.search_space import METHOD_KEY, Choices, ValueRange
from mascot.generation.image_grid import GridPosition, grid_positions
from mascot.methods.registry import DEFAULT
from mascot.recipe.overrides import merge, nest, write_none
from mascot.recipe.recipe import Recipe, method_in, needs_of, preset_values
from mascot.storage.untrusted_files import read_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPoint:
    """One combination of settings, as a whole recipe."""

    name: str
    """A hash of the recipe and of its photos' content; the name of the run's folder."""
    changes: Mapping[str, object]
    """Dotted key to the value that this point has."""
    recipe: Recipe
    position: GridPosition | None = None
    """Position in the image grid; None for the points of a search."""


Rounds = Generator[list[SweepPoint], Mapping[str, float | None], None]
"""Yields the points of each round.

It is sent their results: point's name to value of the metric, None where there is none.
"""


def recipe_values(recipe: Recipe) -> dict[str, object]:
    """Return a recipe as nested values that leave nothing to a preset."""
    return write_none(recipe.model_dump(mode="json"))


def make_point(
    values: Mapping[str, object], changes: Mapping[str, object], position: GridPosition | None = None
) -> SweepPoint:
    """Apply changes to a recipe's values, and fill the rest from the preset of its base and method.

    Where the method changes, the settings of the old method are dropped for the new one's preset.

    Raises:
        UserError: a key is unknown (with a suggestion), a value is out of range, or photos are
            missing.
    """
    merged = dict(values)
    before = merged.get("method")
    if METHOD_KEY in changes and not (isinstance(before, Mapping) and before.get("name") == changes[METHOD_KEY]):
        merged.pop("method", None)
    given: dict[str, object] = {}
    for key, value in changes.items():
        given = merge(given, write_none(nest(key.split("."), value)))
    both = merge(merged, given)
    base, method = str(both.get("base", "starter")), method_in(both) or DEFAULT
    lower = merge(preset_values(base, method), {**merged, "base": base})
    recipe = Recipe.parse(merge(merge(lower, needs_of(given, lower, method)), given))
    return SweepPoint(name=hash_recipe(recipe), changes=dict(changes), recipe=recipe, position=position)


def hash_recipe(recipe: Recipe) -> str:
    """Hash a recipe and all files beside its photos, captions and masks too: 12 hex digits."""
    digest = hashlib.sha256(recipe.to_toml().encode())
    for photos in map(Path, recipe.photos):
        files = sorted(file for file in photos.iterdir() if file.is_file()) if photos.is_dir() else [photos]
        for file in files:
            content = read_bytes(file, limit=BYTE_LIMIT, remedy="give photos that can")
            digest.update(f"\0{file.name}\0{len(content)}\0".encode(errors="surrogateescape") + content)
    return digest.hexdigest()[:12]


def grid_search(values: Mapping[str, object], over: Mapping[str, Choices]) -> Rounds:
    """Yield all combinations in one round; those that share a loaded base follow each other.

    Raises:
        UserError: a range has no list of values; see also `make_point`.
    """
    axes: dict[str, Sequence[object]] = {}
    for key, choices in over.items():
        if isinstance(choices, ValueRange):
            raise UserError(
                f"{key}={choices.low}..{choices.high} is a range, of which a grid knows no values; give --trials N too."
            )
        axes[key] = choices
    points: list[SweepPoint] = []
    for position in grid_positions([len(choices) for choices in axes.values()]):
        changes = {key: choices[i] for i, (key, choices) in zip(position, axes.items(), strict=True)}
        points.append(make_point(values, changes, position))
    order: dict[LoadSettings, int] = {}
    points.sort(key=lambda point: order.setdefault(load_settings(point.recipe), len(order)))
    yield points


def tpe_search(
    values: Mapping[str, object],
    over: Mapping[str, Choices],
    *,
    trials: int,
    round_size: int = 1,
    seed: int = 0,
    lowest: bool = False,
) -> Rounds:
    """Propose up to `trials` combinations by the tree-structured Parzen estimator, in rounds.

    Bergstra et al. 2011, as optuna implements it. It looks for the highest value, or the lowest.
    Equal results lead to equal proposals, so an interrupted search is gone through again. A
    combination that is proposed twice is one point. Fractions from a range are rounded to three
    digits.

    Raises:
        UserError: optuna is not installed, `trials` is below 1; see also `make_point`, which is
            called with every value at first.
    """
    if trials < 1 or round_size < 1:
        raise UserError("a search needs at least one trial; give --trials 20 (say).")
    check_choices(values, over)
    optuna = import_optuna()
    direction = "minimize" if lowest else "maximize"
    study = optuna.create_study(direction=direction, sampler=optuna.samplers.TPESampler(seed=seed))
    distributions = {key: make_distribution(optuna, choices) for key, choices in over.items()}
    for start in range(0, trials, round_size):
        asked = [study.ask(distributions) for _ in range(min(round_size, trials - start))]
        points = [make_point(values, {key: decode(over[key], trial.params[key]) for key in over}) for trial in asked]
        results = yield list({point.name: point for point in points}.values())
        for trial, point in zip(asked, points, strict=True):
            value = results[point.name]
            failed = optuna.trial.TrialState.FAIL if value is None else None
            study.tell(trial, value, state=failed)


def check_choices(values: Mapping[str, object], over: Mapping[str, Choices]) -> None:
    """Make a recipe with each value once, so that mistakes are found before anything runs."""
    listed = {
        key: (choices.low, choices.high) if isinstance(choices, ValueRange) else tuple(choices)
        for key, choices in over.items()
    }
    first = {key: choices[0] for key, choices in listed.items()}
    for key, choices in listed.items():
        for value in choices:
            make_point(values, {**first, key: value})


def import_optuna() -> Any:
    """Import optuna and switch its notices off.

    Raises:
        UserError: it is not installed.
    """
    try:
        optuna: Any = import_module("optuna")
    except ImportError:
        raise UserError("optuna is not installed; run pip install 'mascot[search]', or leave --trials out.") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def make_distribution(optuna: Any, choices: Choices) -> object:
    """Make optuna's distribution of a setting: numbers of a range, or indices of a list."""
    distributions = optuna.distributions
    if not isinstance(choices, ValueRange):
        return distributions.CategoricalDistribution(tuple(range(len(choices))))
    if isinstance(choices.low, int) and isinstance(choices.high, int):
        return distributions.IntDistribution(choices.low, choices.high, log=choices.logarithmic)
    return distributions.FloatDistribution(float(choices.low), float(choices.high), log=choices.logarithmic)


def decode(choices: Choices, proposed: Any) -> Any:
    """Turn what optuna proposes into the setting's value: see `make_distribution`."""
    if not isinstance(choices, ValueRange):
        return choices[proposed]
    if isinstance(proposed, int):
        return proposed
    return min(max(float(f"{proposed:.3g}"), choices.low), choices.high)
