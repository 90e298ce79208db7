"""The table of training methods; each is imported only when it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mascot.errors import UserError, suggest

if TYPE_CHECKING:
    from torch import Tensor

    from mascot.adapters.sides import Changes
    from mascot.protocols import AttachedMethod, Restore

TakeOver = Callable[["AttachedMethod", Mapping[str, "Tensor"], Mapping[str, str]], None]
"""Starts an attached method from exported tensors and metadata; UserError says what differs."""
Conflicts = Callable[[Any, Any], Mapping[str, object]]
"""Compares a method's settings with those of an export; returns recipe keys that must change."""

METHODS: Mapping[str, str] = {
    "lora": "mascot.methods.lora:LoraSettings",
    "dreambooth": "mascot.methods.dreambooth:DreamBoothSettings",
    "textual-inversion": "mascot.methods.textual_inversion:TextualInversionSettings",
    "pivotal": "mascot.methods.pivotal:PivotalSettings",
}
"""Name of a method -> its module and the name of its settings class.

The settings class is a pydantic model that implements `protocols.Method`. The module also has the
functions `restore` (`protocols.Restore`), `changes` (`protocols.Changes`), `take_over`
(`TakeOver`) and `conflicts` (`Conflicts`).
"""
DEFAULT = next(iter(METHODS))
"""Method of recipes that name none, and of adapter files from other tools."""


def settings_of(name: str) -> type[Any]:
    """Import the settings class of a method.

    Raises:
        UserError: no method has this name.
    """
    if name not in METHODS:
        raise UserError(f"unknown method {name!r}{suggest(name, METHODS)}")
    module, _, settings = METHODS[name].partition(":")
    return getattr(import_module(module), settings)


def changes_of(name: str | None) -> Changes:
    """Import the function that tells which sides of a base a method's export changes.

    None stands for a file from another tool, which is read as a LoRA.

    Raises:
        UserError: no method has this name.
    """
    return import_module(settings_of(name or DEFAULT).__module__).changes


def restore_of(name: str | None) -> Restore:
    """Import the function that applies a method's export to a base model.

    None stands for a file from another tool, which is read as a LoRA.

    Raises:
        UserError: no method has this name.
    """
    return import_module(settings_of(name or DEFAULT).__module__).restore


def take_over_of(name: str) -> TakeOver:
    """Import the function that starts the training of a method from its own export."""
    return import_module(settings_of(name).__module__).take_over


def conflicts_of(name: str) -> Conflicts:
    """Import the function that compares a method's settings with those of an export."""
    return import_module(settings_of(name).__module__).conflicts
