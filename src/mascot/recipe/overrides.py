"""Reading recipes from TOML files and from `--set`, and absence, which both write as `none`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import cast, get_args

from pydantic import BaseModel

from mascot.errors import UserError, shorten
from mascot.storage import untrusted_files
from mascot.storage.strict_parsing import DEPTH_LIMIT, ExcessiveText, MalformedText, parse_toml
from mascot.storage.untrusted_files import UnreadableFile


def read_toml(path: Path) -> dict[str, object]:
    """Read a recipe file as nested dicts.

    Raises:
        UserError: the file is missing or no TOML.
    """
    try:
        return untrusted_files.read_toml(path)
    except UnreadableFile as error:
        if error.missing:
            raise UserError(f"the recipe {path} does not exist; give the path of a recipe file.") from None
        raise UserError(f"the recipe {path} is not valid TOML ({error.reason}); correct the file.") from None


def merge(lower: Mapping[str, object], upper: Mapping[str, object]) -> dict[str, object]:
    """Merge nested mappings, key by key; where both have a value, that of `upper` wins."""
    merged = dict(lower)
    for key, value in upper.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def write_none(values: Mapping[str, object]) -> dict[str, object]:
    """Replace None in nested dicts and tables by the string `none`, because TOML has no null."""

    def written(value: object) -> object:
        if isinstance(value, list):
            return [written(item) for item in cast("list[object]", value)]
        return write_none(cast("dict[str, object]", value)) if isinstance(value, dict) else value

    return {key: "none" if value is None else written(value) for key, value in values.items()}


def read_none(model: type[BaseModel], values: object) -> object:
    """Replace `none` by None for every setting of `model` that may be absent; inverts `write_none`.

    Of a list, each item is read. Other values that are no mapping are returned unchanged, for
    pydantic to refuse.
    """
    if isinstance(values, list | tuple):
        return [read_none(model, item) for item in cast("Sequence[object]", values)]
    if not isinstance(values, Mapping):
        return values
    read = dict(values)
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    for name in read.keys() & fields.keys():
        kinds = (fields[name].annotation, *get_args(fields[name].annotation))
        if NoneType in kinds and str(read[name]).lower() == "none":
            read[name] = None
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                read[name] = read_none(kind, read[name])
    return read


def parse_overrides(overrides: Sequence[str]) -> dict[str, object]:
    """Parse items such as `method.rank=16` to nested dicts; of two values for a key the later wins.

    Raises:
        UserError: an item has no `=` or no key.
    """
    values: dict[str, object] = {}
    for item in overrides:
        path, equals, text = item.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys) or len(keys) > DEPTH_LIMIT:
            raise UserError(f"--set {shorten(item)!r} is not of the form key=value, such as method.rank=16.")
        insert(values, keys, parse_value(text.strip()))
    return values


def insert(values: dict[str, object], keys: Sequence[str], value: object) -> None:
    """Put a value under a path of keys, in place; it is merged with an old value."""
    for key in keys[:-1]:
        inside = values.get(key)
        if not isinstance(inside, dict):
            inside = values[key] = {}
        values = cast("dict[str, object]", inside)
    values |= merge({keys[-1]: values.get(keys[-1])}, {keys[-1]: value})


def nest(keys: Sequence[str], value: object) -> dict[str, object]:
    """Put a value under a path of keys, the outermost first."""
    first, *rest = keys
    return {first: nest(rest, value) if rest else value}


def parse_value(text: str) -> object:
    """Parse a value as TOML, or else take it as a string; `none` becomes None."""
    if text.lower() == "none":
        return None
    try:
        values = parse_toml(f"value = {text}")
    except ExcessiveText as error:
        raise UserError(f"the value {text[:20]}... cannot be read ({error}); give a shorter one.") from None
    except MalformedText:
        return text
    return values["value"] if len(values) == 1 else text
