"""Compare rules that choose a checkpoint and knobs, on held-out subjects of the embedded base.

    python benchmarks/selection.py --keep runs/selection

To check it in a minute, add `--subjects boar --steps 20 --fixed 10 --marks 2 --images 1 --prompts 2
--budget 10`. The rules are mascot's own, fixed steps, DVAR and the oracle. Each subject is trained
once, at a constant learning rate, so that every checkpoint equals the end of a run of so many
steps. Mascot's rule reads the validation prompts, DVAR the loss of a fixed batch. Each choice is
then scored on the 25 prompts of the report, which only the oracle may use to choose. Most of the
images are generated for the oracle: about 27 times the report's. An interrupted comparison resumes
with the same command.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).parent.parent))  # benchmarks are in the checkout alone, never installed

from benchmarks.paper_tables import SUBJECTS
from benchmarks.selection_rules import (
    LOWER_GUIDANCE,
    RULES,
    STUDY_KNOBS,
    Choice,
    ScoredChoice,
    best_of,
    dvar,
    even_marks,
    kept_from,
)
from benchmarks.selection_runs import SubjectRun
from benchmarks.selection_scores import CachedGenerator, ChoiceScorer
from mascot.adapters.sides import DENOISER, TEXT_ENCODERS
from mascot.evaluation.bootstrap import bootstrap, paired_bootstrap
from mascot.evaluation.metrics.default_encoders import load_encoders
from mascot.evaluation.selection.checkpoint_selection import CheckpointSelector
from mascot.evaluation.selection.knob_search import knob_grid, search_knobs
from mascot.evaluation.selection.validation import ROUNDS
from mascot.evaluation.selection.validation_set import SEED
from mascot.experiments.subject_collection import spread
from mascot.generation.prompts.prompt_sets import STARTER, STARTER_VALIDATION
from mascot.generation.sample_cache import SampleCache
from mascot.models import starter
from mascot.models.starter import HeldOutSubject
from mascot.recipe.recipe import Recipe
from mascot.runs.inputs import load_base

BOTH_SIDES = frozenset({DENOISER, TEXT_ENCODERS})
"""What a LoRA of the starter changes."""


def our_choices(scorer: ChoiceScorer, patience: int, budget: int) -> tuple[Choice, Choice, str]:
    """Choose by mascot's rule: the checkpoint with early stopping, then the knobs.

    Returns:
        The choice with the usual knobs, the choice with the searched knobs, and the reasons.
    """
    usual = scorer.usual_knobs
    selector = CheckpointSelector(references=scorer.references, patience=patience)
    for mark in scorer.run.marks:
        selector.add(mark, scorer.measure(Choice(step=mark, knobs=usual), len(scorer.prompts)))
        if selector.should_stop:
            break
    assert selector.best is not None, "there is a mark"
    step = selector.best.step
    found = search_knobs(
        lambda knobs, count: scorer.measure(Choice(step=step, knobs=knobs), count),
        scorer.references,
        knob_grid(usual, BOTH_SIDES),
        budget=budget,
        first=max(2, len(scorer.prompts) // 2),
        last=scorer.count,
    )
    reason = f"{selector.reason} Knobs: {len(found.trials)} settings with {found.images} images."
    return Choice(step=step, knobs=usual), Choice(step=step, knobs=found.knobs), reason


def choices_by_rule(
    validation: ChoiceScorer, *, fixed: int, window: int, threshold: float, patience: int, budget: int
) -> tuple[list[Choice], str]:
    """Let every rule except the oracle choose, in the order of `RULES`.

    Args:
        validation: scores choices on the validation prompts.
        fixed: step of the rules with fixed steps.
        window: steps in DVAR's window.
        threshold: DVAR's share of the variance.
        patience: checkpoints without a better one after which mascot's rule stops.
        budget: images that mascot's knob search may generate.

    Returns:
        The choices, and the reasons of DVAR and of mascot's rule.
    """
    run, usual = validation.run, validation.usual_knobs
    losses = run.read_losses(run.marks[-1])
    index = dvar([loss for _, loss in sorted(losses.items())], window=max(2, window // run.every), threshold=threshold)
    stopped = None if index is None else sorted(losses)[index]
    fixed_step = kept_from(fixed, run.marks)
    alone, ours, reason = our_choices(validation, patience, budget)
    choices = [
        Choice(step=fixed_step, knobs=usual.model_copy(update=dict(STUDY_KNOBS))),
        Choice(step=fixed_step, knobs=usual),
        Choice(step=fixed_step, knobs=usual.model_copy(update={"guidance": LOWER_GUIDANCE})),
        Choice(step=kept_from(stopped, run.marks), knobs=usual),
        alone,
        ours,
    ]
    when = "never" if stopped is None else f"at step {stopped}"
    return choices, f"DVAR stopped {when}; ours: {reason}"


def score_choices(report: ChoiceScorer, choices: Sequence[Choice]) -> dict[str, ScoredChoice]:
    """Score every rule's choice on the report's prompts, and let the oracle choose by these scores.

    The oracle chooses among all checkpoints with the usual knobs, then among the whole grid of
    knobs on the best of them, and among all choices of the rules. No rule can be better.
    """
    usual = report.usual_knobs
    scored = [report.score(choice) for choice in choices]
    alone = best_of([report.score(Choice(step=mark, knobs=usual)) for mark in report.run.marks])
    grid = [report.score(Choice(step=alone.choice.step, knobs=knobs)) for knobs in knob_grid(usual, BOTH_SIDES)]
    return dict(zip(RULES, [*scored, alone, best_of([alone, *grid, *scored])], strict=True))


def print_subject(name: str, found: Mapping[str, ScoredChoice]) -> None:
    """Print one subject's rows."""
    for rule, scored in found.items():
        knobs, result = scored.choice.knobs, scored.result
        searched = f"{knobs.guidance:g} / {knobs.unet_scale:g} / {knobs.text_scale:g}"
        numbers = [scored.score.total, result.likeness, result.prompt_fidelity, scored.score.copying]
        cells = [name, rule, str(scored.choice.step), searched, *(f"{number:.3f}" for number in numbers)]
        print(f"| {' | '.join(cells)} |", flush=True)


def print_means(rows: Sequence[Mapping[str, ScoredChoice]]) -> None:
    """Print each rule's mean over subjects and the difference of mascot's rule, with intervals."""
    print("\n| rule | score on the report's prompts | ours minus this, by subject |\n|---|---|---|")
    totals = {rule: [row[rule].score.total for row in rows] for rule in RULES}
    for rule, values in totals.items():
        mean, gap = bootstrap(values, seed=0), paired_bootstrap(totals["ours"], values, seed=0)
        assert mean is not None, "there is a subject"
        assert gap is not None, "there is a subject"
        print(f"| {rule} | {mean.describe()} | {'' if rule == 'ours' else gap.describe()} |")


def plan_run(held_out: HeldOutSubject, keep: Path, marks: tuple[int, ...], every: int) -> SubjectRun:
    """Plan a subject's run: the preset's recipe at a constant learning rate.

    So no checkpoint depends on where training ends.
    """
    settings = [f"training.steps={marks[-1]}", f"training.checkpoint_every={max(1, marks[-1] // 8)}"]
    settings += ["training.lr_schedule=constant", "previews.every=0"]
    settings += ["knobs.guidance=5", "token=sks"]  # fixed, so that later defaults do not change the tables
    photos = tuple(str(photo) for photo in held_out.photos)
    recipe = Recipe.preset(overrides=settings, photos=photos, class_noun=held_out.class_noun)
    return SubjectRun(held_out=held_out, recipe=recipe, folder=keep / held_out.name, marks=marks, every=every)


def main(  # noqa: PLR0917 - the command's options
    keep: Annotated[Path, typer.Option(help="Folder that keeps everything; the same command resumes from it.")],
    subjects: Annotated[str, typer.Option(help="Held-out subjects, separated by commas.")] = ",".join(SUBJECTS),
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 800,
    marks: Annotated[int, typer.Option(min=1, help="Number of checkpoints, at even distances.")] = 8,
    fixed: Annotated[int, typer.Option(min=1, help="Step of the rules with fixed steps.")] = 500,
    images: Annotated[int, typer.Option(min=1, help="Images of each prompt of the report.")] = 4,
    prompts: Annotated[int, typer.Option(min=2, help="Largest number of prompts of either list.")] = 25,
    budget: Annotated[int, typer.Option(min=10, help="Images that the knob search may generate.")] = 300,
    patience: Annotated[int, typer.Option(min=1, help="Ours: checkpoints in a row without a better one.")] = 3,
    window: Annotated[int, typer.Option(min=2, help="DVAR: steps; its authors' code has 200.")] = 200,
    threshold: Annotated[float, typer.Option(help="DVAR: share of the variance; its authors' code has 0.15.")] = 0.15,
    every: Annotated[int, typer.Option(min=1, help="DVAR: steps between two evaluations of the fixed batch.")] = 5,
) -> None:
    """Train each subject once, let each rule choose, and print the scores of the choices."""
    known, kept = starter.subjects(), even_marks(steps, marks, fixed)
    if unknown := [name for name in subjects.split(",") if name not in known]:
        raise typer.BadParameter(f"there is no subject {unknown[0]}; choose among {', '.join(known)}.")
    encoders, rows, notes = load_encoders("starter"), list[dict[str, ScoredChoice]](), list[str]()
    print(*(f"- {line}" for line in encoders.describe().values()), sep="\n")
    print(
        f"- kept steps {', '.join(map(str, kept))}; images of each report prompt: {images}; prompts at most: {prompts}"
    )
    print("\n| subject | rule | step | guidance / UNet / text | score | likeness | CLIP-T | copying |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name in subjects.split(","):
        run = plan_run(known[name], keep, kept, every)
        run.train()
        cache = SampleCache(keep / name / "gallery")
        generator = CachedGenerator(family=load_base(run.recipe), sample_cache=cache, encoders=encoders)
        lists = [spread(one.for_subject(live=known[name].live), prompts) for one in (STARTER_VALIDATION, STARTER)]
        validation = ChoiceScorer(generator=generator, run=run, prompts=lists[0], rounds=ROUNDS, seed=SEED)
        report = ChoiceScorer(generator=generator, run=run, prompts=lists[1], rounds=images, seed=0)
        options = {"fixed": fixed, "window": window, "patience": patience, "budget": budget}
        choices, reasons = choices_by_rule(validation, **options, threshold=threshold)
        rows.append(score_choices(report, choices))
        notes.append(f"- {name}: {reasons}")
        print_subject(name, rows[-1])
    print_means(rows)
    print("", *notes, sep="\n")


if __name__ == "__main__":
    typer.run(main)
