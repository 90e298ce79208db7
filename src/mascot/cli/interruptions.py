"""Ctrl-C and SIGTERM: both end a command in order, wherever it is."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Final

from mascot.errors import received

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

ENDING: Final = (signal.SIGINT, signal.SIGTERM)
"""Signals that ask a command to end."""
INTERRUPTED: Final = 128 + signal.SIGINT
"""The exit code after Ctrl-C, as shells know it; after SIGTERM it is 143."""


@contextmanager
def ending_on_signals() -> Generator[None]:
    """Interrupt the command on Ctrl-C and SIGTERM while the context lasts.

    Libraries turn an interruption into errors of their own, or lose it; `errors.received` remembers
    it. A signal that the process was started to ignore stays ignored. Outside the main thread
    nothing is changed.
    """
    received.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    hook, sys.unraisablehook = sys.unraisablehook, quiet_about_interruptions
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook
        received.clear()


def interrupt(number: int, frame: FrameType | None) -> None:
    """Remember a signal, and interrupt whatever runs."""
    del frame
    received.append(number)
    raise KeyboardInterrupt


def quiet_about_interruptions(lost: UnraisableHookArgs) -> None:
    """Print what finalizers raise, but not an interruption: the next check raises it again."""
    if not (received and issubclass(lost.exc_type, KeyboardInterrupt)):
        sys.__unraisablehook__(lost)


def exit_code() -> int:
    """Return the exit code of an interrupted command."""
    return 128 + received[0] if received else INTERRUPTED
