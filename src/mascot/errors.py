"""The one kind of error that a user can mend."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any


class UserError(Exception):
    """Something the user can mend; its text is one sentence that says what to do. The command line exits with 2."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Say `; did you mean X?` where a known name is close, else list what is known."""
    known = list(known)
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}."


def list_some(names: Iterable[str]) -> str:
    """Name up to three, and say how many more there are."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def printable(path: Path) -> str:
    """The file's name, fit for one line of a terminal: control characters and undecodable bytes show as `?`."""
    return "".join(letter if letter.isprintable() else "?" for letter in path.name)


def extra(package: str) -> Any:
    """Import a package of the extra `optimizers`.

    Raises:
        UserError: it is not installed.
    """
    logging.getLogger(package).setLevel(logging.ERROR)  # bitsandbytes warns of speed-ups for other processors
    try:
        return import_module(package)
    except ImportError as error:
        raise UserError(f"{package} is not installed; run pip install 'mascot[optimizers]'.") from error
