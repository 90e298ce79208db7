"""Scores in words: the tables that the terminal prints and the pages show. What cannot be computed is a dash, with its reason below."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from mascot.evaluation.bootstrap import Interval, bootstrap
from mascot.evaluation.comparison import Comparison, Difference
from mascot.evaluation.evaluator import Calibration
from mascot.evaluation.metrics.default_encoders import EncoderPair
from mascot.evaluation.scores import (
    METRICS,
    PER_PROMPT,
    REFERENCES,
    Scores,
    over_folds,
    over_prompts,
    over_subjects,
    titles,
)
from mascot.reports.table import NO_VALUE, Table, digits


def runs_table(scores: Sequence[Scores]) -> Table:
    """A row for each run, below them the mean, the real photos and the untouched base; reasons, encoders and remarks as notes."""
    rows = [(one.name, *(digits(one.values[name].value) for name in METRICS)) for one in scores]
    if len(scores) > 1:
        rows.append(("mean", *(digits(_mean(scores, name)) for name in METRICS)))
    for title, known in REFERENCES.items():
        rows.append((title, *(digits(_mean(scores, known[name]) if name in known else None) for name in METRICS)))
    return Table(
        title=f"{len(scores)} runs" if len(scores) > 1 else scores[0].subject,
        head=("run", *titles(scores).values()),
        rows=tuple(rows),
        notes=(*reasons(scores), *judged(scores), *remarks(scores)),
    )


def means_table(scores: Sequence[Scores]) -> Table:
    """The mean of each metric with its 95 % bootstrap interval: over the runs, or over the prompts of the one run that there is."""
    alone = len(scores) == 1
    rows: list[tuple[str, ...]] = []
    for name, metric in METRICS.items():
        if alone and name not in PER_PROMPT:
            continue
        interval = over_prompts(scores[0], name) if alone else over_subjects(scores, name)
        better, means = f"{metric.good} is good" if metric.good else "", metric.means
        if alone and name == "copying" and scores[0].folds:
            interval, means = (
                over_folds(scores[0], name),
                f"{means}; interval over the {len(scores[0].folds)} photos held out",
            )
        rows.append((titles(scores)[name], described(interval), better, means))
    over = (
        f"{len(scores[0].prompts)} prompts of one subject: says nothing of others"
        if alone
        else f"{len(scores)} subjects"
    )
    return Table(
        title=f"means, with 95 % intervals over {over}", head=("metric", "mean", "", "what it is"), rows=tuple(rows)
    )


def prompts_table(scores: Scores) -> Table:
    """A row for each prompt of a run, and the untouched base's own CLIP-T beside it."""
    names = [name for name in PER_PROMPT if any(name in prompt.values for prompt in scores.prompts)]
    named = titles([scores])
    with_base = any("base_clip_t" in prompt.values for prompt in scores.prompts)
    return Table(
        title="prompt by prompt",
        head=("prompt", *(named[name] for name in names), *(["CLIP-T of the base"] if with_base else [])),
        rows=tuple(
            (
                prompt.prompt,
                *(digits(prompt.values.get(name)) for name in names),
                *([digits(prompt.values.get("base_clip_t"))] if with_base else []),
            )
            for prompt in scores.prompts
        ),
    )


def folds_table(scores: Scores) -> Table:
    """A row for each photo that was held out of a run, and their means with 95 % intervals over the photos."""
    columns = {
        "likeness": "likeness to the others",
        "generalisation": "to the photo held out",
        "base_copying": "by the base",
    }
    columns |= {"copying": "copy", "nearest": "which is the nearest"}
    if any(fold.base_copying is None for fold in scores.folds):
        del columns["base_copying"]
    rows = [(fold.photo, *(digits(getattr(fold, name)) for name in columns)) for fold in scores.folds]
    rows.append(("mean", *(described(over_folds(scores, name)) for name in columns)))
    less = ", less the same of the untouched base's pictures (by the base)" if "base_copying" in columns else ""
    return Table(
        title=f"{scores.name}: photos held out in turn",
        head=("without", *columns.values()),
        rows=tuple(rows),
        notes=(
            f"{titles([scores])['identity']} of one picture of each prompt, by a run that learned from the others",
            f"copy: likeness to the others less likeness to the photo held out{less}",
            "which is the nearest: share of the pictures that are nearer to the photo held out than to any other; low is copying",
        ),
    )


def comparison_table(comparison: Comparison) -> Table:
    """A row for each metric: both means, their difference with its interval, and whether the two may be called different."""
    names = tuple(" + ".join(one.name for one in side) for side in (comparison.ones, comparison.others))
    named = titles([*comparison.ones, *comparison.others])
    over = f"{len(comparison.ones)} subjects"
    if comparison.rows == "prompts":
        over = f"{len(comparison.ones[0].prompts)} prompts of one subject: says nothing of others"
    return Table(
        title=f"{names[0]} minus {names[1]}, with 95 % intervals over {over}",
        head=("metric", *names, "difference", ""),
        rows=tuple(
            (named[name], digits(found.one), digits(found.other), described(found.interval), verdict(name, found))
            for name, found in comparison.differences.items()
        ),
        notes=(
            *(f"{named[name]}: {found.reason}" for name, found in comparison.differences.items() if found.reason),
            *judged(comparison.ones),
            *(f"{one.name}: {turned(one)}, {seeded(one)}" for one in (*comparison.ones, *comparison.others)),
        ),
    )


def verdict(name: str, found: Difference) -> str:
    """Say which is better where the interval of the difference leaves out 0, and that none is where it does not."""
    if found.interval is None or found.interval.low is None:
        return ""
    if not found.interval.nonzero:
        return "no difference that could be told"
    good = METRICS[name].good
    first = (found.interval.mean > 0) == (good == "high")
    return "differs" if not good else f"the {'first' if first else 'second'} is better"


def calibration_table(rows: Sequence[Calibration], encoders: EncoderPair) -> Table:
    """Real photos against each other, a row for each folder, and their mean with its interval over the folders."""
    names = ("identity", "clip_i")
    lines = [(row.name, f"{row.photos}", *(digits(row.values[name].value) for name in names)) for row in rows]
    if len(rows) > 1:
        known = {name: [value for row in rows if (value := row.values[name].value) is not None] for name in names}
        lines.append(("mean", "", *(described(bootstrap(known[name], seed=0)) for name in names)))
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


def described(interval: Interval | None) -> str:
    """Write a mean and its interval."""
    return NO_VALUE if interval is None else interval.describe()


def reasons(scores: Sequence[Scores]) -> list[str]:
    """Why numbers are missing, or what is to be said of them."""
    named = titles(scores)
    return _once(
        [
            (f"{named[name]}: {one.values[name].reason}", one)
            for one in scores
            for name in METRICS
            if one.values[name].reason
        ],
        scores,
    )


def judged(scores: Sequence[Scores]) -> list[str]:
    """The encoders, each with its weights and preprocessing in a line."""
    return _once([(f"{name}: {line}", one) for one in scores for name, line in one.encoders.items()], scores)


def remarks(scores: Sequence[Scores]) -> list[str]:
    """What else has to be known, and the knobs and seeds."""
    return _once([(line, one) for one in scores for line in (*one.notes, f"{turned(one)}, {seeded(one)}")], scores)


def seeded(scores: Scores) -> str:
    """The seeds of each prompt's pictures."""
    last = scores.seed + scores.images - 1
    return f"seeds {scores.seed} to {last}" if last > scores.seed else f"seed {scores.seed}"


def turned(scores: Scores) -> str:
    """Where the knobs stood."""
    knobs = scores.knobs
    negative = f", without {knobs.negative!r}" if knobs.negative else ""
    return (
        f"guidance {knobs.guidance:g}, unet scale {knobs.unet_scale:g}, text scale {knobs.text_scale:g}, {knobs.steps} steps of "
        f"{knobs.solver}, {knobs.width}x{knobs.height} px{negative}"
    )


def _once(said: Sequence[tuple[str, Scores]], scores: Sequence[Scores]) -> list[str]:
    """Each sentence once, with the runs that it is of where it is not of all."""
    runs: dict[str, dict[str, None]] = {}
    for sentence, one in said:
        runs.setdefault(sentence, {})[one.name] = None
    everyone = len({one.name for one in scores})
    return [
        sentence if len(names) == everyone else f"{sentence} ({', '.join(names)})" for sentence, names in runs.items()
    ]


def _mean(scores: Sequence[Scores], name: str) -> float | None:
    values = [value for one in scores if (value := one.values[name].value) is not None]
    return fmean(values) if values else None
