"""What changed in a recipe since a run began, and which settings may change when it is resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mascot.recipe.overrides import parse_value

STEPS_KEY = "training.steps"
"""Key of the run's length, which may change as `runs.resumed_recipe` says."""

MAY_CHANGE: Mapping[str, str] = {
    "photos": "the same photos are read from another place",
    "device": "the next steps are trained on another device, which rounds differently",
    STEPS_KEY: "training ends at that step",
    "training.checkpoint_every": "the next checkpoints are written at other steps",
    "training.gradient_checkpointing": "the next steps take other time and memory",
    "training.compile": "the next steps take other time and memory",
    "checkpoints": "more or fewer checkpoints are kept",
    "previews.every": "the next previews are generated at other steps",
    "previews.prompts": "the next previews show other prompts, and earlier ones are deleted",
    "previews.seed": "the next previews have other seeds, and earlier ones are deleted",
    "selection.active": "selection is switched on or off for the steps to come",
    "selection.checkpoints": "other steps are validated from here on",
    "selection.patience": "training stops early after another number of validations",
    "selection.knobs": "the knob search is switched on or off",
    "selection.cost": "selection may generate more or fewer images",
    "diagnosis": "failure modes are searched differently after training",
}
"""Key or section that may change when a run is resumed -> what the change does.

Every other setting decides what the steps so far have computed, and may not change.
"""


@dataclass(frozen=True, slots=True)
class Change:
    """One setting of a recipe that differs from the one that a run was trained with."""

    key: str
    before: object
    now: object

    @property
    def allowed(self) -> bool:
        """Whether a run can be resumed with this change."""
        return effect_of(self.key) is not None

    @property
    def extends(self) -> bool:
        """Whether the run becomes longer."""
        return (
            self.key == STEPS_KEY
            and isinstance(self.before, int)
            and isinstance(self.now, int)
            and self.now > self.before
        )

    def describe(self) -> str:
        """Write the change in short: key, value so far, value now."""
        return f"{self.key} from {show(self.before)} to {show(self.now)}"


def effect_of(key: str) -> str | None:
    """Say what a change of a key does to a resumed run; None where it may not change."""
    parts = key.split(".")
    paths = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((MAY_CHANGE[path] for path in paths if path in MAY_CHANGE), None)


def list_changes(before: Mapping[str, object], now: Mapping[str, object], section: str = "") -> Iterator[Change]:
    """List the settings that both nested recipes hold with different values.

    A setting that one of them lacks is one of another version, or of another method, whose name
    differs too.
    """
    for name in [name for name in before if name in now]:
        old, new, key = before[name], now[name], f"{section}{name}"
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from list_changes(old, new, f"{key}.")
        elif old != new:
            yield Change(key, old, new)


def show(value: object) -> str:
    """Write a value as `--set` reads it; a text stays bare where that reads the same."""
    if value is None or (isinstance(value, str) and value.lower() == "none"):
        return "none"
    if isinstance(value, str) and value.strip() == value and parse_value(value) == value:
        return value
    return inline(value)


def inline(value: object) -> str:
    """Write a value as TOML in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(inline(item) for item in value) + "]"
    return json.dumps(value)


def override(key: str, value: object) -> str:
    """Write a setting as `--set` takes it."""
    return f"{key}={show(value)}"
