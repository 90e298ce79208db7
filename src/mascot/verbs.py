"""What the command line, the studio and Python users share."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from PIL.Image import Image

from mascot.api.doctor import Checkup, check_up
from mascot.data.encoding_cache import Encodings
from mascot.errors import UserError
from mascot.evaluation.diagnosis.findings import Diagnosis
from mascot.evaluation.scores import Scores
from mascot.evaluation.selection.token_choice import named
from mascot.evaluation.selection.validation import Choosing, with_knobs
from mascot.examination import calibrate, compare, diagnose, evaluate, read_scores
from mascot.generation.generator import Generator
from mascot.generation.knob_grid import sweep_knobs, turns
from mascot.generation.knobs import Knobs
from mascot.generation.loading import open_generator, plan_shots, resolve_adapter, usual_knobs
from mascot.generation.prompt_sets import KNOBS_PROMPT
from mascot.models.devices import choose_device
from mascot.outcome import write_outcome
from mascot.progress import Progress, silent
from mascot.protocols import Family
from mascot.recipe.recipe import Recipe
from mascot.runs.effective_settings import TIME, effective_settings
from mascot.runs.inputs import load_base, photo_hashes, read_subject
from mascot.runs.training_run import Personalization
from mascot.storage.atomic_write import check_writable, fresh_path, is_writable
from mascot.storage.run_folder import Run, open_run
from mascot.training.loop import Step


def train(
    recipe: Recipe, *, out: str | Path | None = None, resume: bool = False, progress: Progress = silent, report: bool = True,
    family: Family | None = None, encodings: Encodings | None = None, until: int | None = None,
) -> Run:  # fmt: skip
    """Teach a base one subject and write the adapter and its report.

    `out` is the run's folder, by default a new one under `runs/`. With `resume` a run that was stopped goes on exactly: its
    adapter has the same bytes as if it had never stopped. Where the recipe names no token, the base is asked for one (see `named`).
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
        recipe, why = named(Recipe.read(run.recipe) if resume else recipe, family, progress=progress)
        job = Personalization(recipe=recipe, run=run, photos=photos, family=family, encodings=encodings or Encodings(), why=why)
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
        choosing = Choosing.plan(job)
        progress("choosing", choosing.pictures)
        learn(job, choosing, progress, until)
        chosen = choosing.settle()
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
            write_outcome(job, adapter, generator, rows, examine(job, generator, progress))
            progress("report", run.report)
        generator.take_off()
    return run


def learn(job: Personalization, choosing: Choosing, progress: Progress, until: int | None = None) -> None:
    """Train to the end, until it has stopped paying, or until a step."""
    if not choosing.begin() and (until is None or job.loop.done < until):
        with closing(job.teach()) as steps:
            for step in steps:
                progress("step", step)
                if choosing.after(step.number) or step.number == until:
                    break
    job.finish()


def examine(job: Personalization, generator: Generator, progress: Progress) -> Diagnosis | str:
    """Say what ails the run whose adapter the generator wears, or why that is not known: training is worth having without."""
    recipe = job.recipe
    if not recipe.diagnose.active:
        return ""

    def tell(phase: str, facts: Any) -> None:
        if phase in {"drawing", "diagnosis"}:
            progress(phase, facts)

    try:
        return diagnose(
            job.run, identity=recipe.choose.identity, clip=recipe.choose.clip, device=recipe.device, generator=generator, progress=tell
        )
    except UserError as error:
        return f"Nothing could be looked for: {error}"


def prepare_run(folder: Path, recipe: Recipe, *, resume: bool) -> Run:
    """Decide whether a folder may be trained into."""
    check_writable(folder)
    run = Run(folder)
    if resume:
        before = Recipe.read(open_run(folder).recipe)
        if not recipe.fits(before):
            raise UserError(f"{folder} was started with another recipe; resume it without other options, or start a new --out.")
        choose_device(before.device, "resume it where there is one, or start a new --out with --set device=cpu")
    elif folder.exists() and not (folder.is_dir() and run.is_empty()):
        raise UserError(f"{folder} is not empty; give --resume to go on with that run, or another --out.")
    return run


def what_it_started_with(run: Run) -> dict[str, Any] | None:
    """Read the facts that a run wrote when it started, or None where it was stopped before that."""
    if not run.effective.exists():
        return None
    try:
        facts = json.loads(run.effective.read_text(encoding="utf-8"))
        return {"photos": facts["photos"], "base": facts["base"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{run.effective} is damaged; start a new --out.") from error


def check_same(run: Run, before: dict[str, Any] | None, what: str, now: Any) -> None:
    """Refuse to resume on other photos or another base than the run was started with."""
    if before is not None and before[what] != now:
        raise UserError(f"the {what} changed since {run.folder} was started; put back what was there, or start a new --out.")


def generate(
    where: str | Path | Run, prompts: Sequence[str], knobs: Knobs | None = None, *, count: int = 4, seed: int = 0, base: str | None = None
) -> list[Image]:
    """Draw prompts with a trained adapter, `count` pictures each, in order; `{subject}` stands for token and class noun.

    Raises:
        UserError: the adapter or its base cannot be read or do not fit together.
    """
    generator, adapter, _ = open_generator(where, base=base)
    return list(generator.draw(plan_shots(adapter, prompts, count=count, seed=seed), knobs or usual_knobs(adapter)))


def doctor(recipe: Recipe, *, measure: bool = True) -> Checkup:
    """Say what training would use and what it would cost, without training; `measure` loads the base and times a few steps."""
    photos = read_subject(recipe.model_copy(update={"prior": recipe.prior.model_copy(update={"count": 0})}))
    return check_up(recipe, photos, measure=measure)


def turn_knobs(where: str | Path | Run, over: Mapping[str, Sequence[Any]], *, out: str | Path, prompt: str = KNOBS_PROMPT) -> Path:
    """Draw one prompt and seed with an adapter over up to three inference knobs, as one labelled grid; returns its file."""
    adapter, _ = resolve_adapter(where)
    shot, knobs, target = plan_shots(adapter, [prompt], count=1, seed=0)[0], usual_knobs(adapter), Path(out)
    turns(over, prompt=shot.prompt, seed=shot.seed, knobs=knobs)  # mistakes are found before the base is loaded
    if target.is_dir() or not is_writable(target.parent):
        raise UserError(f"{target} cannot be written; give another --out, a file such as knobs.png.")
    generator, _, name = open_generator(where)
    return sweep_knobs(generator, over, prompt=shot.prompt, knobs=knobs, out=target, base=name, adapter=Path(str(where)).name)


__all__ = [
    "Progress", "Scores", "Step", "calibrate", "compare", "diagnose", "doctor", "evaluate", "generate", "open_generator", "plan_shots",
    "read_scores", "resolve_adapter", "train", "turn_knobs", "usual_knobs",
]  # fmt: skip
