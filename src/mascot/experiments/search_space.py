"""What a sweep tries: every combination of some settings, or as many of them as are asked for, chosen by what was learned before."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mascot.errors import UserError
from mascot.recipe.overrides import parse_value

SHORT: Mapping[str, str] = {"steps": "training.steps", "method": "method.name"}
"""Settings that `mascot train` has an option for, under that option's name."""


METHOD_KEY = "method.name"


DECADE = 10
"""A range that spans this factor is searched by its logarithm."""


CLOSERS: Mapping[str, str] = {"[": "]", "{": "}", '"': '"', "'": "'"}


QUOTES = ('"', "'")


NUMBER = r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"


@dataclass(frozen=True, slots=True)
class ValueRange:
    """All numbers between two, both included: whole ones where both are."""

    low: float
    high: float

    def __post_init__(self) -> None:
        """Refuse what holds nothing to search."""
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UserError(
                f"the range {self.low}..{self.high} is empty; write the lower end first, such as 1e-5..1e-3."
            )

    @property
    def logarithmic(self) -> bool:
        """Whether it is searched by the logarithm."""
        return self.low > 0 and self.high / self.low >= DECADE


Choices = Sequence[Any] | ValueRange
"""The values that a setting may have."""


def parse_over(items: Sequence[str]) -> dict[str, Choices]:
    """Read `method.rank=4,16` and `method.learning_rate=1e-5..1e-3` items, in order; values are read as `--set` reads them.

    Commas in brackets or quotes part nothing. `steps` and `method` are short for `training.steps` and `method.name`.

    Raises:
        UserError: an item is not of that form, or a key comes twice.
    """
    over: dict[str, Choices] = {}
    for item in items:
        key, equals, text = (part.strip() for part in item.partition("="))
        if not equals or not all(key.split(".")):
            raise UserError(f"--over {item!r} is not of the form key=value,value, such as method.rank=4,16.")
        if key in over:
            raise UserError(f"--over {key} is given twice; put all its values into one, such as {key}=1,2.")
        over[key] = parse_choices(key, text)
    return over


def parse_choices(key: str, text: str) -> Choices:
    """Read values with commas between them, or LOW..HIGH."""
    if ends := re.fullmatch(rf"({NUMBER})\.\.({NUMBER})", text):
        low, high = (parse_value(end) for end in ends.groups())
        if isinstance(low, int | float) and isinstance(high, int | float):
            return ValueRange(low, high)
    values = [piece.strip() for piece in split(text)]
    if not all(values):
        raise UserError(f"--over {key}={text} has an empty value; write {key}=VALUE,VALUE.")
    return [parse_value(value) for value in values]


def split(text: str) -> list[str]:
    """Part a text at its commas, but for those in brackets or quotes; one that is never closed, such as an apostrophe, is a letter."""
    pieces, waiting = [""], ""
    for letter in text:
        if letter == "," and not waiting:
            pieces.append("")
            continue
        if waiting and letter == waiting[-1]:
            waiting = waiting[:-1]
        elif letter in CLOSERS and waiting[-1:] not in QUOTES:
            waiting += CLOSERS[letter]
        pieces[-1] += letter
    return text.split(",") if waiting else pieces


def full_keys(over: Mapping[str, Choices]) -> dict[str, Choices]:
    """The same with short names written out, after a look at what cannot be swept.

    Raises:
        UserError: nothing is varied, a setting has no values or one of them twice, or two names mean the same setting.
    """
    if not over:
        raise UserError("nothing is varied; give --over key=value,value, such as --over method.rank=4,16.")
    full: dict[str, Choices] = {}
    for key, values in over.items():
        if SHORT.get(key, key) in full:
            other = next(name for name in over if SHORT.get(name, name) == SHORT.get(key, key))
            raise UserError(f"{other} and {key} are the same setting; give one of them.")
        if not isinstance(values, ValueRange):
            if not values:
                raise UserError(f"{key} has no values; give some, such as {key}=1,2.")
            if twice := [value for i, value in enumerate(values) if any(same(value, other) for other in values[:i])]:
                raise UserError(f"{key} has the value {twice[0]} twice; leave one out.")
        full[SHORT.get(key, key)] = values
    return full


def same(one: Any, other: Any) -> bool:
    """Whether two values are one setting: 1 and 1.0 are, 1 and true are not."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)
