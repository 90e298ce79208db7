"""TODO recipe.mistakes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import get_args

from pydantic import BaseModel, ValidationError

from mascot.errors import suggest


def describe_mistakes(error: ValidationError, known: Mapping[str, list[str]]) -> str:
    """Put every mistake of a recipe into one line each: dotted path, what is wrong, what was meant."""
    lines: list[str] = []
    for mistake in error.errors():
        place = [str(part) for part in mistake["loc"]]
        path = ".".join(place)
        if mistake["type"] == "extra_forbidden":
            lines.append(f"{path} is not a setting{suggest(place[-1], known.get('.'.join(place[:-1]), []))}")
        elif mistake["type"] == "missing":
            lines.append(f"{path} is missing.")
        else:
            given = json.dumps(mistake["input"], default=str)[:80]
            said = mistake["msg"].removeprefix("Value error, ")
            lines.append(f"{path} = {given}: {said}{'' if said[-1:] in {'.', '?'} else '.'}")
    return "the recipe has mistakes: " + " ".join(lines) if len(lines) > 1 else f"the recipe has a mistake: {lines[0]}"


def sections_of(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, list[str]]]:
    """Walk the nested settings."""
    yield path, list(model.model_fields)
    for name, field in model.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel) and kind is not BaseModel:
                yield from sections_of(kind, f"{path}.{name}".lstrip("."))
