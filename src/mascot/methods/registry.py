"""The table of training methods; each is imported only when it is used."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mascot.errors import UserError, suggest

if TYPE_CHECKING:
    from torch import Tensor

    from mascot.adapters.sides import Changes, Sides
    from mascot.protocols import AppliedAdapter, AttachedMethod, Restore, Stage

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
"""Method of recipes that name none."""
WORDS, LAYERS_AND_WORDS = "textual-inversion", "pivotal"
"""Methods whose exports other tools' files with words amount to: without and with layers."""


def settings_of(name: str) -> type[Any]:
    """Import the settings class of a method.

    Raises:
        UserError: no method has this name.
    """
    if name not in METHODS:
        raise UserError(f"unknown method {name!r}{suggest(name, METHODS)}")
    module, _, settings = METHODS[name].partition(":")
    return getattr(import_module(module), settings)


def method_in(keys: Collection[str]) -> str:
    """Tell which method's export a file of another tool amounts to, by its tensors' names here.

    Such a file has low-rank layers, or words (rows of token embeddings), or both.
    """
    from mascot.adapters.lora_keys import TENSOR_MARKS
    from mascot.adapters.token_rows import BUNDLE

    layers = sum(any(mark in key for mark in TENSOR_MARKS) for key in keys)
    if layers in {0, len(keys)}:
        return WORDS if keys and not layers else DEFAULT
    return LAYERS_AND_WORDS if any(key.startswith(BUNDLE) for key in keys) else DEFAULT


def method_holding(*, layers: bool, words: bool) -> str:
    """Name the method that restores a file with low-rank layers, with words, or with both."""
    return ("pivotal" if words else DEFAULT) if layers else "textual-inversion"


def changes_of(name: str | None) -> Changes:
    """Import the function that tells which sides of a base a method's export changes.

    None stands for a file from another tool (see `method_in`).

    Raises:
        UserError: no method has this name.
    """
    return changes_of_other if name is None else import_module(settings_of(name).__module__).changes


def changes_of_other(keys: Iterable[str]) -> Sides:
    """Tell which sides of a base a file of another tool changes."""
    names = tuple(keys)
    return changes_of(method_in(names))(names)


def restore_of(name: str | None) -> Restore:
    """Import the function that applies a method's export to a base model.

    None stands for a file from another tool (see `method_in`).

    Raises:
        UserError: no method has this name.
    """
    return restore_other if name is None else import_module(settings_of(name).__module__).restore


def restore_other(stage: Stage, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> AppliedAdapter:
    """Apply what another tool's file holds: low-rank layers, words, or both."""
    return restore_of(method_in(tensors))(stage, tensors, metadata)


def take_over_of(name: str) -> TakeOver:
    """Import the function that starts the training of a method from its own export."""
    return import_module(settings_of(name).__module__).take_over


def conflicts_of(name: str) -> Conflicts:
    """Import the function that compares a method's settings with those of an export."""
    return import_module(settings_of(name).__module__).conflicts
