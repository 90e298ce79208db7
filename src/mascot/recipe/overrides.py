"""Reading recipes from TOML files and from `--set`, and absence, which both write as `none`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel

from mascot.errors import UserError


def read_toml(path: Path) -> dict[str, Any]:
    """Read a recipe file as nested dicts.

    Raises:
        UserError: the file is missing or no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"the recipe {path} does not exist; give the path of a recipe file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"the recipe {path} is not valid TOML ({error}); correct the file.") from None


def merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings, key by key; where both have a value, that of `upper` wins."""
    merged = dict(lower)
    for key, value in upper.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def write_none(value: Any) -> Any:
    """Replace None in nested dicts by the string `none`, because TOML has no null."""
    if isinstance(value, dict):
        return {key: write_none(item) for key, item in value.items()}
    return "none" if value is None else value


def read_none(model: type[BaseModel], values: Any) -> Any:
    """Replace `none` by None for every setting of `model` that may be absent; inverts `write_none`.

    Values that are no mapping are returned unchanged, for pydantic to refuse.
    """
    if not isinstance(values, Mapping):
        return values
    read = dict(values)
    for name in read.keys() & model.model_fields.keys():
        kinds = (model.model_fields[name].annotation, *get_args(model.model_fields[name].annotation))
        if NoneType in kinds and str(read[name]).lower() == "none":
            read[name] = None
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                read[name] = read_none(kind, read[name])
    return read


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Parse items such as `method.rank=16` to nested dicts; of two values for a key the later wins.

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
    """Parse a value as TOML, or else take it as a string; `none` becomes None."""
    if text.lower() == "none":
        return None
    try:
        values = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return values["value"] if len(values) == 1 else text
