"""TODO recipe.overrides."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel

from mascot.errors import UserError


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"the recipe {path} does not exist.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"the recipe {path} is not valid TOML ({error}).") from None


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one nested mapping over another."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def spell_absences(value: Any) -> Any:
    """Write absence in nested mappings as `none`: TOML has no null."""
    if isinstance(value, dict):
        return {key: spell_absences(item) for key, item in value.items()}
    return "none" if value is None else value


def read_absences(model: type[BaseModel], values: Any) -> Any:
    """Read `none` as absence wherever a setting may be absent; the inverse of `spell_absences`."""
    if not isinstance(values, Mapping):
        return values
    read = dict(values)
    for name in read.keys() & model.model_fields.keys():
        kinds = (model.model_fields[name].annotation, *get_args(model.model_fields[name].annotation))
        if NoneType in kinds and str(read[name]).lower() == "none":
            read[name] = None
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                read[name] = read_absences(kind, read[name])
    return read


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Read `method.rank=16` items; values are TOML where they parse as such, else plain text.

    Raises:
        UserError: an item has no `=` or no key.
    """
    values: dict[str, Any] = {}
    for item in overrides:
        path, equals, text = item.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise UserError(f"--set {item!r} is not of the form key=value, such as method.rank=16.")
        nested: Any = parse_value(text.strip())
        for key in reversed(keys):
            nested = {key: nested}
        values = merge(values, nested)
    return values


def parse_value(text: str) -> Any:
    """A TOML value, or the text itself; `none` is absence."""
    if text.lower() == "none":
        return None
    try:
        values = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return values["value"] if len(values) == 1 else text
