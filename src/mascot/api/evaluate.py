"""`evaluate`: generate images with a trained adapter and score them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypedDict

from mascot.adapters.adapter_file import Adapter
from mascot.api.diagnose import diagnose_adapter, load_scorers, name_of, plan_diagnosis
from mascot.evaluation.diagnosis.diagnosis_page import diagnosis_section
from mascot.evaluation.evaluation_task import EvaluationTask, plan_task
from mascot.evaluation.evaluator import Scorers, compute_scores
from mascot.evaluation.samples import Samples, generate_samples
from mascot.evaluation.scores import Scores
from mascot.evaluation.scores_page import scores_page
from mascot.generation.generator import Generator
from mascot.generation.loading import open_generator, resolve_adapter
from mascot.models.families.registry import describe
from mascot.progress import FileWritten, OnEvent, ScoringStarted, ignore
from mascot.protocols import Family
from mascot.reports.page import Page, write_page
from mascot.storage.run_folder import Run, scores_folder

Refine = Callable[[EvaluationTask, Samples, Scorers, Scores], Scores]
"""Adds to scores before they are written; no base is held in memory meanwhile."""


def evaluate(
    run: str | Path | Run,
    *,
    prompts: Sequence[str] | None = None,
    images: int = 4,
    seed: int = 0,
    identity: str | None = None,
    clip: str | None = None,
    device: str = "auto",
    live: bool | None = None,
    photos: Sequence[str | Path] = (),
    base: str | None = None,
    family: Family | None = None,
    diagnosed: bool = False,
    refine: Refine | None = None,
    on_event: OnEvent = ignore,
) -> Scores:
    """Generate and score images of a run or an adapter file; writes `scores.json` and its page.

    `prompts` default to the report's; `identity` and `clip` name encoders, by default those of the
    run's recipe (see `load_encoders`).
    Likeness is to the training photos, or to `photos`: those not trained on count as held out.
    Cached images are used again. `family` is the loaded base, if any; it comes back unchanged.
    `diagnosed` adds a diagnosis to the page, unless the recipe has it off. See also `Refine`.
    Events: those of `diagnose`, and `ScoringStarted`.

    Raises:
        UserError: the adapter, its base, the photos, the encoders or the prompts cannot be used.
    """
    adapter, path = resolve_adapter(run)
    task = plan_task(
        adapter, path, name=name_of(run), prompts=prompts, images=images, seed=seed, live=live, photos=photos, base=base
    )
    scorers = load_scorers(task, adapter, identity=identity, clip=clip, device=device)
    load = partial(open_generator, path, base=base, device=device, family=family)
    planned = plan_diagnosis(adapter, path, name=task.name, photos=photos, base=base) if diagnosed else None
    scores, samples, page = score_adapter(task, adapter, path, load, scorers, diagnosis=planned, on_event=on_event)
    if refine is not None:
        scores = refine(task, samples, scorers, scores)
    return write_scores(scores, page, scores_folder(path), on_event)


class EvaluateOptions(TypedDict, total=False):
    """The options of `evaluate` that a command gives."""

    prompts: Sequence[str] | None
    images: int
    seed: int
    identity: str | None
    clip: str | None
    device: str
    live: bool | None
    photos: Sequence[str | Path]
    base: str | None
    diagnosed: bool


def check_evaluable(run: str | Path | Run, options: EvaluateOptions) -> None:
    """Check what evaluating a run would fail at, without loading its base.

    Raises:
        UserError: as `evaluate`.
    """
    adapter, path = resolve_adapter(run)
    task = plan_task(
        adapter,
        path,
        name=name_of(run),
        prompts=options.get("prompts"),
        images=options.get("images", 1),
        seed=0,
        live=None,
        photos=options.get("photos", ()),
        base=options.get("base"),
    )
    describe(task.base)
    load_scorers(task, adapter, identity=options.get("identity"), clip=options.get("clip"), device="cpu")


def score_adapter(
    task: EvaluationTask,
    adapter: Adapter,
    path: Path,
    load: Callable[[], tuple[Generator, Adapter, str]],
    scorers: Scorers,
    *,
    diagnosis: EvaluationTask | None,
    on_event: OnEvent,
) -> tuple[Scores, Samples, Page]:
    """Generate and score the images of a task; diagnose the run if that is planned.

    Returns the scores, the images and the page. A base that `load` loaded is free again.
    """
    files = scores_folder(path)
    generator, _, _ = load()
    samples = generate_samples(task, generator, adapter=path, folder=files.evaluation, on_event=on_event)
    on_event(ScoringStarted(images=len(samples.trained.files)))
    scores = compute_scores(task, samples, scorers, generator=generator, folder=files.folder)
    page = scores_page(scores, files.folder, samples.base.files)
    if diagnosis is not None and wants_diagnosis(adapter):
        found = diagnose_adapter(diagnosis, adapter, path, generator=generator, scorers=scorers, on_event=on_event)
        page = replace(page, sections=(page.sections[0], diagnosis_section(found, files.folder), *page.sections[1:]))
    generator.remove_adapter()
    return scores, samples, page


def wants_diagnosis(adapter: Adapter) -> bool:
    """Tell whether an adapter's recipe has diagnosis switched on."""
    settings = adapter.manifest.recipe.get("diagnosis", {}) if adapter.manifest else {}
    return bool(settings.get("active", True))


def write_scores(scores: Scores, page: Page, files: Run, on_event: OnEvent) -> Scores:
    """Write scores and their page, and return the scores."""
    scores.write(files.scores)
    write_page(page, files.scores_page)
    on_event(FileWritten(kind="report", path=files.scores_page))
    return scores
