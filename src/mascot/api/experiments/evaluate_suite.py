"""`evaluate_suite`: train and score every subject of a collection by several methods."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mascot.api.evaluate import evaluate
from mascot.api.train import train_on_pooled_base
from mascot.evaluation.metrics.default_encoders import load_encoders, named_encoders
from mascot.evaluation.scores import Scores
from mascot.experiments.base_pool import base_pool
from mascot.experiments.executors import make_executor
from mascot.experiments.subject_collection import CollectionSubject, read_collection
from mascot.experiments.suite import (
    EvaluationRequest,
    SuiteFolder,
    SuiteJob,
    SuiteRun,
    SuiteScores,
    Variant,
    plan_runs,
    run_suite,
)
from mascot.experiments.suite_page import suite_page
from mascot.generation.loading import DEVICE_REMEDY
from mascot.methods.registry import DEFAULT
from mascot.models.devices import choose_device
from mascot.models.starter import EMBEDDED
from mascot.progress import Event, FileWritten, OnEvent, PromptRead, PromptTruncated, ignore
from mascot.recipe.overrides import parse_overrides
from mascot.recipe.recipe import Recipe
from mascot.recipe.unused_settings import check_given_once, check_undiagnosed, check_used, flatten
from mascot.reports.page import write_page
from mascot.storage.atomic_write import check_writable
from mascot.storage.run_folder import Run


def evaluate_suite(
    folder: str | Path,
    *,
    out: str | Path,
    methods: Sequence[str] = (DEFAULT,),
    subjects: Sequence[str] = (),
    prompts: int | None = None,
    images: int = 4,
    seed: int = 0,
    base: str = EMBEDDED,
    overrides: Sequence[str] = (),
    identity: str | None = None,
    clip: str | None = None,
    device: str = "auto",
    engine: str = "local",
    address: str | None = None,
    on_event: OnEvent = ignore,
) -> SuiteScores:
    """Train a base on every subject of a collection by each method, and score each run.

    This is the protocol of DreamBooth (Ruiz et al. 2023). `folder` has the layout of
    google/dreambooth (see `subject_collection`). `subjects` and `prompts` (of each list) select a
    part of it. Recipes are the base's presets with `overrides` and `seed`. See `evaluate_runs` for
    `out` and the events.

    Raises:
        UserError: the collection, a setting, the base or an encoder cannot be used, or no run is
            scored.
    """
    collection = read_collection(Path(folder)).select(subjects=subjects, prompts=prompts)
    make_recipe = partial(suite_recipe, base=base, seed=seed, overrides=overrides)
    variants = [Variant(name=method, recipe=partial(make_recipe, method=method)) for method in methods]
    lists = {live: collection.prompts.for_subject(live=live) for live in (False, True)}
    runs = plan_runs(collection.subjects, variants, prompts=lists, images=images, seed=seed)
    encoders = {"identity": identity, "clip": clip}
    check_used([run.recipe for run in runs], overrides=parse_overrides(overrides))
    return evaluate_runs(
        runs, out=out, base=base, **encoders, device=device, engine=engine, address=address, on_event=on_event
    )


def suite_recipe(subject: CollectionSubject, *, method: str, base: str, seed: int, overrides: Sequence[str]) -> Recipe:
    """Build the recipe of one subject and method; previews are off unless overridden."""
    given = parse_overrides(overrides)
    check_given_once(
        given, {"base": "--base", "seed": "--seed", "method.name": "--methods", "photos": "the collection"}
    )
    check_undiagnosed(dict(flatten(given)), "suite")
    return Recipe.preset(
        base=base,
        photos=(str(subject.photos),),
        class_noun=subject.class_noun,
        seed=seed,
        overrides=["previews.every=0", f"method.name={json.dumps(method)}", *overrides],
    )


def evaluate_runs(
    runs: Sequence[SuiteRun],
    *,
    out: str | Path,
    base: str = EMBEDDED,
    identity: str | None = None,
    clip: str | None = None,
    device: str = "auto",
    engine: str = "local",
    address: str | None = None,
    on_event: OnEvent = ignore,
) -> SuiteScores:
    """Train and score the planned runs of a suite, and write its page.

    `out` gets `suite.json`, `suite.html` and a folder for each run. Called again, an interrupted
    suite goes on. `engine` is `local` or `ray`; `address` is that of a Ray cluster.
    Events: `RunsPlanned`, `PromptTruncated`, `RunFinished`, `FileWritten`.

    Raises:
        UserError: the folder, the base or an encoder cannot be used, or no run could be scored.
    """
    files = SuiteFolder(Path(out))
    check_writable(files.folder)
    names = named_encoders(runs[0].recipe.model_dump(), identity, clip)
    encoders = load_encoders(base, **names, device=choose_device(device, DEVICE_REMEDY))
    job = SuiteJob(
        files=files,
        train_run=train_on_pooled_base,
        score_run=partial(score_suite_run, **names, device=device, on_event=notes_of(on_event, engine)),
        encoders=encoders.describe(),
    )
    suite = run_suite(runs, job, executor=make_executor(engine, address), on_event=on_event)
    write_page(suite_page(suite, files), files.page)
    on_event(FileWritten(kind="report", path=files.page))
    return suite


def score_suite_run(
    run: Run,
    request: EvaluationRequest,
    *,
    identity: str | None,
    clip: str | None,
    device: str,
    on_event: OnEvent = ignore,
) -> Scores:
    """Evaluate one run of a suite on a base from this process's pool."""
    with base_pool().lend(Recipe.read(run.recipe)) as family:
        return evaluate(
            run,
            prompts=request.templates,
            images=request.images,
            seed=request.seed,
            live=request.live,
            photos=[request.photos],
            identity=identity,
            clip=clip,
            device=device,
            family=family,
            on_event=on_event,
        )


def notes_of(on_event: OnEvent, engine: str) -> OnEvent:
    """Pass on how prompts are read, and no other event of a run; nothing from a cluster."""

    def forward(event: Event) -> None:
        if isinstance(event, PromptTruncated | PromptRead):
            on_event(event)

    return forward if engine == "local" else ignore
