"""The table of methods: one file each, one line here. A method is a tuple of phases, trained one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from mascot.errors import UserError, suggest
from mascot.protocols import Restore

METHODS: Mapping[str, str] = {
    "lora": "mascot.methods.lora:LoraSettings",
    "dreambooth": "mascot.methods.dreambooth:DreamBoothSettings",
    "textual-inversion": "mascot.methods.textual_inversion:TextualInversionSettings",
    "pivotal": "mascot.methods.pivotal:PivotalSettings",
}
"""Method's name -> its module and, in it, its settings (a pydantic model that is a `Method`); the module has `restore` too."""

DEFAULT = next(iter(METHODS))
"""The method of recipes that name none, and of adapter files that other tools wrote."""


def settings_of(name: str) -> type[Any]:
    """Import the settings class of a method.

    Raises:
        UserError: there is no such method.
    """
    if name not in METHODS:
        raise UserError(f"unknown method {name!r}{suggest(name, METHODS)}")
    module, _, settings = METHODS[name].partition(":")
    return getattr(import_module(module), settings)


def restore_of(name: str | None) -> Restore:
    """Import the function that applies a method's export to a base; None stands for another tool's file.

    Raises:
        UserError: there is no such method.
    """
    return import_module(settings_of(name or DEFAULT).__module__).restore
