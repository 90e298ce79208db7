"""The search space of a sweep: dotted recipe keys, each with a list or a range of values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mascot.errors import UserError
from mascot.recipe.overrides import parse_value

SHORT_KEYS: Mapping[str, str] = {"steps": "training.steps", "method": "method.name"}
"""Short names of keys that `mascot train` has an option for."""

METHOD_KEY = "method.name"

DECADE = 10
"""A range whose ends differ by this factor or more is searched on a logarithmic scale."""

CLOSERS: Mapping[str, str] = {"[": "]", "{": "}", '"': '"', "'": "'"}
QUOTES = ('"', "'")
NUMBER = r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"


@dataclass(frozen=True, slots=True)
class ValueRange:
    """All numbers between two, both included; whole numbers if both ends are whole.

    Raises:
        UserError: the range is empty or not finite.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        """Refuse ranges that hold nothing to search."""
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UserError(
                f"the range {self.low}..{self.high} is empty; write the lower end first, such as 1e-5..1e-3."
            )

    @property
    def logarithmic(self) -> bool:
        """Whether the range is searched on a logarithmic scale."""
        return self.low > 0 and self.high / self.low >= DECADE


Choices = Sequence[object] | ValueRange
"""The values that a setting may have."""


def parse_over(items: Sequence[str]) -> dict[str, Choices]:
    """Parse items such as `method.rank=4,16` and `method.learning_rate=1e-5..1e-3`, in order.

    Values are read as `--set` reads them. Commas in brackets or quotes do not separate values.
    `steps` and `method` are short for `training.steps` and `method.name`.

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
    """Parse values separated by commas, or LOW..HIGH."""
    if ends := re.fullmatch(rf"({NUMBER})\.\.({NUMBER})", text):
        low, high = (parse_value(end) for end in ends.groups())
        if isinstance(low, int | float) and isinstance(high, int | float):
            return ValueRange(low, high)
    values = [piece.strip() for piece in split_values(text)]
    if not all(values):
        raise UserError(f"--over {key}={text} has an empty value; write {key}=VALUE,VALUE.")
    return [parse_value(value) for value in values]


def split_values(text: str) -> list[str]:
    """Split a text at its commas, except inside brackets and quotes.

    If a bracket or quote is never closed, such as an apostrophe, every comma separates.
    """
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


def expand_keys(over: Mapping[str, Choices]) -> dict[str, Choices]:
    """Replace short keys by full ones, and check that each key can be swept.

    Raises:
        UserError: nothing is varied, a setting has no values or a repeated one, or two names mean
            the same setting.
    """
    if not over:
        raise UserError("nothing is varied; give --over key=value,value, such as --over method.rank=4,16.")
    full: dict[str, Choices] = {}
    for key, values in over.items():
        if SHORT_KEYS.get(key, key) in full:
            other = next(name for name in over if SHORT_KEYS.get(name, name) == SHORT_KEYS.get(key, key))
            raise UserError(f"{other} and {key} are the same setting; give one of them.")
        if not isinstance(values, ValueRange):
            if not values:
                raise UserError(f"{key} has no values; give some, such as {key}=1,2.")
            repeated = [value for i, value in enumerate(values) if any(is_same(value, other) for other in values[:i])]
            if repeated:
                raise UserError(f"{key} has the value {repeated[0]} twice; leave one out.")
        full[SHORT_KEYS.get(key, key)] = values
    return full


def is_same(one: object, other: object) -> bool:
    """Tell whether two values are the same setting: 1 and 1.0 are, 1 and true are not."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)
