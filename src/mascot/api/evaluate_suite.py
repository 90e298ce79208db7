"""TODO api.evaluate_suite."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mascot.api.evaluate import evaluate
from mascot.api.train import train_on_pooled_base
from mascot.evaluation.metrics.default_encoders import load_encoders
from mascot.evaluation.scores import Scores
from mascot.experiments import suite
from mascot.experiments.base_pool import base_pool
from mascot.experiments.executors import make_executor
from mascot.experiments.subject_collection import CollectionSubject, read_collection
from mascot.experiments.suite import EvaluationRequest, SuiteFolder, SuiteRun, SuiteScores, Variant, plan_runs
from mascot.experiments.suite_page import suite_page
from mascot.generation.loading import DEVICE_REMEDY
from mascot.methods.registry import DEFAULT
from mascot.models.devices import choose_device
from mascot.models.starter import EMBEDDED
from mascot.progress import FileWritten, OnEvent, ignore
from mascot.recipe.recipe import Recipe
from mascot.reports.page import write_page
from mascot.storage.atomic_write import check_writable
from mascot.storage.run_folder import Run


def evaluate_suite(
    folder: str | Path, *, out: str | Path, methods: Sequence[str] = (DEFAULT,), subjects: Sequence[str] = (), prompts: int | None = None,
    images: int = 4, seed: int = 0, base: str = EMBEDDED, overrides: Sequence[str] = (), identity: str | None = None,
    clip: str | None = None, device: str = "auto", engine: str = "local", address: str | None = None, on_event: OnEvent = ignore,
) -> SuiteScores:  # fmt: skip
    """Teach a base every subject of a collection by each method, draw and score the collection's prompts; the paper's protocol.

    `folder` is laid out as google/dreambooth is (see `mascot.collection`). `subjects`, `prompts` (so many of each list) and `images` cut it
    down. Recipes are the base's presets with `overrides` and `seed`; pictures are judged as `evaluate` judges them. Everything lies in
    `out`, which a later call goes on with: `suite.json`, `suite.html` and each run's folder.

    Raises:
        UserError: the collection, a method, an override, the base or an encoder cannot be used, or nothing could be scored.
    """
    collection = read_collection(Path(folder)).cut(subjects=subjects, prompts=prompts)
    variants = [
        Variant(name=method, recipe=partial(recipe_for, method=method, base=base, seed=seed, overrides=overrides))
        for method in methods
    ]
    lists = {live: collection.prompts.for_subject(live=live) for live in (False, True)}
    suite_runs = plan_runs(collection.subjects, variants, prompts=lists, images=images, seed=seed)
    return evaluate_runs(
        suite_runs,
        out=out,
        base=base,
        identity=identity,
        clip=clip,
        device=device,
        engine=engine,
        address=address,
        on_event=on_event,
    )


def recipe_for(subject: CollectionSubject, *, method: str, base: str, seed: int, overrides: Sequence[str]) -> Recipe:
    """What a subject of a collection is taught by; previews, which nobody would look at, are left out unless asked for."""
    return Recipe.preset(
        base=base, photos=(str(subject.photos),), class_noun=subject.class_noun, seed=seed,
        overrides=["previews.every=0", f"method.name={json.dumps(method)}", *overrides],
    )  # fmt: skip


def evaluate_runs(
    suite_runs: Sequence[SuiteRun], *, out: str | Path, base: str = EMBEDDED, identity: str | None = None, clip: str | None = None,
    device: str = "auto", engine: str = "local", address: str | None = None, on_event: OnEvent = ignore,
) -> SuiteScores:  # fmt: skip
    """Train, draw and score the cells of a suite, and write its page; see `evaluate_suite`."""
    place = SuiteFolder(Path(out))
    check_writable(place.folder)
    encoders = load_encoders(base, identity, clip, choose_device(device, DEVICE_REMEDY))

    def score_run(run: Run, request: EvaluationRequest) -> Scores:
        with base_pool().lend(Recipe.read(run.recipe)) as family:
            return evaluate(
                run, prompts=request.templates, images=request.images, seed=request.seed, live=request.live, photos=[request.photos],
                identity=identity, clip=clip, device=device, family=family,
            )  # fmt: skip

    found = suite.run_suite(
        suite_runs,
        out=place.folder,
        train_run=train_on_pooled_base,
        score_run=score_run,
        encoders=encoders,
        engine=make_executor(engine, address),
        on_event=on_event,
    )
    write_page(suite_page(found, place), place.page)
    on_event(FileWritten(kind="report", path=place.page))
    return found
