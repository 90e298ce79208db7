"""The one error that the user can fix, and the wording that error messages share."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType


class UserError(Exception):
    """An error that the user can fix; its text is one sentence that ends in what to do.

    The command line prints it and exits with code 2.
    """


def suggest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'X'?` where a known name is similar, else list the known names."""
    known = list(known)
    name = name[:100]
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}."


def shorten(text: str, length: int = 100) -> str:
    """Return a text of at most `length` letters; a longer one ends in `...`."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def list_some(names: Iterable[str]) -> str:
    """Join up to three names, and count the others: `a, b, c and 2 more`."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def printable(path: Path) -> str:
    """Return a file's name for one line of a terminal.

    Control characters and undecodable bytes become `?`.
    """
    return "".join(letter if letter.isprintable() else "?" for letter in path.name)


def import_optional(package: str) -> ModuleType:
    """Import a package that the extra `mascot[optimizers]` installs.

    Raises:
        UserError: the package is not installed.
    """
    logging.getLogger(package).setLevel(logging.ERROR)  # bitsandbytes warns of speed-ups for other processors
    try:
        return import_module(package)
    except ImportError as error:
        raise UserError(f"{package} is not installed; run pip install 'mascot[optimizers]'.") from error
