"""What learns: one file each, one table. A method is a tuple of phases, trained one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from mascot.errors import UserError, suggest
from mascot.protocols import Restore

METHODS: Mapping[str, str] = {
    "lora": "mascot.methods.lora",
    "dreambooth": "mascot.methods.dreambooth",
    "textual-inversion": "mascot.methods.textual_inversion",
    "pivotal": "mascot.methods.pivotal",
}
"""Method's name -> module with `Settings` (pydantic, a Method) and `restore`."""


DEFAULT = next(iter(METHODS))
"""The method of recipes that name none, and of adapter files that other tools wrote."""


def settings_of(name: str) -> type[Any]:
    """The settings class of a method.

    Raises:
        UserError: there is no such method.
    """
    if name not in METHODS:
        raise UserError(f"unknown method {name!r}{suggest(name, METHODS)}")
    return import_module(METHODS[name]).Settings


def restore_of(name: str | None) -> Restore:
    """The function that puts a method's export back on a base; None stands for another tool's file."""
    name = name or DEFAULT
    settings_of(name)
    return import_module(METHODS[name]).restore
