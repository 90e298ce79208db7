"""Opening a run: folder, lock, photos, base and token; a resumed run must find them unchanged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from mascot.adapters.adapter_file import Adapter
from mascot.data.encoding_cache import EncodingCache
from mascot.data.photo_audit import PhotoFinding
from mascot.data.photos import PhotoSet
from mascot.errors import UserError, printable
from mascot.generation.measured_time import MeasuredTime
from mascot.generation.stack.applied_stack import check_base as check_adapter_base
from mascot.models.devices import choose_device
from mascot.progress import ClassImagesStarted, OnEvent, PhotosRead
from mascot.protocols import Family, Method
from mascot.recipe.changes import Change
from mascot.recipe.overrides import write_none
from mascot.recipe.recipe import Recipe, with_tokens
from mascot.recipe.starting_point import check_start, read_start
from mascot.recipe.subject_tables import tables_in
from mascot.runs.effective_settings import TIME, effective_settings
from mascot.runs.inputs import find_caption_faults, load_base, photo_hashes, read_subject
from mascot.runs.resumed_recipe import changes_since, check_length, describe_change, trained_values
from mascot.runs.training_run import TrainingRun
from mascot.runs.training_steps import begin
from mascot.storage.atomic_write import check_writable, fresh_path
from mascot.storage.run_folder import Run, delete_previews, open_run
from mascot.storage.strict_parsing import is_unicode
from mascot.storage.untrusted_files import UnreadableFile, read_json_object

ChooseToken = Callable[[Recipe, Family], tuple[Recipe, str]]
"""Fills in a token if a recipe names none, and returns why (see `selection/token_choice.py`)."""


PREVIEWED = ("previews.prompts", "previews.seed")
"""Settings that all previews of a run share: where they change, earlier previews are deleted."""


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
    measures: bool = False,
) -> Generator[TrainingRun]:
    """Prepare a run up to the step that it trains next; its lock is held while the context lasts.

    Without `out` a new folder under `runs/` is made. `family` is the recipe's base if it is loaded
    already, and `encodings` its cache of latents and text embeddings. `measures` times images for
    an estimate. The recipe and the effective settings are written into the folder. Events:
    `PhotosRead`, `ClassImagesStarted`, and those of `choose_token`.

    Raises:
        UserError: anything that the user can mend; no file that was in the folder is lost.
    """
    clock = MeasuredTime(with_images=measures)
    folder = Path(out) if out is not None else new_folder(recipe)
    recipe = check_folder(folder, recipe, resume=resume)
    photos = read_subject(recipe)
    on_event(describe_photos(photos, find_caption_faults(recipe, photos)))
    with hold_folder(folder, recipe, is_new=out is None) as files:
        recipe = check_folder(files.folder, recipe, resume=resume)  # another process may have used it meanwhile
        started = StartFacts.read(files) if resume else None
        changes = changes_since(files, recipe) if resume else []
        start = read_start_adapter(recipe, files)
        check_same(files, "photos", started and started.photos, photo_hashes(photos))
        family = family or load_base(recipe)
        recipe, reason = choose_token(recipe, family)
        check_same(files, "base", started and started.base, family.identity)
        run = TrainingRun(recipe=recipe, files=files, photos=photos, family=family, on_event=on_event)
        run.encodings, run.token_reason, run.start = encodings or run.encodings, reason, start
        run.time = clock
        prepare(run, started, changes)
        yield run


def read_start_adapter(recipe: Recipe, files: Run) -> Adapter | None:
    """Read the adapter that a run starts from; None where there is none, or a checkpoint already.

    Raises:
        UserError: it cannot be read, or its method's settings are others.
    """
    if recipe.start_from is None or files.last_checkpoint() is not None:
        return None
    check_start(recipe.start_from, cast("Method", recipe.method), recipe.subject)
    return read_start(recipe.start_from)[0]


def prepare(run: TrainingRun, started: StartFacts | None, changes: Sequence[Change]) -> None:
    """Bring a run to its last checkpoint, and write down what it is trained with."""
    missing = run.recipe.prior.count - len(run.photos.class_images)
    if run.start is not None:
        check_adapter_base(run.start, run.family)
    if run.recipe.prior.uses_class_images and missing > 0:
        run.on_event(ClassImagesStarted(images=missing * max(1, len(run.recipe.subjects.class_nouns))))
    begin(run)
    rows = [describe_change(change, run.loop.done, run.recipe) for change in changes]
    run.is_extended = any(change.extends for change in changes)
    earlier = [row for row in started.changes if row not in rows] if started is not None else []
    history = [*earlier, *rows]
    run.settings = [*effective_settings(run), *history]
    if started is None or changes or not run.files.recipe.exists():
        run.files.write_text(run.files.recipe, run.recipe.to_toml())
        write_start_facts(run, history)
        write_captions(run)
    if any(change.key in PREVIEWED for change in changes):
        delete_previews(run.files)


def new_folder(recipe: Recipe) -> Path:
    """Choose a folder under `runs/` that does not exist, named after the photos."""
    stem = Path(os.path.realpath(recipe.photos[0])).stem
    return fresh_path(Path("runs"), stem if stem and is_unicode(stem) else "run")


@contextmanager
def hold_folder(folder: Path, recipe: Recipe, *, is_new: bool) -> Generator[Run]:
    """Hold the lock of a run's folder while the context lasts.

    A folder that was chosen as a new one may be another process's meanwhile; then the next name is
    taken.

    Raises:
        UserError: another process is using a folder that was named.
    """
    while True:
        with ExitStack() as stack:
            try:
                stack.enter_context(Run(folder).locked())
            except UserError:
                if not is_new:
                    raise
            else:
                if not is_new or Run(folder).is_empty():
                    yield Run(folder)
                    return
        folder = new_folder(recipe)


def check_folder(folder: Path, recipe: Recipe, *, resume: bool) -> Recipe:
    """Check that a folder may be trained into; returns the recipe with the token of a resumed run.

    Raises:
        UserError: it is not empty, cannot be written, or holds a run that this recipe does not fit.
    """
    check_writable(folder)
    files = Run(folder)
    if resume:
        trained = trained_values(open_run(folder))
        recipe = with_tokens(recipe, trained_tokens(trained, len(recipe.subjects.tokens)))
        changes_since(files, recipe)
        started = StartFacts.read(files)
        if started is not None:
            check_length(files, trained, recipe, started.stages)
        choose_device(recipe.device, "resume it where there is one, or with --set device=cpu")
    elif folder.exists() and not (folder.is_dir() and files.is_empty()):
        raise UserError(f"{folder} is not empty; give --resume to go on with that run, or another --out.")
    return recipe


def trained_tokens(trained: Mapping[str, Any], count: int) -> list[str | None]:
    """Return the token of each subject of a run's recipe; None where there is none."""
    tables = tables_in(trained) or [trained]
    tokens = [table.get("token") for table in tables]
    known = [token if isinstance(token, str) and token.lower() != "none" else None for token in tokens]
    return known if len(known) == count else [None] * count


class StartFacts(BaseModel):
    """What a run was started with, as `effective.json` keeps it."""

    model_config = ConfigDict(frozen=True)

    photos: object
    """See `photo_hashes`."""
    base: object
    """The base's identity."""
    stages: int = 1
    """Number of the base's stages."""
    changes: tuple[tuple[str, str], ...] = ()
    """What was changed in the recipe when the run was resumed, as names and descriptions."""

    @classmethod
    def read(cls, files: Run) -> StartFacts | None:
        """Read the facts; None if the run was stopped before it wrote them.

        Raises:
            UserError: the file is damaged.
        """
        if not files.effective.exists():
            return None
        try:
            return cls.model_validate(read_json_object(files.effective))
        except (UnreadableFile, ValidationError) as error:
            raise UserError(
                f"{files.effective} is damaged; delete it, and --resume goes on without comparing photos and base."
            ) from error


def write_start_facts(run: TrainingRun, changes: Sequence[tuple[str, str]]) -> None:
    """Write `effective.json`: the effective settings, the photos, the base, and the recipe."""
    facts = {
        "settings": {name: value for name, value in run.settings if name != TIME},
        "photos": photo_hashes(run.photos),
        "base": run.family.identity,
        "stages": len(run.family.stages),
        "recipe": write_none(run.recipe.model_dump(mode="json")),
        "changes": changes,
    }
    run.files.write_text(run.files.effective, json.dumps(facts, indent=2) + "\n")


def write_captions(run: TrainingRun) -> None:
    """Write the captions that a model wrote, if one did, so that they can be read and edited."""
    rows = [json.dumps({"file_name": name, "text": text}, ensure_ascii=False) for name, text in run.photos.written]
    if rows:
        run.files.write_text(run.files.captions, "\n".join(rows) + "\n")


def check_same(files: Run, what: str, before: object, now: object) -> None:
    """Check that a run resumes on the same photos or base; `before` is None if they are not known.

    Raises:
        UserError: they have changed.
    """
    if before is not None and before != now:
        raise UserError(
            f"the {what} changed since {files.folder} was started; put back what was there, or start a new --out."
        )


def describe_photos(photos: PhotoSet, faults: Sequence[PhotoFinding] = ()) -> PhotosRead:
    """Build the event that lists which photos are used, and what is wrong with their captions."""
    return PhotosRead(
        used=tuple(printable(photo.path) for photo in photos.photos),
        refused=tuple(refused.reason for refused in photos.refused),
        notes=(*photos.notes, *(f"{fault.message} {fault.remedy}" for fault in faults)),
    )
