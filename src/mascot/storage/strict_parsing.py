"""Strict parsing of JSON and TOML: what a text may hold is bounded, and every fault is a clause.

The standard library's parsers raise several kinds of errors, or take minutes, for texts that are
nested thousands deep or hold numbers of thousands of digits. Every JSON or TOML text that mascot
did not make itself goes through this file.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Sequence
from typing import cast

DEPTH_LIMIT = 64
"""Most levels of lists and groups inside each other."""

DIGIT_LIMIT = 100
"""Most digits of a whole number; tokenizers write one of 31 digits for "no limit"."""

_LONG_KEY = re.compile(
    rf"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){{{DEPTH_LIMIT}}}""", re.ASCII
)
"""A dotted TOML key of more parts than are allowed; tomllib's time grows with their square."""


class MalformedText(ValueError):  # noqa: N818 - callers make their own error of it
    """Raised for a text that cannot be parsed; its text is a clause that says why."""


class ExcessiveText(MalformedText):
    """Raised for a text that is well formed, perhaps, but beyond what is read."""


def parse_json(text: str, *, finite: bool = True) -> object:
    """Parse a JSON text to plain values.

    `finite=False` also accepts NaN and infinity, which logs may hold.

    Raises:
        MalformedText: it is not JSON, or holds what is never read (see `check_values`).
    """
    try:
        value: object = json.loads(text)
    except json.JSONDecodeError as error:
        raise MalformedText(f"line {error.lineno}: {error.msg}") from None
    except RecursionError:
        raise ExcessiveText(f"it is nested more than {DEPTH_LIMIT} deep") from None
    except ValueError:  # of int(), from 4,300 digits
        raise ExcessiveText(f"a number has more than {DIGIT_LIMIT} digits") from None
    check_values(value, finite=finite)
    return value


def parse_json_object(text: str, *, finite: bool = True) -> dict[str, object]:
    """Parse a JSON text that must be an object; see `parse_json`.

    Raises:
        MalformedText: it is not a JSON object, or holds what is never read.
    """
    value = parse_json(text, finite=finite)
    if not isinstance(value, dict):
        raise MalformedText("it is JSON, but not an object")
    return cast("dict[str, object]", value)


def parse_toml(text: str) -> dict[str, object]:
    """Parse a TOML text; NaN and infinity are left to whoever checks the settings.

    Raises:
        MalformedText: it is not TOML, or holds what is never read (see `check_values`).
    """
    if _LONG_KEY.search(text):
        raise ExcessiveText(f"it is nested more than {DEPTH_LIMIT} deep")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MalformedText(str(error)) from None
    except RecursionError:
        raise ExcessiveText(f"it is nested more than {DEPTH_LIMIT} deep") from None
    except ValueError as error:  # of int(), from 4,300 digits, and of impossible dates
        if "digits" in str(error):
            raise ExcessiveText(f"a number has more than {DIGIT_LIMIT} digits") from None
        raise MalformedText(str(error)) from None
    check_values(values, finite=False)
    return values


def check_values(value: object, *, finite: bool) -> None:
    """Check nested plain values: their depth, their numbers, and that each text can be written.

    Raises:
        MalformedText: they are nested more than `DEPTH_LIMIT` deep; a whole number has more than
            `DIGIT_LIMIT` digits; a text is not Unicode (half a surrogate pair); or, if `finite`, a
            number is infinite or not a number.
    """
    waiting: list[tuple[object, int]] = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        if depth > DEPTH_LIMIT:
            raise ExcessiveText(f"it is nested more than {DEPTH_LIMIT} deep")
        if isinstance(item, dict):
            pairs = cast("dict[str, object]", item)
            waiting += [(inside, depth + 1) for pair in pairs.items() for inside in pair]
        elif isinstance(item, list | tuple):
            waiting += [(inside, depth + 1) for inside in cast("Sequence[object]", item)]
        else:
            check_value(item, finite=finite)


def check_value(value: object, *, finite: bool) -> None:
    """Check one value that holds no others; see `check_values`.

    Raises:
        MalformedText: it is not acceptable.
    """
    if isinstance(value, str) and not is_unicode(value):
        raise MalformedText(f"{value[:40]!a} is not Unicode, as it holds half a surrogate pair")
    if isinstance(value, float) and finite and not math.isfinite(value):
        raise MalformedText(f"it holds the number {value}, which is not finite")
    if isinstance(value, int) and abs(value) >= 10**DIGIT_LIMIT:
        raise ExcessiveText(f"a number has more than {DIGIT_LIMIT} digits")


def is_unicode(text: str) -> bool:
    """Tell whether a text can be written as UTF-8.

    Bytes of file names and arguments that are not UTF-8 become characters that cannot.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
