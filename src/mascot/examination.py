"""Runs as they are examined: what an adapter draws is scored and written beside it, and two runs are set against each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mascot.adapters.adapter_file import Adapter
from mascot.api import diagnose
from mascot.data.photos import read_photos
from mascot.errors import UserError
from mascot.evaluation import comparison
from mascot.evaluation.comparison import Comparison
from mascot.evaluation.diagnosis.diagnosis_page import diagnosis_page, diagnosis_section
from mascot.evaluation.diagnosis.findings import Diagnosis
from mascot.evaluation.diagnosis.probe_images import observe, prompts_of_diagnosis
from mascot.evaluation.evaluation_task import Task, prompts_for, trained_photos
from mascot.evaluation.evaluator import Calibration, Referee, measure
from mascot.evaluation.evaluator import calibrate as calibrate_photos
from mascot.evaluation.metrics.default_encoders import Judges, judges_for
from mascot.evaluation.metrics.diversity import open_distance
from mascot.evaluation.metrics.foreground import open_segmenter
from mascot.evaluation.samples import Drawn, draw
from mascot.evaluation.scores import Scores
from mascot.evaluation.scores_page import comparison_page, scores_page
from mascot.generation.generator import Generator
from mascot.generation.loading import BY_OPTION, open_generator, resolve_adapter, usual_knobs
from mascot.models.devices import choose_device
from mascot.models.starter import EMBEDDED
from mascot.progress import Progress, silent
from mascot.protocols import Family
from mascot.recipe.settings import Diagnosing
from mascot.reports.page import write_page
from mascot.storage.run_folder import Run, open_run
from mascot.subject import Subject

Refine = Callable[[Task, Drawn, Referee, Scores], Scores]
"""Adds to scores what asks for more than the pictures that they are of."""


def evaluate(
    where: str | Path | Run, *, prompts: Sequence[str] | None = None, images: int = 4, seed: int = 0, identity: str | None = None,
    clip: str | None = None, device: str = "auto", live: bool | None = None, photos: Sequence[str | Path] = (), base: str | None = None,
    family: Family | None = None, diagnosed: bool = False, refine: Refine | None = None, progress: Progress = silent,
) -> Scores:  # fmt: skip
    """Draw the report's prompts with a trained adapter and score the pictures; writes `scores.json` and `scores.html` beside it.

    `identity` and `clip` name encoders (see `judges_for`). Likeness is measured on the photos that the run learned from, or on `photos`;
    those of them that it did not learn from are held out, which the copy score needs. Pictures are kept: a call that was cut off, or one
    with other encoders, draws only what is missing. `family` is the adapter's base where it is loaded already; it comes back as it was.
    With `diagnosed` the page says what ails the run as well (see `diagnose`), unless the run's recipe has that switched off. `refine` may
    add to the scores before they are written. `progress` is called with ('drawing', count), ('picture', file), ('measuring', count),
    ('diagnosis', Diagnosis) and ('report', Path).

    Raises:
        UserError: the adapter, its base, the photos, the encoders or the prompts cannot be used.
    """
    adapter, path = resolve_adapter(where)
    place = scores_place(path)
    task = set_task(
        adapter, path, name=str(where.folder if isinstance(where, Run) else where), prompts=prompts, images=images, seed=seed, live=live,
        photos=photos, base=base,
    )  # fmt: skip
    judges = judges_for(task.base, identity, clip, choose_device(device, BY_OPTION))
    referee = referee_of(judges)
    generator, _, _ = open_generator(path, base=base, device=device, family=family)
    drawn = draw(task, generator, adapter=path, folder=place.evaluation, progress=progress)
    progress("measuring", len(drawn.taught.files))
    scores = measure(task, drawn, referee, generator=generator, folder=place.folder)
    page = scores_page(scores, place.folder, drawn.untouched.files)
    settings = adapter.manifest.recipe.get("diagnose", {}) if adapter.manifest else {}
    if diagnosed and settings.get("active", True):
        asked = task_of_diagnosis(adapter, path, name=task.name, photos=photos, base=base)
        found = tell(asked, adapter, path, generator=generator, referee=referee, progress=progress)
        page = replace(page, sections=(page.sections[0], diagnosis_section(found, place.folder), *page.sections[1:]))
    generator.take_off()
    del generator  # a base loaded here may go before what refines loads one
    if refine is not None:
        scores = refine(task, drawn, referee, scores)
    scores.write(place.scores)
    write_page(page, place.scores_page)
    progress("report", place.scores_page)
    return scores


def diagnose(
    where: str | Path | Run, *, prompts: Sequence[str] | None = None, images: int | None = None, identity: str | None = None,
    clip: str | None = None, device: str = "auto", photos: Sequence[str | Path] = (), base: str | None = None,
    generator: Generator | None = None, progress: Progress = silent,
) -> Diagnosis:  # fmt: skip
    """Say what ails a trained adapter, by name, with the number and the pictures that show it and what to change.

    It draws `images` of each of a handful of prompts that reports are not made with (or of `prompts`), the class alone and the token alone,
    by the adapter and by the untouched base; pictures that are kept already are not drawn again. `diagnosis.json` and `diagnosis.html` are
    written beside the adapter. `identity` and `clip` name encoders, `photos` other photos of the subject than the run's. `generator` wears
    the adapter already. `progress` is called with ('drawing', count), ('picture', file), ('diagnosis', Diagnosis) and ('report', Path).

    Raises:
        UserError: the adapter, its base, the photos, the encoders or the prompts cannot be used.
    """
    adapter, path = resolve_adapter(where)
    name = str(where.folder if isinstance(where, Run) else where)
    task = task_of_diagnosis(adapter, path, name=name, prompts=prompts, images=images, photos=photos, base=base)
    judges = judges_for(task.base, identity, clip, choose_device(device, BY_OPTION))
    worn = generator or open_generator(path, base=base, device=device)[0]
    found = tell(task, adapter, path, generator=worn, referee=referee_of(judges), progress=progress)
    if generator is None:
        worn.take_off()
    progress("report", scores_place(path).diagnosis_page)
    return found


def task_of_diagnosis(
    adapter: Adapter, path: Path, *, name: str, prompts: Sequence[str] | None = None, images: int | None = None,
    photos: Sequence[str | Path] = (), base: str | None = None,
) -> Task:  # fmt: skip
    """What an adapter is asked to draw to be diagnosed."""
    recorded = adapter.manifest.recipe.get("diagnose", {}) if adapter.manifest else {}
    noun = adapter.manifest.class_noun if adapter.manifest else None
    count = images if images is not None else Diagnosing.model_validate(recorded).images
    return set_task(
        adapter, path, name=name, prompts=prompts or prompts_of_diagnosis(noun), images=count, seed=0, live=None, photos=photos, base=base
    )


def tell(task: Task, adapter: Adapter, path: Path, *, generator: Generator, referee: Referee, progress: Progress) -> Diagnosis:
    """Draw what is missing, measure, and write down what ails the adapter that the generator wears."""
    place, manifest = scores_place(path), adapter.manifest
    symptoms = observe(task, generator, referee, adapter=path, folder=place.evaluation, progress=progress)
    recipe = {**manifest.recipe, "class_noun": manifest.class_noun, "knobs": task.knobs.model_dump()} if manifest else {}
    found = diagnose.build_diagnosis(symptoms, recipe, generator=generator, folder=place.folder)
    found.write(place.diagnosis)
    write_page(diagnosis_page(found, place.folder), place.diagnosis_page)
    progress("diagnosis", found)
    return found


def referee_of(judges: Judges) -> Referee:
    """The judges, with all that measures besides."""
    return Referee(judges=judges, distance=open_distance(judges.identity), segmenter=open_segmenter())


def set_task(
    adapter: Adapter, path: Path, *, name: str, prompts: Sequence[str] | None, images: int, seed: int, live: bool | None,
    photos: Sequence[str | Path], base: str | None,
) -> Task:  # fmt: skip
    """Say what an adapter is asked to draw, before any weight is loaded."""
    manifest = adapter.manifest
    if manifest is None:
        raise UserError(f"{path} does not say what its subject is called; evaluate an adapter that `mascot train` wrote.")
    subject = Subject(token=manifest.token, class_noun=manifest.class_noun)
    usual, alive = prompts_for(base or manifest.base, subject, live=live)
    trained = trained_photos(Run(path.parent), needed=not photos)
    background = manifest.recipe.get("dataset", {}).get("background", "white")
    return Task(
        name=name,
        base=base or manifest.base,
        subject=subject,
        live=alive,
        templates=usual if prompts is None else tuple(prompts),
        images=images,
        seed=seed,
        knobs=usual_knobs(adapter),
        photos=read_photos([Path(photo) for photo in photos], background=background).photos if photos else trained,
        trained=trained,
    )


def scores_place(path: Path) -> Run:
    """Where the scores of an adapter file lie: in its run's folder, or, for other files, in a folder beside them."""
    run = Run(path.parent)
    return run if path == run.adapter and run.recipe.exists() else Run(path.with_name(f"{path.stem}_scores"))


def read_scores(where: str | Path | Run) -> tuple[Scores, Run]:
    """Read what `evaluate` wrote of a run or an adapter file, called as it is called here; returns the scores and where they lie.

    Raises:
        UserError: it is not there, is no run, or was not evaluated yet.
    """
    path = where.folder if isinstance(where, Run) else Path(where)
    if not path.exists():
        raise UserError(f"{path} does not exist; give a run's folder or an adapter file.")
    place = Run(path) if path.is_dir() else scores_place(path)
    if path.is_dir() and not place.scores.exists():
        open_run(path)
    if not place.scores.exists():
        raise UserError(f"{path} was not evaluated yet; run `mascot evaluate {path}` first.")
    return Scores.read(place.scores).model_copy(update={"name": str(path)}), place


def compare(one: str | Path | Run, other: str | Path | Run, *, out: str | Path | None = None, progress: Progress = silent) -> Comparison:
    """Compare two evaluated runs, prompt by prompt and seed by seed; writes a page with their pictures side by side.

    The page lies at `out`, or in the first run's folder; `progress` is called with ('report', Path).

    Raises:
        UserError: a run was not evaluated, or they were not asked and judged alike.
    """
    first, place = read_scores(one)
    second, there = read_scores(other)
    found = comparison.compare_scores([first], [second])
    page = Path(out) if out is not None else place.comparison(Path(os.path.realpath(there.folder)).name)
    folders = {id(first): place.folder, id(second): there.folder}
    write_page(comparison_page(found, lambda scores: folders[id(scores)]), page)
    progress("report", page)
    return found


def calibrate(
    folders: Sequence[str | Path], *, base: str = EMBEDDED, identity: str | None = None, clip: str | None = None, device: str = "auto"
) -> tuple[list[Calibration], Judges]:
    """Score real photos against each other, a row for each folder, by the encoders that judge pictures of a base; with those encoders.

    Raises:
        UserError: a folder has no usable photo, or an encoder cannot be used.
    """
    photos = [read_photos([Path(folder)]).photos for folder in folders]
    judges = judges_for(base, identity, clip, choose_device(device, BY_OPTION))
    return [calibrate_photos(str(folder), some, judges) for folder, some in zip(folders, photos, strict=True)], judges
