"""The wording of a recipe's mistakes, and the keys of older recipes with their new names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mascot.errors import shorten, suggest
from mascot.recipe.subject_tables import KEY

RENAMED_KEYS: Mapping[str, str] = {
    "choose": "selection",
    "choose.looks": "selection.checkpoints",
    "diagnose": "diagnosis",
    "method.layers.rate": "method.layers.learning_rate",
    "method.layers.text_rate": "method.layers.text_learning_rate",
    "method.rate": "method.learning_rate",
    "method.text_rate": "method.text_learning_rate",
    "method.word": "method.token",
    "method.word.rate": "method.token.learning_rate",
    "method.word_rate_after": "method.token_learning_rate_after",
    "method.word_share": "method.token_share",
    "training.accumulation": "training.gradient_accumulation_steps",
    "training.clip": "training.max_grad_norm",
    "training.ema": "training.ema_decay",
    "training.schedule": "training.lr_schedule",
    "training.warmup": "training.warmup_steps",
}
"""Key of an older recipe -> its present name; keys of a renamed section are renamed with it."""

MISTAKES = 20
"""Most mistakes that are described; the others are counted."""

RENAMED_VALUES: Mapping[str, Mapping[object, str]] = {"prior.form": {"pictures": "images"}}
"""Key -> value of an older recipe -> its present name."""


def describe_mistakes(error: ValidationError, known: Mapping[str, list[str]]) -> str:
    """Describe all mistakes of a recipe in one sentence each: key, what is wrong, what is meant.

    Args:
        error: The mistakes that pydantic found.
        known: The keys of each section that exists, by the section's dotted path.
    """
    shown = islice(error.errors(include_url=False, include_context=False), MISTAKES)
    mistakes = [sentence for details in shown for sentence in describe_mistake(details, known)]
    if error.error_count() == 1 and len(mistakes) == 1:
        return f"the recipe has a mistake: {mistakes[0]}"
    left = error.error_count() - MISTAKES
    return "the recipe has mistakes: " + " ".join(mistakes) + (f" There are {left} more." if left > 0 else "")


def describe_mistake(details: ErrorDetails, known: Mapping[str, list[str]]) -> list[str]:
    """Describe one mistake; a section of an older recipe gives a sentence for each of its keys."""
    path, value = ".".join(shorten(str(part)) for part in details["loc"]), details["input"]
    reason = details["msg"].removeprefix("Value error, ")
    names_its_key = reason.startswith(f"{path}.")
    if not path or names_its_key or (path == KEY and isinstance(value, list | tuple)):
        return [f"{reason}{'' if reason[-1:] in {'.', '?'} else '.'}"]
    if details["type"] == "extra_forbidden":
        section, _, name = path.rpartition(".")
        renamed = describe_renamed_keys(path, value, known)
        section = re.sub(rf"^{KEY}\.\d+$", KEY, section)
        return renamed or [f"{path} is not a setting{suggest(name, known.get(section, []))}"]
    if details["type"] == "missing":
        return [f"{path} is missing."]
    given = json.dumps(value, default=str)[:80]
    if isinstance(value, str) and value in RENAMED_VALUES.get(path, {}):
        return [f"{path} = {given} is now {json.dumps(RENAMED_VALUES[path][value])}."]
    return [f"{path} = {given}: {reason}{'' if reason[-1:] in {'.', '?'} else '.'}"]


def describe_renamed_keys(path: str, value: object, known: Mapping[str, list[str]]) -> list[str]:
    """List the new names of an older key, or of all keys in it; empty if it was never a key."""
    renamed = {path: new_key(path, known)}
    if renamed[path] and isinstance(value, Mapping) and value:
        inside = {f"{path}.{name}": new_key(f"{path}.{name}", known) for name in value}
        renamed = inside if all(inside.values()) else renamed
    return [f"{old} is now {new}." for old, new in renamed.items() if new]


def new_key(path: str, known: Mapping[str, list[str]]) -> str:
    """Return the present name of an older recipe's key; empty if there is none for this method."""
    section, _, name = path.rpartition(".")
    new = RENAMED_KEYS.get(path) or (f"{RENAMED_KEYS[section]}.{name}" if section in RENAMED_KEYS else "")
    new_section, _, new_name = new.rpartition(".")
    return new if new_name in known.get(new_section, []) else ""


def sections_of(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, list[str]]]:
    """List the sections of nested settings, as pairs of a dotted path and the section's keys."""
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    yield path, list(fields)
    for name, field in fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel) and kind is not BaseModel:
                yield from sections_of(kind, f"{path}.{name}".lstrip("."))
