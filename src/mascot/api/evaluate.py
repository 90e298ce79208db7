"""`evaluate`: generate images with a trained adapter and score them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypedDict

from mascot.adapters.adapter_file import Adapter
from mascot.api.diagnose import diagnose_adapter, load_scorers, name_of, plan_diagnosis
from mascot.evaluation.diagnosis.diagnosis_page import diagnosis_section
from mascot.evaluation.evaluation_task import EvaluationTask, plan_joint_task, plan_tasks
from mascot.evaluation.evaluator import Scorers, compute_joint_scores, compute_scores, leakage_between
from mascot.evaluation.samples import Samples, generate_samples
from mascot.evaluation.scores import Scores, join_scores
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
    run's recipe (see `load_encoders`). Of several subjects, the scores are means over them.
    Likeness is to the training photos, or to `photos`: those not trained on count as held out.
    Cached images are used again. `family` is the loaded base, if any; it comes back unchanged.
    `diagnosed` adds a diagnosis to the page, unless the recipe has it off. See also `Refine`.
    Events: those of `diagnose`, and `ScoringStarted`.

    Raises:
        UserError: the adapter, its base, the photos, the encoders or the prompts cannot be used.
    """
    adapter, path = resolve_adapter(run)
    tasks = plan_tasks(
        adapter, path, name=name_of(run), prompts=prompts, images=images, seed=seed, live=live, photos=photos, base=base
    )
    joint = plan_joint_task(tasks, prompts)
    scorers = load_scorers(tasks[0], adapter, identity=identity, clip=clip, device=device)
    load = partial(open_generator, path, base=base, device=device, family=family)
    planned = plan_diagnosis(adapter, path, name=tasks[0].name, photos=photos, base=base) if diagnosed else ()
    scored = score_adapter(tasks, adapter, path, load, scorers, joint=joint, diagnosis=planned, on_event=on_event)
    scores = refine(tasks[0], scored.samples, scorers, scored.scores) if refine else scored.scores
    return write_scores(scores, scored.page, scores_folder(path), on_event)


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
    tasks = plan_tasks(
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
    plan_joint_task(tasks, options.get("prompts"))
    describe(tasks[0].base)
    load_scorers(tasks[0], adapter, identity=options.get("identity"), clip=options.get("clip"), device="cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredAdapter:
    """The scores of an adapter, with the images of its first subject and the page."""

    scores: Scores
    samples: Samples
    page: Page


def score_adapter(
    tasks: Sequence[EvaluationTask],
    adapter: Adapter,
    path: Path,
    load: Callable[[], tuple[Generator, Adapter, str]],
    scorers: Scorers,
    *,
    joint: EvaluationTask | None,
    diagnosis: Sequence[EvaluationTask],
    on_event: OnEvent,
) -> ScoredAdapter:
    """Generate and score the images of each subject's task; diagnose the run if that is planned.

    `joint` has the images of all subjects together, if there are any. A base that `load` loaded is
    free again.
    """
    files = scores_folder(path)
    generator, _, _ = load()
    generate = partial(generate_samples, generator=generator, adapter=path, folder=files.evaluation, on_event=on_event)
    samples: list[Samples] = []
    parts: list[Scores] = []
    for task in tasks:
        samples.append(generate(task))
        on_event(ScoringStarted(images=len(samples[-1].trained.files)))
        parts.append(compute_scores(task, samples[-1], scorers, generator=generator, folder=files.folder))
    together = None if joint is None else compute_joint_scores(tasks, joint, generate(joint), scorers, files.folder)
    leakage = leakage_between(tasks, samples, scorers)
    scores = join_scores(parts, [str(task.subject.name) for task in tasks], leakage, together)
    base = [own.base.files for own in samples]
    page = scores_page(scores, files.folder, [file for own in base for file in own] if all(base) else ())
    if diagnosis and wants_diagnosis(adapter):
        found = diagnose_adapter(diagnosis, adapter, path, generator=generator, scorers=scorers, on_event=on_event)
        page = replace(page, sections=(page.sections[0], diagnosis_section(found, files.folder), *page.sections[1:]))
    generator.remove_adapter()
    return ScoredAdapter(scores=scores, samples=samples[0], page=page)


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
