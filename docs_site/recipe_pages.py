"""The reference of the recipe's keys and of the presets, from the settings' own definitions."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any, get_args, get_origin

import tomli_w
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from docs_site.page_text import code, sentence, table
from mascot.methods.registry import DEFAULT, METHODS, settings_of
from mascot.recipe.recipe import Recipe

KINDS = {bool: "`true`, `false`", int: "whole number", float: "number", str: "text"}
INTRODUCTION = f"""# Recipe keys

This page is made from the settings themselves. [Recipes](../recipes.md) says how a recipe is
written and in which order its sources count. On the command line a key is given by
`--set KEY=VALUE`.

The defaults here are those without a preset. Each base has presets that replace some of them:
[Presets](presets.md). `none` stands for an absent value. The method `{DEFAULT}` is the default.
"""
PRESETS = """# Presets

A preset holds the usual values of a method on a kind of base. `mascot train` takes that of `--base`
and `--method`. Its first lines say which of its values were measured. This page is made from the
files in `src/mascot/recipe/presets/`.
"""


def recipe_page() -> str:
    """Write the page of all keys: the top level, each section, and each method's settings."""
    fields = {info.alias or name: info for name, info in Recipe.model_fields.items()}
    sections = {name: kind for name, info in fields.items() if (kind := section_in(info))}
    top = {name: info for name, info in fields.items() if name not in sections and name != "method"}
    parts = [INTRODUCTION, "## Top level\n", key_table("", top)]
    for name, info in top.items():
        for kind in tables_in(info):
            parts += [f"## Tables {name}\n", sentence(first_sentence(kind)), "", key_table(name, kind.model_fields)]
    for method in METHODS:
        kind = settings_of(method)
        parts += [f"## Method {method}\n", sentence(first_sentence(kind)), "", *section_tables(kind, "method")]
    for name, kind in sections.items():
        parts += [f"## Section {name}\n", sentence(first_sentence(kind)), "", *section_tables(kind, name)]
    return "\n".join(parts)


def preset_page() -> str:
    """Write the page of all presets, each as its file."""
    folder = files("mascot") / "recipe" / "presets"
    presets = sorted((path for path in folder.iterdir() if path.name.endswith(".toml")), key=lambda path: path.name)
    sections = [f"## {path.name[:-5]}\n\n```toml\n{path.read_text().strip()}\n```\n" for path in presets]
    return "\n".join([PRESETS, *sections])


def section_tables(model: type[BaseModel], path: str) -> Iterator[str]:
    """Write the keys of a section, and those of sections inside it."""
    inner = {name: kind for name, info in model.model_fields.items() if (kind := section_in(info))}
    yield key_table(path, {name: info for name, info in model.model_fields.items() if name not in inner})
    for name, kind in inner.items():
        yield from section_tables(kind, f"{path}.{name}")


def key_table(path: str, fields: Mapping[str, FieldInfo]) -> str:
    """Write a table of keys: values, default and description."""
    rows = ([code(f"{path}.{name}".lstrip(".")), *field_cells(info)] for name, info in fields.items())
    return table(["key", "values", "default", "what it sets"], rows)


def field_cells(info: FieldInfo) -> list[str]:
    """Write the values that a key takes, its default, and what it sets."""
    return [values_of(info), code(default_of(info)), sentence(info.description or "")]


def values_of(info: FieldInfo) -> str:
    """Describe the values that a key takes: names to choose from, or a kind with its range."""
    kinds = list(plain_kinds(info.annotation))
    names = [str(name) for kind in kinds if get_origin(kind) is typing.Literal for name in get_args(kind)]
    found = ", ".join(map(code, names)) or next((KINDS[kind] for kind in kinds if kind in KINDS), "")
    found = found or ("tables" if tables_in(info) else "list of texts")
    limits = ", ".join(limits_of(info))
    return " ".join(filter(None, [found, limits])) + (", or `none`" if types.NoneType in kinds else "")


def limits_of(info: FieldInfo) -> Iterator[str]:
    """List the ends of a number's range in words."""
    parts = [*info.metadata, *(limit for kind in get_args(info.annotation) for limit in metadata_of(kind))]
    for limit in parts:
        match limit:
            case Ge(ge=value):
                yield f"from {value}"
            case Gt(gt=value):
                yield f"above {value}"
            case Le(le=value):
                yield f"up to {value}"
            case Lt(lt=value):
                yield f"below {value}"
            case _:
                pass


def metadata_of(kind: object) -> tuple[object, ...]:
    """Return what an annotated type says beside its type."""
    return getattr(kind, "__metadata__", ())


def default_of(info: FieldInfo) -> str:
    """Write a default as TOML; `none` for an absent value, and nothing for a key that is needed."""
    value = info.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return ""
    if value is None:
        return "none"
    return tomli_w.dumps({"x": list(value) if isinstance(value, tuple) else value}).removeprefix("x = ").strip()


def section_in(info: FieldInfo) -> type[BaseModel] | None:
    """Return the settings class of a key that is a section."""
    for kind in plain_kinds(info.annotation):
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind is not BaseModel:
            return kind
    return None


def tables_in(info: FieldInfo) -> list[type[BaseModel]]:
    """Return the settings class of a key that is a list of tables; empty for others."""
    parts = [part for kind in plain_kinds(info.annotation) for part in get_args(kind)]
    return [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]


def plain_kinds(annotation: Any) -> Iterator[Any]:
    """List the types of a union, and the type behind a named alias."""
    if hasattr(annotation, "__value__"):
        yield from plain_kinds(annotation.__value__)
    elif get_origin(annotation) is typing.Annotated:
        yield from plain_kinds(get_args(annotation)[0])
    elif get_origin(annotation) in {typing.Union, types.UnionType}:
        for kind in get_args(annotation):
            yield from plain_kinds(kind)
    else:
        yield annotation


def first_sentence(kind: type) -> str:
    """Return the first line of a class's docstring."""
    return (inspect.getdoc(kind) or "").partition("\n")[0]
