"""Compare the scores of two runs: images of one prompt and one seed form pairs.

Paired differences cancel what both runs share, such as a hard prompt or a lucky seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mascot.errors import UserError
from mascot.evaluation.bootstrap import Interval, paired_bootstrap
from mascot.evaluation.scores import METRICS, PER_PROMPT, Scores

_SEED = 0  # of the bootstraps: the same scores always have the same interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One metric of both sides, and the difference `one` - `other`."""

    one: float | None
    other: float | None
    interval: Interval | None
    """Interval of the difference; None where a side has no value."""
    reason: str = ""
    """Why there is no difference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Differences between two runs, or between two groups of runs on the same subjects."""

    ones: tuple[Scores, ...]
    others: tuple[Scores, ...]
    rows: Literal["prompts", "subjects"]
    """The rows of the intervals: subjects, or the prompts where there is one subject."""
    differences: Mapping[str, Difference]
    """Metric to difference."""


def compare_scores(ones: Sequence[Scores], others: Sequence[Scores]) -> Comparison:
    """Subtract the others' scores from the ones', pair by pair, with bootstrap intervals.

    Run i of both is the same subject. With several subjects each subject is a row. With one subject
    each prompt is a row, and the interval covers other prompts, not other subjects. Metrics that no
    single prompt has (PRES) have no interval then.

    Raises:
        UserError: the numbers of runs differ, or two runs of a pair were not evaluated alike; it
            names what differs.
    """
    if len(ones) != len(others) or not ones:
        raise UserError(f"{len(ones)} and {len(others)} runs are not pairs; give two runs of each subject.")
    for one, other in zip(ones, others, strict=True):
        check_comparable(one, other)
    by_prompt = len(ones) == 1
    differences = {
        name: _difference_over_prompts(ones[0], others[0], name)
        if by_prompt and name in PER_PROMPT
        else _difference_over_subjects(ones, others, name)
        for name in METRICS
    }
    if by_prompt and ones[0].folds and others[0].folds:
        differences["copying"] = _difference_over_folds(ones[0], others[0])
    return Comparison(
        ones=tuple(ones),
        others=tuple(others),
        rows="prompts" if by_prompt else "subjects",
        differences=differences,
    )


def check_comparable(one: Scores, other: Scores) -> None:
    """Refuse two runs that were evaluated under different conditions.

    Raises:
        UserError: prompts, seeds, images of each prompt, class noun, photos or encoders differ; it
            names which, and how.
    """
    conditions: dict[str, list[object]] = {
        "prompts": [tuple(prompt.template for prompt in scores.prompts) for scores in (one, other)],
        "first seeds": [scores.seed for scores in (one, other)],
        "images of each prompt": [scores.images for scores in (one, other)],
        "class nouns": [scores.class_noun for scores in (one, other)],
        "photos to compare with": [tuple(sorted(scores.photos)) for scores in (one, other)],
        **{f"encoders of {name}": [scores.encoders.get(name) for scores in (one, other)] for name in one.encoders},
    }
    differing = [f"{name} ({_contrast(*values)})" for name, values in conditions.items() if values[0] != values[1]]
    if differing:
        raise UserError(
            f"{one.name} and {other.name} cannot be compared, as they differ in {' and in '.join(differing)}; "
            "run `mascot evaluate` on both with the same options (and --photos, where their training photos differ)."
        )


def _contrast(one: object, other: object) -> str:
    """Describe in short how two values differ."""
    if not (isinstance(one, tuple) and isinstance(other, tuple)):
        return f"{one} and {other}"
    only = [item for item in (*one, *other) if item not in one or item not in other]
    return f"{len(one)} and {len(other)}, {f'such as {only[0]!r}' if only else 'in another order'}"


def _difference_over_prompts(one: Scores, other: Scores, name: str) -> Difference:
    """Compute the difference of one metric, paired by prompt."""
    pairs = zip(one.prompts, other.prompts, strict=True)
    known = [(a.values[name], b.values[name]) for a, b in pairs if name in a.values and name in b.values]
    interval = paired_bootstrap([a for a, _ in known], [b for _, b in known], seed=_SEED)
    return Difference(
        one=one.values[name].value,
        other=other.values[name].value,
        interval=interval,
        reason=_missing_reason([one, other], name, interval),
    )


def _difference_over_folds(one: Scores, other: Scores) -> Difference:
    """Compute the difference in copying, paired by the photos that both runs held out."""
    theirs = {fold.photo: fold.copying for fold in other.folds}
    known = [(fold.copying, theirs[fold.photo]) for fold in one.folds if fold.photo in theirs]
    interval = paired_bootstrap([a for a, _ in known], [b for _, b in known], seed=_SEED)
    reason = "" if known else "no photo was held out of both; give both the same --cross-validate"
    return Difference(
        one=one.values["copying"].value, other=other.values["copying"].value, interval=interval, reason=reason
    )


def _difference_over_subjects(ones: Sequence[Scores], others: Sequence[Scores], name: str) -> Difference:
    """Compute the difference of one metric, paired by subject."""
    known: list[tuple[float, float]] = []
    for one, other in zip(ones, others, strict=True):
        a, b = one.values[name].value, other.values[name].value
        if a is not None and b is not None:
            known.append((a, b))
    first, second = [a for a, _ in known], [b for _, b in known]
    interval = paired_bootstrap(first, second, seed=_SEED)
    return Difference(
        one=sum(first) / len(first) if first else None,
        other=sum(second) / len(second) if second else None,
        interval=interval,
        reason=_missing_reason([*ones, *others], name, interval),
    )


def _missing_reason(scores: Sequence[Scores], name: str, interval: Interval | None) -> str:
    """Join the runs' reasons for their missing values; empty where there is a difference."""
    if interval is not None:
        return ""
    return "; ".join(dict.fromkeys(one.values[name].reason for one in scores if one.values[name].value is None))
