"""Opening a run: folder, lock, photos, base, token and, when it is resumed, that all of these are still the same."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mascot.data.encoding_cache import EncodingCache
from mascot.data.photos import PhotoSet
from mascot.errors import UserError, printable
from mascot.models.devices import choose_device
from mascot.progress import ClassImagesStarted, OnEvent, PhotosRead
from mascot.protocols import Family
from mascot.recipe.recipe import Recipe
from mascot.runs.effective_settings import TIME, effective_settings
from mascot.runs.inputs import load_base, photo_hashes, read_subject
from mascot.runs.training_run import TrainingRun
from mascot.runs.training_steps import begin
from mascot.storage.atomic_write import check_writable, fresh_path
from mascot.storage.run_folder import Run, open_run

ChooseToken = Callable[[Recipe, Family], tuple[Recipe, str]]
"""Fills in a token where a recipe names none, and says why it chose it (see `selection.token_choice`)."""


@contextmanager
def open_training_run(
    recipe: Recipe,
    out: str | Path | None,
    *,
    resume: bool,
    on_event: OnEvent,
    choose_token: ChooseToken,
    family: Family | None = None,
    encodings: EncodingCache | None = None,
) -> Generator[TrainingRun]:
    """Prepare a run up to the step that it is to train next, and hold its lock while the context lasts.

    Without `out` a new folder under `runs/` is taken. `family` is the recipe's base where it is loaded already, and `encodings`
    its cache of latents and text embeddings. The recipe and the effective settings are written into the folder.

    Events: `PhotosRead`, `ClassImagesStarted`, those of `choose_token`.

    Raises:
        UserError: anything that the user can mend; nothing that was in the folder is lost.
    """
    folder = (
        Path(out)
        if out is not None
        else fresh_path(Path("runs"), Path(os.path.realpath(recipe.photos[0])).stem or "run")
    )
    files = check_folder(folder, recipe, resume=resume)
    photos = read_subject(recipe)
    on_event(describe_photos(photos))
    with files.locked():
        check_folder(folder, recipe, resume=resume)  # again: another process may have used the folder in the meantime
        started = StartFacts.read(files) if resume else None
        check_same(files, "photos", started and started.photos, photo_hashes(photos))
        family = family or load_base(recipe)
        recipe, reason = choose_token(Recipe.read(files.recipe) if resume else recipe, family)
        check_same(files, "base", started and started.base, family.identity)
        if recipe.prior.generates and recipe.prior.count:
            on_event(ClassImagesStarted(images=recipe.prior.count))
        run = TrainingRun(
            recipe=recipe,
            files=files,
            photos=photos,
            family=family,
            encodings=encodings or EncodingCache(),
            token_reason=reason,
            on_event=on_event,
        )
        begin(run)
        run.settings = effective_settings(run)
        if not resume:
            files.write_text(files.recipe, recipe.to_toml())
        if started is None:
            write_start_facts(run)
        yield run


def check_folder(folder: Path, recipe: Recipe, *, resume: bool) -> Run:
    """Decide whether a folder may be trained into.

    Raises:
        UserError: it is not empty, cannot be written, or holds a run of another recipe.
    """
    check_writable(folder)
    files = Run(folder)
    if resume:
        before = Recipe.read(open_run(folder).recipe)
        if not recipe.fits(before):
            raise UserError(
                f"{folder} was started with another recipe; resume it without other options, or start a new --out."
            )
        choose_device(before.device, "resume it where there is one, or start a new --out with --set device=cpu")
    elif folder.exists() and not (folder.is_dir() and files.is_empty()):
        raise UserError(f"{folder} is not empty; give --resume to go on with that run, or another --out.")
    return files


@dataclass(frozen=True, slots=True)
class StartFacts:
    """What a run was started with, as `effective.json` keeps it."""

    photos: Any
    """See `photo_hashes`."""
    base: Any
    """The base's identity."""

    @classmethod
    def read(cls, files: Run) -> StartFacts | None:
        """Read them; None where the run was stopped before it wrote them.

        Raises:
            UserError: the file is damaged.
        """
        if not files.effective.exists():
            return None
        try:
            facts = json.loads(files.effective.read_text(encoding="utf-8"))
            return cls(photos=facts["photos"], base=facts["base"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{files.effective} is damaged; start a new --out.") from error


def write_start_facts(run: TrainingRun) -> None:
    """Write `effective.json`: the effective settings, the photos and the base."""
    facts = {
        "settings": {name: value for name, value in run.settings if name != TIME},
        "photos": photo_hashes(run.photos),
        "base": run.family.identity,
    }
    run.files.write_text(run.files.effective, json.dumps(facts, indent=2) + "\n")


def check_same(files: Run, what: str, before: Any, now: Any) -> None:
    """Refuse to resume on other photos or another base; `before` is None where nothing is known."""
    if before is not None and before != now:
        raise UserError(
            f"the {what} changed since {files.folder} was started; put back what was there, or start a new --out."
        )


def describe_photos(photos: PhotoSet) -> PhotosRead:
    """Say which photos are used, as an event."""
    return PhotosRead(
        used=tuple(printable(photo.path) for photo in photos.photos),
        refused=tuple(refused.reason for refused in photos.refused),
        notes=tuple(photos.notes),
    )
