"""What the command line, the studio and Python users share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from PIL.Image import Image
from pydantic import ValidationError

from mascot.adapter import Adapter
from mascot.captions import fill
from mascot.effective import TIME, Checkup, check_up, effective_settings
from mascot.errors import UserError
from mascot.families import load_family
from mascot.generator import Generator, Knobs, Shot
from mascot.outcome import write_outcome
from mascot.personalization import Personalization, choose_device, load_base, photo_hashes, read_subject
from mascot.recipe import Recipe
from mascot.run import Run, fresh_path, is_writable, open_run
from mascot.trainer import Step

Progress = Callable[[str, Any], None]
"""Told what is going on: a phase's name and its facts."""


def silent(phase: str, facts: Any = None) -> None:
    """Tell nobody."""
    del phase, facts


def train(recipe: Recipe, *, out: str | Path | None = None, resume: bool = False, progress: Progress = silent, report: bool = True) -> Run:
    """Teach a base one subject and write the adapter and its report.

    `out` is the run's folder, by default a new one under `runs/`. With `resume` a run that was stopped goes on exactly: its
    adapter has the same bytes as if it had never stopped. `progress` is called with ('photos', PhotoSet), ('effective', rows),
    ('prior', count), ('steps', how many there will be), ('step', Step), ('report', Path).

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
        job = Personalization(recipe=recipe, run=run, photos=photos, family=load_base(recipe))
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
        with closing(job.teach()) as steps:
            for step in steps:
                progress("step", step)
        rows += job.write()
        if report:
            write_outcome(job, rows)
            progress("report", run.report)
    return run


def prepare_run(folder: Path, recipe: Recipe, *, resume: bool) -> Run:
    """Decide whether a folder may be trained into."""
    if not is_writable(folder):
        raise UserError(f"{folder} cannot be written; give another --out.")
    run = Run(folder)
    if resume:
        before = Recipe.read(open_run(folder).recipe)
        if before != recipe:
            raise UserError(f"{folder} was started with another recipe; resume it without other options, or start a new --out.")
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


def resolve_adapter(where: str | Path | Run) -> tuple[Adapter, Path]:
    """Read the adapter of a run or of a file."""
    path = where.adapter if isinstance(where, Run) else Path(where)
    if path.is_dir():
        run = open_run(path)
        if not run.adapter.exists():
            raise UserError(f"{path} is not trained to the end; finish it with `mascot train --resume --out {path}`.")
        path = run.adapter
    return Adapter.read(path), path


def open_generator(where: str | Path | Run, *, base: str | None = None, device: str = "auto") -> tuple[Generator, Adapter, str]:
    """Load an adapter and the base that it names, or the one given; returns the generator, the adapter and the base's name."""
    adapter, path = resolve_adapter(where)
    if base is None and adapter.manifest is None:
        raise UserError(f"{path} does not say which base it is for; give --base.")
    name = base or (adapter.manifest.base if adapter.manifest else "")
    chosen = choose_device(device)
    recipe = adapter.manifest.recipe if adapter.manifest else {}
    precision = "fp32" if chosen == "cpu" else recipe.get("precision", "bf16")
    return Generator(load_family(name, device=chosen, precision=precision), adapter), adapter, name


def usual_knobs(adapter: Adapter) -> Knobs:
    """The knobs that the run's recipe holds."""
    try:
        return Knobs.model_validate(adapter.manifest.recipe.get("knobs", {})) if adapter.manifest else Knobs()
    except ValidationError as error:
        raise UserError("the adapter's own knobs cannot be read: it was written by another version of mascot; update mascot.") from error


def plan_shots(adapter: Adapter, prompts: Sequence[str], *, count: int, seed: int) -> list[Shot]:
    """Fill the prompts and give picture k of every prompt the seed `seed + k`."""
    from mascot.subject import Subject

    manifest = adapter.manifest
    if manifest is None and any("{" in prompt for prompt in prompts):
        raise UserError("this adapter does not say what its subject is called; write the token into the prompt instead of {subject}.")
    subject = Subject(token=manifest.token, class_noun=manifest.class_noun) if manifest else None
    filled = [fill(prompt, subject) if subject else prompt for prompt in prompts]
    return [Shot(prompt, seed + k) for prompt in filled for k in range(count)]


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


__all__ = ["Progress", "Step", "doctor", "generate", "open_generator", "plan_shots", "resolve_adapter", "train", "usual_knobs"]
