"""Tables of scores, for the terminal and for pages.

A number that cannot be computed is a dash, and a note below the table gives the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from mascot.evaluation.bootstrap import Interval, bootstrap
from mascot.evaluation.comparison import Comparison, Difference
from mascot.evaluation.evaluator import Calibration
from mascot.evaluation.metrics.default_encoders import EncoderPair
from mascot.evaluation.metrics.subject_leakage import PRESENT
from mascot.evaluation.scores import (
    METRICS,
    PER_PROMPT,
    REFERENCES,
    JointScores,
    Scores,
    over_folds,
    over_prompts,
    over_subjects,
    titles,
)
from mascot.reports.table import NO_VALUE, Table, format_score

LEAKAGE_NOTES = (
    "leakage: 0 as near to the other's photos as the base model's images of the class or the subject's own photos are; "
    "1 as near as those photos are to each other\n"
    "cosine to the other's photos: of the images, of the base model's, of the subject's photos, of those photos\n"
    "like the other: share of the images that are nearer to the other's photos than to the subject's, and at least "
    "halfway to them"
).splitlines()
"""Definitions below the table of leakage."""

TOGETHER_NOTES = (
    "least present: presence of the subject that an image shows least, by upright strips of one subject each; 0 as "
    "photos of another subject, 1 as its own photos\n"
    f"all shown: share of the images where that is {PRESENT:g} or more; subjects that overlap, stand above each other "
    "or are small are missed, and a mixture of them counts in part"
).splitlines()
"""Definitions below the table of images of all subjects, with their limits."""


def runs_table(scores: Sequence[Scores]) -> Table:
    """Tabulate runs, a row each, then their mean, the real photos and the base model.

    A run of several subjects has a row for each, and one for their mean. Notes give the reasons for
    missing numbers, the encoders and the conditions of each run.
    """
    lines = [
        (part.name, part.values)
        for one in scores
        for part in (*one.each, *([one.model_copy(update={"name": f"{one.name}: mean"})] if one.subjects else []))
    ]
    rows = [(name, *(format_score(values[metric].value) for metric in METRICS)) for name, values in lines]
    parts = [part for one in scores for part in one.each]
    if len(scores) > 1:
        rows.append(("mean", *(format_score(_mean(scores, name)) for name in METRICS)))
    for title, known in REFERENCES.items():
        rows.append((title, *(format_score(_mean(scores, known[name]) if name in known else None) for name in METRICS)))
    return Table(
        title=f"{len(scores)} runs" if len(scores) > 1 else scores[0].subject,
        head=("run", *titles(scores).values()),
        rows=tuple(rows),
        notes=(*missing_notes(parts), *encoder_notes(scores), *run_notes(parts)),
    )


def subjects_tables(scores: Scores) -> tuple[Table, ...]:
    """Tabulate leakage between several subjects, and images of all; none where there is one."""
    if not scores.subjects:
        return ()
    return (leakage_table(scores), *([] if scores.together is None else [together_table(scores.together)]))


def leakage_table(scores: Scores) -> Table:
    """Tabulate how far images of each subject look like each other one, a row for each pair."""
    rows = tuple(
        (
            leak.subject,
            leak.other,
            _bounded(leak.value.value, leak.low, leak.high),
            *map(format_score, (leak.similarity, leak.base_similarity, leak.photo_similarity, leak.real_similarity)),
            NO_VALUE if leak.nearer is None else f"{leak.nearer:.0%}",
        )
        for leak in scores.leakage
    )
    return Table(
        title=f"{scores.name}: leakage between subjects, with 95 % intervals over prompts",
        head=("images of", "photos of", "leakage", "cosine", "base", "own photos", "those photos", "like the other"),
        rows=rows,
        notes=(
            *LEAKAGE_NOTES,
            *(
                f"{leak.subject} and photos of {leak.other}: {leak.value.reason}"
                for leak in scores.leakage
                if leak.value.reason
            ),
        ),
    )


def together_table(joint: JointScores) -> Table:
    """Tabulate the images that should show all subjects, by the run and by the base model."""
    rows: list[tuple[str, ...]] = []
    for title, prefix in (("this run", ""), ("base model", "base_")):
        present, shown, fidelity = (joint.values[f"{prefix}{name}"].value for name in ("present", "shown", "clip_t"))
        share = NO_VALUE if shown is None else f"{shown:.0%}"
        least = format_score(present) if prefix else _bounded(present, joint.low, joint.high)
        rows.append((title, least, share, format_score(fidelity)))
    reasons = dict.fromkeys(score.reason for score in joint.values.values() if score.reason)
    return Table(
        title=f"all subjects in one image, with 95 % intervals over prompts ({len(joint.prompts)})",
        head=("", "least present", "all shown", METRICS["clip_t"].title),
        rows=tuple(rows),
        notes=(
            *TOGETHER_NOTES,
            *reasons,
        ),
    )


def means_table(scores: Sequence[Scores]) -> Table:
    """Tabulate the mean of each metric with its 95 % bootstrap interval.

    Intervals are over the runs, or over the prompts where there is one run.
    """
    single = len(scores) == 1
    rows: list[tuple[str, ...]] = []
    for name, metric in METRICS.items():
        if single and name not in PER_PROMPT:
            continue
        interval, description = _mean_interval(scores, name), metric.description
        if single and name == "copying" and scores[0].folds:
            interval = over_folds(scores[0], name)
            description += f"; interval over the {len(scores[0].folds)} held-out photos"
        better = f"{metric.better}er is better" if metric.better else ""
        rows.append((titles(scores)[name], format_interval(interval), better, description))
    over = _over_prompts(scores[0]) if single else f"{len(scores)} subjects"
    return Table(
        title=f"means, with 95 % intervals over {over}", head=("metric", "mean", "", "definition"), rows=tuple(rows)
    )


def prompts_table(scores: Scores) -> Table:
    """Tabulate the prompts of a run, a row each, with the base model's own CLIP-T beside them."""
    names = [name for name in PER_PROMPT if any(name in prompt.values for prompt in scores.prompts)]
    title = titles([scores])
    with_base = any("base_clip_t" in prompt.values for prompt in scores.prompts)
    return Table(
        title="prompt by prompt",
        head=("prompt", *(title[name] for name in names), *(["CLIP-T of the base"] if with_base else [])),
        rows=tuple(
            (
                prompt.prompt,
                *(format_score(prompt.values.get(name)) for name in names),
                *([format_score(prompt.values.get("base_clip_t"))] if with_base else []),
            )
            for prompt in scores.prompts
        ),
    )


def folds_table(scores: Scores) -> Table:
    """Tabulate the held-out photos of a run, a row each, then their means with 95 % intervals."""
    columns = {
        "training_similarity": "to the training photos",
        "held_out_similarity": "to the held-out photo",
        "base_copying": "copy of the base",
        "copying": "copy",
        "held_out_share": "nearest to the held-out photo",
    }
    if any(fold.base_copying is None for fold in scores.folds):
        del columns["base_copying"]
    rows = [(fold.photo, *(format_score(getattr(fold, name)) for name in columns)) for fold in scores.folds]
    rows.append(("mean", *(format_interval(over_folds(scores, name)) for name in columns)))
    minus_base = ", minus the same of the base model's images" if "base_copying" in columns else ""
    return Table(
        title=f"{scores.name}: photos held out in turn",
        head=("without", *columns.values()),
        rows=tuple(rows),
        notes=(
            f"{titles([scores])['identity']} of one image of each prompt, by a run trained on the other photos",
            f"copy: similarity to the training photos minus similarity to the held-out photo{minus_base}",
            "nearest to the held-out photo: share of the images whose nearest photo it is; low values mean copying",
        ),
    )


def comparison_table(comparison: Comparison) -> Table:
    """Tabulate metrics, a row each: both means, their difference, its interval and a verdict."""
    names = tuple(" + ".join(one.name for one in side) for side in (comparison.ones, comparison.others))
    scores = (*comparison.ones, *comparison.others)
    title = titles(scores)
    by_prompt = comparison.rows == "prompts"
    over = _over_prompts(comparison.ones[0]) if by_prompt else f"{len(comparison.ones)} subjects"
    rows = tuple(
        (
            title[name],
            format_score(found.one),
            format_score(found.other),
            format_interval(found.interval),
            verdict(name, found),
        )
        for name, found in comparison.differences.items()
    )
    return Table(
        title=f"{names[0]} minus {names[1]}, with 95 % intervals over {over}",
        head=("metric", *names, "difference", ""),
        rows=rows,
        notes=(
            *(f"{title[name]}: {found.reason}" for name, found in comparison.differences.items() if found.reason),
            *encoder_notes(comparison.ones),
            *(f"{one.name}: {describe_knobs(one)}, {describe_seeds(one)}" for one in scores),
        ),
    )


def verdict(name: str, difference: Difference) -> str:
    """Say which side is better, if the interval of the difference excludes 0.

    The verdict is empty where there is no interval.
    """
    if difference.interval is None or difference.interval.low is None:
        return ""
    if not difference.interval.nonzero:
        return "no significant difference"
    better = METRICS[name].better
    first = (difference.interval.mean > 0) == (better == "high")
    return "differs" if not better else f"the {'first' if first else 'second'} is better"


def calibration_table(rows: Sequence[Calibration], encoders: EncoderPair) -> Table:
    """Tabulate the similarity among real photos, a row for each folder, then the mean."""
    names = ("identity", "clip_i")
    lines = [(row.name, f"{row.photos}", *(format_score(row.values[name].value) for name in names)) for row in rows]
    if len(rows) > 1:
        known = {name: [value for row in rows if (value := row.values[name].value) is not None] for name in names}
        lines.append(("mean", "", *(format_interval(bootstrap(known[name], seed=0)) for name in names)))
    dino = "dino" in encoders.identity.name.lower()
    return Table(
        title="real photos against each other",
        head=("photos of", "photos", "DINO" if dino else METRICS["identity"].title, METRICS["clip_i"].title),
        rows=tuple(lines),
        notes=(
            *dict.fromkeys(
                f"{row.name}: {row.values[name].reason}"
                for row in rows
                for name in names
                if row.values[name].value is None
            ),
            *(f"{name}: {line}" for name, line in encoders.describe().items()),
        ),
    )


def format_interval(interval: Interval | None) -> str:
    """Format a mean and its interval."""
    return NO_VALUE if interval is None else interval.describe()


def missing_notes(scores: Sequence[Scores]) -> list[str]:
    """List the reasons for missing numbers, and remarks on numbers."""
    title = titles(scores)
    return _deduplicate(
        [
            (f"{title[name]}: {one.values[name].reason}", one)
            for one in scores
            for name in METRICS
            if one.values[name].reason
        ],
        scores,
    )


def encoder_notes(scores: Sequence[Scores]) -> list[str]:
    """List the encoders, each with its weights and preprocessing in one line."""
    return _deduplicate([(f"{name}: {line}", one) for one in scores for name, line in one.encoders.items()], scores)


def run_notes(scores: Sequence[Scores]) -> list[str]:
    """List the conditions of the runs, with their knobs and seeds."""
    return _deduplicate(
        [(line, one) for one in scores for line in (*one.notes, f"{describe_knobs(one)}, {describe_seeds(one)}")],
        scores,
    )


def describe_seeds(scores: Scores) -> str:
    """Describe the seeds of each prompt's images."""
    last = scores.seed + scores.images - 1
    return f"seeds {scores.seed} to {last}" if last > scores.seed else f"seed {scores.seed}"


def describe_knobs(scores: Scores) -> str:
    """Describe the knobs of a run in one line."""
    knobs = scores.knobs
    negative = f", negative prompt {knobs.negative!r}" if knobs.negative else ""
    return (
        f"guidance scale {knobs.guidance:g}, unet scale {knobs.unet_scale:g}, text scale {knobs.text_scale:g}, "
        f"{knobs.steps} steps of {knobs.solver}, {knobs.width}x{knobs.height} px{negative}"
    )


def _bounded(mean: float | None, low: float | None, high: float | None) -> str:
    """Format a mean and its bounds."""
    return format_interval(None if mean is None else Interval(mean, low, high))


def _over_prompts(scores: Scores) -> str:
    """Say what an interval over the prompts of one run covers."""
    if scores.subjects:
        return f"{len(scores.prompts)} prompts of {len(scores.subjects)} subjects: they do not cover other subjects"
    return f"{len(scores.prompts)} prompts of one subject: they do not cover other subjects"


def _mean_interval(scores: Sequence[Scores], name: str) -> Interval | None:
    """Average a metric over the prompts of one run, or over several runs."""
    return over_prompts(scores[0], name) if len(scores) == 1 else over_subjects(scores, name)


def _deduplicate(notes: Sequence[tuple[str, Scores]], scores: Sequence[Scores]) -> list[str]:
    """Return each note once, with the names of its runs where it does not hold for all of them."""
    runs: dict[str, dict[str, None]] = {}
    for note, one in notes:
        runs.setdefault(note, {})[one.name] = None
    everyone = len({one.name for one in scores})
    return [note if len(names) == everyone else f"{note} ({', '.join(names)})" for note, names in runs.items()]


def _mean(scores: Sequence[Scores], name: str) -> float | None:
    """Average one number over the runs that have it; None where no run has it."""
    values = [value for one in scores if (value := one.values[name].value) is not None]
    return fmean(values) if values else None
