"""What the command line, the studio and Python users share."""

from __future__ import annotations

import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

from mascot.api.diagnose import diagnose
from mascot.api.training_report import write_training_report
from mascot.data.encoding_cache import EncodingCache
from mascot.errors import UserError
from mascot.evaluation.diagnosis.findings import Diagnosis
from mascot.evaluation.selection.token_choice import choose_token
from mascot.evaluation.selection.validation import Validation, with_knobs
from mascot.experiments.base_pool import base_pool
from mascot.generation.generator import Generator
from mascot.progress import Progress, silent
from mascot.protocols import Family
from mascot.recipe.recipe import Recipe
from mascot.runs.effective_settings import TIME, effective_settings
from mascot.runs.inputs import load_base, photo_hashes, read_subject
from mascot.runs.resume import check_same, prepare_run, what_it_started_with
from mascot.runs.training_run import TrainingRun
from mascot.storage.atomic_write import fresh_path
from mascot.storage.run_folder import Run


def train_quietly(recipe: Recipe, folder: Path) -> Run:
    """Train, or go on, on a base that is lent from run to run, and write no report."""
    pool = base_pool()
    with pool.lend(recipe) as family:
        return train(recipe, out=folder, resume=Run(folder).recipe.exists(), report=False, family=family, encodings=pool.encodings)


def train(
    recipe: Recipe, *, out: str | Path | None = None, resume: bool = False, progress: Progress = silent, report: bool = True,
    family: Family | None = None, encodings: EncodingCache | None = None, until: int | None = None,
) -> Run:  # fmt: skip
    """Teach a base one subject and write the adapter and its report.

    `out` is the run's folder, by default a new one under `runs/`. With `resume` a run that was stopped goes on exactly: its
    adapter has the same bytes as if it had never stopped. Where the recipe names no token, the base is asked for one (see `choose_token`).
    `progress` is called with ('photos', PhotoSet), ('token', how many pictures are drawn to find one), ('effective', rows),
    ('prior', count), ('steps', how many there will be), ('choosing', how many pictures it draws at most), ('step', Step),
    ('chosen', why), ('knobs', which and why), ('drawing', how many pictures the diagnosis draws), ('diagnosis', Diagnosis),
    ('report', Path).
    `family` is the recipe's base where it is loaded already; it comes back as it was.
    `encodings` is what its encoders said in other runs, and takes what they say in this one. Training ends after the step `until`, where
    one is given, and what was learned by then is the result.

    Raises:
        UserError: anything the user can mend; nothing that was there is lost.
    """
    folder = Path(out) if out is not None else fresh_path(Path("runs"), Path(os.path.realpath(recipe.photos[0])).stem or "run")
    run = prepare_run(folder, recipe, resume=resume)
    photos = read_subject(recipe)
    progress("photos", photos)
    with run.locked():
        prepare_run(folder, recipe, resume=resume)  # again: another process may have used the folder in the meantime
        before = what_it_started_with(run) if resume else None
        check_same(run, before, "photos", photo_hashes(photos))
        family = family or load_base(recipe)
        recipe, why = choose_token(Recipe.read(run.recipe) if resume else recipe, family, progress=progress)
        job = TrainingRun(recipe=recipe, run=run, photos=photos, family=family, encodings=encodings or EncodingCache(), why=why)
        check_same(run, before, "base", job.family.identity)
        progress("prior", recipe.prior.count if recipe.prior.draws else 0)
        job.begin()
        progress("steps", job.steps)
        rows = effective_settings(job)
        if not resume:
            run.write_text(run.recipe, recipe.to_toml())
        if before is None:
            facts = {
                "settings": {name: value for name, value in rows if name != TIME},
                "photos": photo_hashes(photos),
                "base": job.family.identity,
            }
            run.write_text(run.effective, json.dumps(facts, indent=2) + "\n")
        progress("effective", rows)
        choosing = Validation.plan(job)
        progress("choosing", choosing.images)
        learn(job, choosing, progress, until)
        chosen = choosing.with_defaults()
        progress("chosen", chosen)
        rows += [("checkpoint", chosen), *job.write_companions()]
        adapter = job.adapter()
        job.detach()
        generator = Generator(job.family, adapter)
        recommendation = choosing.recommend(generator)
        adapter = with_knobs(adapter, recommendation)
        adapter.write(run.adapter)
        if recommendation is not None:
            progress("knobs", recommendation.reason)
            rows.append(("knobs", recommendation.reason))
        if report:
            write_training_report(job, adapter, generator, rows, examine(job, generator, progress))
            progress("report", run.report)
        generator.remove_adapter()
    return run


def learn(job: TrainingRun, choosing: Validation, progress: Progress, until: int | None = None) -> None:
    """Train to the end, until it has stopped paying, or until a step."""
    if not choosing.begin() and (until is None or job.loop.done < until):
        with closing(job.train_run()) as steps:
            for step in steps:
                progress("step", step)
                if choosing.after(step.number) or step.number == until:
                    break
    job.finish()


def examine(job: TrainingRun, generator: Generator, progress: Progress) -> Diagnosis | str:
    """Say what ails the run whose adapter the generator wears, or why that is not known: training is worth having without."""
    recipe = job.recipe
    if not recipe.diagnosis.active:
        return ""

    def tell(phase: str, facts: Any) -> None:
        if phase in {"drawing", "diagnosis"}:
            progress(phase, facts)

    try:
        return diagnose(
            job.run,
            identity=recipe.selection.identity,
            clip=recipe.selection.clip,
            device=recipe.device,
            generator=generator,
            progress=tell,
        )
    except UserError as error:
        return f"Nothing could be looked for: {error}"
