"""What a run was made from: the adapter it started from, and the earlier recipe nearest to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from mascot.api.library.listing import RunSummary
from mascot.recipe.changes import Change, list_changes, show
from mascot.recipe.overrides import read_toml, write_none
from mascot.recipe.recipe import Recipe
from mascot.storage.run_folder import Run

PLACES: Final = frozenset({"photos", "device", "token"})
"""Settings that say nothing of how two runs differ."""
MOST: Final = 12
"""With more changes than this, two recipes have nothing to do with each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """From what a run was made, and what was changed."""

    start: str
    """The adapter that training started from; empty for the base."""
    parent: str
    """The earlier run with the nearest recipe; empty where none is near."""
    changes: tuple[tuple[str, str, str], ...]
    """Key, value in the parent, and value now."""


def trace(summary: RunSummary, runs: Sequence[RunSummary]) -> Lineage:
    """Find the earlier run of the same kind whose recipe is nearest to a run's.

    Raises:
        UserError: the run's recipe cannot be read.
    """
    own = read_toml(summary.run.recipe)
    earlier = [one for one in runs if one.changed < summary.changed and same_kind(one, summary)]
    found = [(changes_between(read_toml(one.run.recipe), own), one) for one in earlier]
    changes, parent = min(found, key=lambda pair: (len(pair[0]), -pair[1].changed), default=([], None))
    near = parent is not None and len(changes) <= MOST
    start = str(own.get("start_from", "none"))
    return Lineage(
        start="" if start == "none" else start,
        parent=parent.name if near and parent is not None else "",
        changes=tuple((one.key, show(one.before), show(one.now)) for one in changes) if near else (),
    )


def same_kind(one: RunSummary, other: RunSummary) -> bool:
    """Tell whether two runs are of one class noun and one base."""
    return one.base == other.base and one.subject.split()[-1:] == other.subject.split()[-1:]


def changes_between(before: Mapping[str, object], now: Mapping[str, object]) -> list[Change]:
    """List the settings in which two recipes differ, without those of places."""
    return [one for one in list_changes(before, now) if one.key not in PLACES]


def changed_settings(recipe: Recipe) -> dict[str, object]:
    """Return a recipe's settings that differ from its preset, as a recipe file holds them.

    Raises:
        UserError: the preset cannot be read.
    """
    method = str(getattr(recipe.method, "name", ""))
    plain = Recipe.preset(
        base=recipe.base, photos=list(recipe.photos), class_noun=recipe.class_noun, overrides=[f"method.name={method}"]
    )
    before, own = values_of(plain), values_of(recipe)
    changed: dict[str, object] = {}
    for change in list_changes(before, own):
        place = changed
        *sections, key = change.key.split(".")
        for name in sections:
            place = cast("dict[str, object]", place.setdefault(name, {}))
        place[key] = change.now
    return changed


def values_of(recipe: Recipe) -> dict[str, object]:
    """Return a recipe as the nested values of its file."""
    return write_none(recipe.model_dump(mode="json", by_alias=True))


def recipe_of(run: Run) -> Recipe:
    """Read a run's recipe.

    Raises:
        UserError: it cannot be read.
    """
    return Recipe.read(run.recipe)
