"""How tabs call verbs: the visitor's session, mistakes as messages, and who waits for whom."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

import gradio as gr

from mascot.api.library.changes import find_run
from mascot.errors import UserError, is_out_of_memory, shorten
from mascot.generation.stack.adapter_sources import AdapterSource
from mascot.storage.run_folder import Run
from mascot.studio.sessions import COOKIE, Session
from mascot.studio.words import Words
from mascot.studio.workshop import Workshop

DEVICE: Final = "device"
"""Events of this name wait for each other: they load a base, or generate."""


@dataclass(frozen=True, slots=True)
class Room:
    """What every tab is built with."""

    shop: Workshop
    words: Words

    def session(self, request: gr.Request) -> Session:
        """Return the session of whoever asks."""
        return self.shop.sessions.of(request.cookies.get(COOKIE))

    def choices(self) -> list[str]:
        """List what images can be generated with."""
        return self.shop.trained()

    def source(self, name: str, session: Session) -> AdapterSource:
        """Return an adapter by its name: a run's, a kept step's, or a file of the session's.

        Raises:
            UserError: there is none of that name.
        """
        if name.startswith(UPLOADED):
            path = session.adapters / Path(name.removeprefix(UPLOADED)).name
            if path.is_file():
                return AdapterSource(text=path.stem, place=path, name=None)
            raise UserError(self.words("draw.gone"))
        run, at, step = name.partition("@")
        found = self.run(run)
        if at and step.isdecimal():
            return AdapterSource(text=name, place=Path(f"{found.folder}@{int(step)}"))
        return AdapterSource(text=name, place=found)

    def run(self, name: str) -> Run:
        """Return the run of a name, or of a kept step.

        Raises:
            UserError: there is none of that name.
        """
        own = name.partition("@")[0]
        if own not in {path.name for path in self.shop.library.iterdir()}:
            raise UserError(self.words("library.gone", name=shorten(own, 40)))
        return find_run(self.shop.library, own)


UPLOADED: Final = "file: "
"""How the names of a session's own adapter files begin."""


@contextmanager
def said_to_the_user() -> Generator[None]:
    """Show a user's mistake as a message of the page.

    Raises:
        gr.Error: the sentence of the mistake, escaped.
    """
    try:
        yield
    except UserError as error:
        raise message(str(error)) from error
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise message("There is too little memory; choose a smaller size, or fewer images.") from error
        raise


def message(sentence: str) -> gr.Error:
    """Make a message of the page from a sentence, which may hold a user's text."""
    return gr.Error(escape(sentence), duration=12, title="mascot", print_exception=False)


def lines_of(text: str) -> tuple[str, ...]:
    """Split a text into its lines, without blank ones."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def choose(choices: Sequence[str], value: str | None) -> gr.Dropdown:
    """Offer choices, and keep the chosen one where it is still there."""
    kept = value if value in choices else (choices[0] if choices else None)
    return gr.Dropdown(choices=list(choices), value=kept)


Fill = Callable[..., object]
"""Fills components when a tab is opened."""
