"""Starting a run from an adapter of an earlier one: what its recipe takes over, and must keep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mascot.adapters.adapter_file import Adapter, Manifest
from mascot.errors import UserError
from mascot.generation.loading import resolve_adapter
from mascot.methods.registry import conflicts_of, settings_of
from mascot.models.base_files.base_reading import BaseReading
from mascot.protocols import Method, Subject
from mascot.recipe.changes import override, show
from mascot.recipe.overrides import read_toml
from mascot.storage.run_folder import Run


def read_start(source: str) -> tuple[Adapter, Manifest, Path]:
    """Read the adapter that a run starts from, with its manifest and its path.

    Raises:
        UserError: it cannot be read, or another tool wrote it.
    """
    try:
        adapter, path = resolve_adapter(source)
    except UserError as error:
        raise UserError(f"--from (in a recipe start_from) cannot be read: {error}") from error
    if adapter.manifest is None:
        raise UserError(
            f"--from (in a recipe start_from) {source} does not say how it was trained; start from an adapter that "
            "`mascot train` wrote."
        )
    return adapter, adapter.manifest, path


def values_from(source: str, method: str | None, *, alone: bool = True) -> dict[str, Any]:
    """Collect the recipe values that a run takes over from the adapter that it starts from.

    They are base, token, class noun, the settings of the method, and the photos where the adapter
    lies in its run. `method` is the one that the recipe names, if any; `alone` says whether it
    has one subject.

    Raises:
        UserError: the adapter cannot be read, is one of another method, or there are several
            subjects.
    """
    _, manifest, path = read_start(source)
    if manifest.subject.others or not alone:
        raise UserError(
            "a run that starts from an adapter has one subject, as has the adapter; train several without --from."
        )
    check_method(source, manifest, method or manifest.method)
    reading = {key: value for key, value in manifest.recipe.items() if key in BaseReading.model_fields}
    recipe = Run(path.parent).recipe
    photos = read_toml(recipe).get("photos") if recipe.exists() else None
    return (
        reading
        | {
            "base": manifest.base,
            "token": manifest.token,
            "class_noun": manifest.class_noun,
            "method": {"name": manifest.method} | recorded_method(manifest),
        }
        | ({} if photos is None else {"photos": photos})
    )


def recorded_method(manifest: Manifest) -> dict[str, Any]:
    """Read the method's settings that an adapter was trained with; empty where they are unknown.

    A companion file says another method than its run.
    """
    recorded = manifest.recipe.get("method")
    return recorded if isinstance(recorded, dict) and recorded.get("name") == manifest.method else {}


def check_start(source: str, method: Method, subject: Subject) -> None:
    """Check that a method can train on from an adapter, as far as their settings tell.

    Raises:
        UserError: the method is another, or a setting differs that must be that of the adapter.
    """
    _, manifest, _ = read_start(source)
    check_method(source, manifest, method.name)
    wrong: dict[str, object] = {}
    if method.trains_token and subject.token != manifest.token:
        wrong["token"] = manifest.token
    try:
        before = settings_of(manifest.method).model_validate(recorded_method(manifest))
    except ValidationError:  # of another version; its tensors tell
        before = method
    if recorded_method(manifest):
        wrong |= conflicts_of(method.name)(method, before)
    if wrong:
        raise UserError(describe_conflicts(source, wrong))


def check_method(source: str, manifest: Manifest, method: str) -> None:
    """Refuse a method that did not train the adapter.

    Raises:
        UserError: it did not.
    """
    if method != manifest.method:
        raise UserError(
            f"{source} was trained by {manifest.method}, and this run is to be trained by {method}; "
            f"give --set method.name={manifest.method}, or no --from."
        )


def describe_conflicts(source: str, conflicts: Mapping[str, object]) -> str:
    """Describe the settings in which a run differs from the adapter that it starts from."""
    settings = " and ".join(f"{key} {show(value)}" for key, value in conflicts.items())
    options = " ".join(f"--set {override(key, value)}" for key, value in conflicts.items())
    return f"{source} was trained with {settings}, which a run that starts from it keeps; give {options}, or no --from."
