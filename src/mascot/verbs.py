"""What the command line, the studio and Python users share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from PIL.Image import Image
from pydantic import ValidationError

from mascot import comparison
from mascot.adapter import Adapter
from mascot.bases import bases_of_this_process
from mascot.captions import fill
from mascot.choosing import Choosing, rows_of, with_knobs
from mascot.comparison import Comparison
from mascot.effective import TIME, Checkup, check_up, effective_settings
from mascot.engines import engine_named
from mascot.errors import UserError, suggest
from mascot.evaluation import Calibration, Referee, measure
from mascot.evaluation import calibrate as calibrate_photos
from mascot.families import load_family
from mascot.generator import Generator, Knobs, Shot, settings_text, write_picture
from mascot.grids import sweep_knobs
from mascot.judges import EMBEDDED, Judges, judges_for
from mascot.leaderboard import Leaderboard, measured
from mascot.metrics.cutout import open_segmenter
from mascot.metrics.diversity import open_distance
from mascot.outcome import write_outcome
from mascot.personalization import Personalization, choose_device, load_base, photo_hashes, read_subject
from mascot.photos import read_photos
from mascot.points import Choices
from mascot.prompts import KNOBS_PROMPT
from mascot.protocols import Family
from mascot.recipe import Recipe
from mascot.run import Run, fresh_path, is_writable, open_run
from mascot.scores import METRICS, Scores
from mascot.scores_report import comparison_page, scores_page, write_page
from mascot.subject import Subject
from mascot.sweep import sweep as sweep_recipes
from mascot.task import Task, draw, prompts_for, trained_photos
from mascot.trainer import Step

Progress = Callable[[str, Any], None]
"""Told what is going on: a phase's name and its facts."""


def silent(phase: str, facts: Any = None) -> None:
    """Tell nobody."""
    del phase, facts


def train(
    recipe: Recipe, *, out: str | Path | None = None, resume: bool = False, progress: Progress = silent, report: bool = True,
    family: Family | None = None,
) -> Run:  # fmt: skip
    """Teach a base one subject and write the adapter and its report.

    `out` is the run's folder, by default a new one under `runs/`. With `resume` a run that was stopped goes on exactly: its
    adapter has the same bytes as if it had never stopped. `progress` is called with ('photos', PhotoSet), ('effective', rows),
    ('prior', count), ('steps', how many there will be), ('choosing', how many pictures it draws at most), ('step', Step),
    ('chosen', why), ('report', Path). `family` is the recipe's base where it is loaded already; it comes back as it was.

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
        job = Personalization(recipe=recipe, run=run, photos=photos, family=family or load_base(recipe))
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
        learn(job, choosing, progress)
        chosen = choosing.settle()
        progress("chosen", chosen)
        rows += [("checkpoint", chosen), *job.write_companions()]
        adapter = job.adapter()
        job.detach()
        generator = Generator(job.family, adapter)
        recommendation = choosing.recommend(generator)
        adapter = with_knobs(adapter, recommendation)
        adapter.write(run.adapter)
        rows += rows_of(recommendation)
        if report:
            write_outcome(job, adapter, generator, rows)
            progress("report", run.report)
        for worn in generator.worn:
            if worn is not None:
                worn.remove()
    return run


def learn(job: Personalization, choosing: Choosing, progress: Progress) -> None:
    """Train to the end, or until it has stopped paying."""
    if not choosing.begin():
        with closing(job.teach()) as steps:
            for step in steps:
                progress("step", step)
                if choosing.after(step.number):
                    break
    job.finish()


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
    """The knobs that were measured to be best, else those of the run's recipe."""
    manifest = adapter.manifest
    try:
        return Knobs.model_validate(manifest.knobs or manifest.recipe.get("knobs", {})) if manifest else Knobs()
    except ValidationError as error:
        raise UserError("the adapter's own knobs cannot be read: it was written by another version of mascot; update mascot.") from error


def plan_shots(adapter: Adapter, prompts: Sequence[str], *, count: int, seed: int) -> list[Shot]:
    """Fill the prompts and give picture k of every prompt the seed `seed + k`."""
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


def evaluate(
    where: str | Path | Run, *, prompts: Sequence[str] | None = None, images: int = 4, seed: int = 0, identity: str | None = None,
    clip: str | None = None, device: str = "auto", live: bool | None = None, photos: Sequence[str | Path] = (), base: str | None = None,
    progress: Progress = silent,
) -> Scores:  # fmt: skip
    """Draw the report's prompts with a trained adapter and score the pictures; writes `scores.json` and `scores.html` beside it.

    `identity` and `clip` name encoders (see `judges_for`). Likeness is measured on the photos that the run learned from, or on `photos`;
    those of them that it did not learn from are held out, which the copy score needs. Pictures are kept: a call that was cut off, or one
    with other encoders, draws only what is missing. `progress` is called with ('drawing', count), ('picture', file), ('measuring', count)
    and ('report', Path).

    Raises:
        UserError: the adapter, its base, the photos, the encoders or the prompts cannot be used.
    """
    adapter, path = resolve_adapter(where)
    place = scores_place(path)
    task = set_task(
        adapter, path, name=str(where.folder if isinstance(where, Run) else where), prompts=prompts, images=images, seed=seed, live=live,
        photos=photos, base=base,
    )  # fmt: skip
    judges = judges_for(task.base, identity, clip, choose_device(device))
    referee = Referee(judges=judges, distance=open_distance(judges.identity), segmenter=open_segmenter())
    generator, _, _ = open_generator(path, base=base, device=device)
    drawn = draw(task, generator, adapter=path, folder=place.evaluation, told=progress)
    progress("measuring", len(drawn.taught.files))
    scores = measure(task, drawn, referee, generator=generator, folder=place.folder)
    scores.write(place.scores)
    write_page(scores_page(scores, place.folder, drawn.untouched.files), place.scores_page)
    progress("report", place.scores_page)
    return scores


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
        UserError: it is no run, or was not evaluated yet.
    """
    path = where.folder if isinstance(where, Run) else Path(where)
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
    found = comparison.compare([first], [second])
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
    judges = judges_for(base, identity, clip, choose_device(device))
    return [calibrate_photos(str(folder), some, judges) for folder, some in zip(folders, photos, strict=True)], judges


def doctor(recipe: Recipe, *, measure: bool = True) -> Checkup:
    """Say what training would use and what it would cost, without training; `measure` loads the base and times a few steps."""
    photos = read_subject(recipe.model_copy(update={"prior": recipe.prior.model_copy(update={"count": 0})}))
    return check_up(recipe, photos, measure=measure)


def sweep(
    recipe: Recipe | Mapping[str, Any], over: Mapping[str, Choices], *, out: str | Path, by: str = "identity", trials: int | None = None,
    images: int = 1, prompt: str = KNOBS_PROMPT, engine: str = "local", address: str | None = None, progress: Progress = silent,
) -> Leaderboard:  # fmt: skip
    """Train and evaluate a recipe over some settings, and rank the runs by one metric; what was done is never done again.

    `over` has dotted keys (see `parse_over`); `by` is a metric of `evaluate`, which draws `images` of each prompt. With `trials` so many
    settings are searched instead of all. `engine` is local or ray, the latter with the `address` of a cluster or on this machine.

    Raises:
        UserError: see `mascot.sweep.sweep`.
    """
    if by not in METRICS:
        raise UserError(f"unknown metric {by!r}{suggest(by, METRICS)}")
    lent = bases_of_this_process()

    def teach(point: Recipe, folder: Path) -> Run:
        with lent.lend(point) as family:
            return train(point, out=folder, resume=Run(folder).recipe.exists(), report=False, family=family)

    def draw_one(run: Run, shot: Shot, path: Path) -> None:
        generator, adapter, name = open_generator(run)
        knobs = generator.settle(usual_knobs(adapter))
        [shot] = plan_shots(adapter, [shot.prompt], count=1, seed=shot.seed)  # by what this run calls its subject
        picture = next(generator.draw([shot], knobs))
        write_picture(picture, path, settings_text(shot, knobs, generator.size(knobs), name, run.folder.name))

    return sweep_recipes(
        recipe, over, out=Path(out), run_one=teach, score=lambda run: measured(evaluate(run, images=images)), by=by,
        lowest=METRICS[by].good == "low", judges=f"{images} pictures of each prompt", trials=trials, shot=Shot(prompt, 0),
        draw=draw_one, engine=engine_named(engine, address), progress=progress,
    )  # fmt: skip


def turn_knobs(where: str | Path | Run, over: Mapping[str, Sequence[Any]], *, out: str | Path, prompt: str = KNOBS_PROMPT) -> Path:
    """Draw one prompt and seed with an adapter over up to three inference knobs, as one labelled grid; returns its file."""
    generator, adapter, name = open_generator(where)
    shot = plan_shots(adapter, [prompt], count=1, seed=0)[0]
    return sweep_knobs(
        generator, over, prompt=shot.prompt, knobs=usual_knobs(adapter), out=Path(out), base=name, adapter=Path(str(where)).name
    )


__all__ = [
    "Progress", "Scores", "Step", "calibrate", "compare", "doctor", "evaluate", "generate", "open_generator", "plan_shots", "read_scores",
    "resolve_adapter", "sweep", "train", "turn_knobs", "usual_knobs",
]  # fmt: skip
