"""Reproduce the paper's tables on held-out subjects of the embedded base.

    python benchmarks/paper_tables.py T1 --keep runs/paper

The tables are methods (T1), prior preservation (T3), the class noun (T4) and the number of photos
(T5); `all` makes all of them. To check it in minutes, add `--subjects boar,eagle --steps 20
--prompts 3 --images 1`. An interrupted call resumes with the same command. Two processes may share
the work by `--subjects`; the last call, over all subjects, prints the tables. The paper's numbers
are from Ruiz et al. 2023, tables 1, 3, 4 and 5.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer

from mascot.api.experiments.evaluate_suite import evaluate_runs
from mascot.evaluation.bootstrap import paired_bootstrap
from mascot.evaluation.score_tables import format_interval
from mascot.evaluation.scores import METRICS
from mascot.experiments.subject_collection import CollectionSubject, spread
from mascot.experiments.suite import SuiteScores, Variant, plan_runs
from mascot.experiments.suite_page import markdown, other_table, paper_table
from mascot.generation.prompts.prompt_sets import STARTER
from mascot.models import starter
from mascot.models.starter import HeldOutSubject
from mascot.progress import Event, RunFinished
from mascot.recipe.recipe import Recipe
from mascot.reports.table import Table

SUBJECTS = (
    "service_dog",
    "koala",
    "eagle",
    "t_rex",
    "blowfish",
    "mammoth",
    "boar",
    "alien",
    "hibiscus",
    "palm_tree",
    "mantelpiece_clock",
    "hiking_boot",
)
"""The held-out subjects that were not used for any decision before the tables.

The presets' guidance scale came out of these tables, hence `FIXED`.
"""
METHODS = {
    "DreamBooth": "dreambooth",
    "LoRA": "lora",
    "pivotal tuning": "pivotal",
    "Textual Inversion": "textual-inversion",
}
TOKEN = "sks"  # noqa: S105 - an identifier token, no secret
"""Fixed, so that the tables do not depend on the token that mascot chooses for users."""
MOST_PHOTOS = 5
FEW_STEPS = 100
"""Steps of the 96 runs of T4 and T5.

They have no prior preservation either: without a noun there is no class to preserve.
"""
FIXED = ("previews.every=0", "selection.active=false", "knobs.guidance=5.0")
"""Fixed steps and knobs in every row: this compares training; `selection.py` compares selection."""
WITHOUT_PRIOR = ("prior.weight=0.0", "prior.count=0")

COLUMNS = {
    "T1": ("identity", "clip_i", "clip_t", "diversity", "drift", "nearest"),
    "T3": ("preservation", "drift", "diversity", "identity", "clip_i", "clip_t"),
    "T4": ("identity", "clip_i", "base_identity"),
    "T5": ("identity", "clip_i", "clip_t", "copying"),
}
HEADS = {name: metric.title for name, metric in METRICS.items()} | {
    "base_identity": "identity of the base model, with that noun"
}
PAPER_NOTES = {
    "T3": "paper (Imagen, 15 subjects): with prior PRES .493, DIV .391, DINO .684, CLIP-T .308; "
    "without .664, .371, .712, .306",
    "T4": "paper (Imagen, 5 subjects): DINO with the correct noun .744, none .303, wrong .454",
    "T5": "paper: DINO with 1 to 5 photos .494 .515 .596 .604 .597 (backpack) and .798 .851 .871 .876 .864 (dog)",
}
TITLES = {
    "T1": "T1: methods",
    "T3": "T3: prior preservation",
    "T4": "T4: the class noun (LoRA without prior preservation)",
    "T5": "T5: the number of photos (LoRA without prior preservation)",
}


def variant(
    name: str,
    *overrides: str,
    photos: int | None = None,
    noun: Callable[[CollectionSubject], str | None] = lambda subject: subject.class_noun,
) -> Variant:
    """Make one row of a table: the preset with some changes, for every subject.

    Args:
        name: heading of the row.
        overrides: settings that differ from the preset.
        photos: number of training photos, the first ones; by default all.
        noun: returns the class noun of a subject.
    """

    def recipe(subject: CollectionSubject) -> Recipe:
        files = tuple(map(str, starter.subjects()[subject.name].photos))[:photos]
        return Recipe.preset(overrides=[*FIXED, *overrides], photos=files, class_noun=noun(subject), token=TOKEN)

    return Variant(name=name, recipe=recipe)


def wrong_noun(subject: CollectionSubject) -> str:
    """Choose another subject's class noun, decided by the subject's name."""
    nouns = sorted({other.class_noun for other in starter.subjects().values()} - {subject.class_noun})
    return random.Random(subject.name).choice(nouns)


def variants_of(table: str, steps: int | None) -> list[Variant]:
    """Return the rows of a table; `steps` shortens every run."""
    few = f"training.steps={steps or FEW_STEPS}"
    shorter = () if steps is None else (few, "training.warmup_steps=2")
    dreambooth = ("method.name=dreambooth", *shorter)
    if table == "T1":
        return [variant(name, f"method.name={method}", *shorter) for name, method in METHODS.items()]
    if table == "T3":
        bare = variant("DreamBooth without prior", *dreambooth, *WITHOUT_PRIOR)
        return [variant("DreamBooth", *dreambooth), bare]
    short = (*shorter, few, *WITHOUT_PRIOR)
    if table == "T4":
        none, wrong = variant("no noun", *short, noun=lambda _: None), variant("wrong noun", *short, noun=wrong_noun)
        return [variant("correct noun", *short), wrong, none]
    return [
        variant("1 photo" if count == 1 else f"{count} photos", *short, photos=count)
        for count in range(1, MOST_PHOTOS + 1)
    ]


def collection_subject(held_out: HeldOutSubject) -> CollectionSubject:
    """Turn a held-out subject into one of a collection."""
    folder = held_out.photos[0].parent
    return CollectionSubject(name=held_out.name, class_noun=held_out.class_noun, live=held_out.live, photos=folder)


def means(table: str, suite: SuiteScores) -> Table:
    """Make a table with a row for each variant: means over the subjects, with intervals."""
    names = COLUMNS[table]
    rows = tuple((one, *(format_interval(suite.mean(one, name)) for name in names)) for one in suite.variants)
    steps = " or ".join(map(str, sorted({suite_run.recipe.training.steps for suite_run in suite.suite_runs})))
    return Table(
        title=f"{TITLES[table]}, {steps} steps",
        head=("", *(HEADS[name] for name in names)),
        rows=rows,
        notes=(PAPER_NOTES[table],),
    )


def differences(table: str, suite: SuiteScores) -> Table:
    """Make a table of each variant minus the next, paired by subject."""
    rows: list[tuple[str, ...]] = []
    for one, other in pairwise(suite.variants):
        for name in COLUMNS[table]:
            pairs = [
                (a.values[name].value, b.values[name].value)
                for a, b in zip(suite.of(one), suite.of(other), strict=True)
            ]
            known = [(a, b) for a, b in pairs if a is not None and b is not None]
            found = paired_bootstrap([a for a, _ in known], [b for _, b in known], seed=0)
            if found is not None:
                verdict = "differs" if found.nonzero else "no significant difference"
                rows.append((f"{one} - {other}", HEADS[name], format_interval(found), verdict))
    return Table(title="differences, paired by subject", head=("", "metric", "difference", ""), rows=tuple(rows))


def print_table(table: Table) -> None:
    """Print a table as Markdown."""
    print(f"\n**{table.title}**\n\n{markdown(table)}\n")
    print("\n".join(f"- {note}" for note in table.notes), flush=True)


def print_event(event: Event) -> None:
    """Print to stderr which run has ended, and why it failed if it did."""
    if isinstance(event, RunFinished):
        print(f"{event.name}: {event.failure}" if event.failure else event.name, file=sys.stderr, flush=True)


def main(  # noqa: PLR0917 - typer's options
    table: Annotated[str, typer.Argument(help="T1, T3, T4, T5 or all.")],
    subjects: Annotated[str, typer.Option(help="Held-out subjects, separated by commas.")] = ",".join(SUBJECTS),
    keep: Annotated[Path, typer.Option(help="Folder of the runs, from which a later call resumes.")] = Path(
        "runs/paper"
    ),
    prompts: Annotated[int, typer.Option(min=1, help="Largest number of prompts of the report.")] = 25,
    images: Annotated[int, typer.Option(min=1, help="Images of each prompt.")] = 4,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps of every run, if not the preset's.")] = None,
) -> None:
    """Train and score what a table needs, and print it with intervals over the subjects."""
    known = starter.subjects()
    if unknown := [name for name in subjects.split(",") if name not in known]:
        raise typer.BadParameter(f"there is no subject {unknown[0]}; choose among {', '.join(known)}.")
    lists = {live: spread(STARTER.for_subject(live=live), prompts) for live in (False, True)}
    chosen = [collection_subject(known[subject]) for subject in subjects.split(",")]
    for name in TITLES if table == "all" else [table]:
        runs = plan_runs(chosen, variants_of(name, steps), prompts=lists, images=images, seed=0)
        suite = evaluate_runs(runs, out=keep, on_event=print_event)
        for one in (paper_table(suite), other_table(suite)) if name == "T1" else (means(name, suite),):
            print_table(one)
        print_table(differences(name, suite))


if __name__ == "__main__":
    typer.run(main)
