"""The one error that the user can fix, wording that error messages share, and interruptions."""

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

    def _render_traceback_(self) -> list[str]:
        """Return what IPython and notebooks print in place of a traceback: the sentence alone."""
        return [f"{type(self).__name__}: {self}"]


received: list[int] = []
"""Numbers of the signals that asked the present command to end, by Ctrl-C or SIGTERM."""


def check_interrupted() -> None:
    """Interrupt again where a library has lost an interruption, or made another error of it.

    Raises:
        KeyboardInterrupt: the present command was asked to end.
    """
    if received:
        raise KeyboardInterrupt


EXHAUSTED = (
    "allocate memory",
    "out of memory",
    "not enough memory",
    "unable to allocate",
    "invalid buffer size",
    "could not create a primitive",  # oneDNN, whose kernels are made in memory of their own
)
"""What the allocators of CPUs and accelerators say, in lower case; a CPU's has no type."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that the machine or its accelerator has too little memory."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and (type(error).__name__ == "OutOfMemoryError" or any(words in text for words in EXHAUSTED))
    )


def raise_unrelated(error: Exception) -> None:
    """Raise again what is no fault of the file that was being read.

    Raises:
        KeyboardInterrupt: the present command was asked to end.
        Exception: `error` itself, if memory was too small.
    """
    check_interrupted()
    if is_out_of_memory(error):
        raise error


def suggest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'X'?` where a known name is similar, else list the known names."""
    known = list(known)
    meant = likely(name, known)
    return f"; {meant[2:-1]}?" if meant else f"; known: {', '.join(known)}."


def likely(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'X')` where a known name is similar, else nothing."""
    close = get_close_matches(name[:100], list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r})" if close else ""


def shorten(text: str, length: int = 100) -> str:
    """Return a text of at most `length` letters; a longer one ends in `...`."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def list_some(names: Iterable[str]) -> str:
    """Join up to three names, and count the others: `a, b, c and 2 more`."""
    names = list(names)
    return ", ".join(shorten(name) for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def printable(path: Path) -> str:
    """Return a file's name for one line of a terminal.

    Control characters and undecodable bytes become `?`.
    """
    return "".join(letter if letter.isprintable() else "?" for letter in path.name)


def escape_control(text: str) -> str:
    """Write characters that would steer a terminal as escapes; line ends stay."""
    shown = (letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text)
    return text if text.isprintable() else "".join(shown)


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
