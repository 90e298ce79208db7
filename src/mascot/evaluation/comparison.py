"""Two runs against each other: pictures of one prompt and one seed are pairs, so that a hard prompt, or a lucky seed, cancels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mascot.errors import UserError
from mascot.evaluation.bootstrap import Interval, paired
from mascot.evaluation.scores import METRICS, PER_PROMPT, Scores

_SEED = 0  # of the bootstraps: the same scores always have the same interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One metric, of both and of one minus other."""

    one: float | None
    other: float | None
    interval: Interval | None
    """Of the difference; None where a side has no value."""
    reason: str = ""
    """Why there is no difference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What differs between two runs, or between two groups of runs on the same subjects."""

    ones: tuple[Scores, ...]
    others: tuple[Scores, ...]
    rows: Literal["prompts", "subjects"]
    """What the intervals are over: subjects, or the prompts of the one subject that there is."""
    differences: Mapping[str, Difference]
    """By metric."""


def compare_scores(ones: Sequence[Scores], others: Sequence[Scores]) -> Comparison:
    """Subtract the others' scores from the ones', pair by pair, with the bootstrap interval of each mean difference.

    Run i of both is the same subject. Over several subjects a row is a subject; with one subject a row is a prompt, and the interval says
    how far other prompts would move the difference, not other subjects. Numbers that no single prompt has (PRES) have no interval then.

    Raises:
        UserError: the numbers of runs differ, or a pair was not asked and judged alike; it names what differs.
    """
    if len(ones) != len(others) or not ones:
        raise UserError(f"{len(ones)} and {len(others)} runs are not pairs; give two runs of each subject.")
    for one, other in zip(ones, others, strict=True):
        check_alike(one, other)
    over_prompts = len(ones) == 1
    return Comparison(
        ones=tuple(ones),
        others=tuple(others),
        rows="prompts" if over_prompts else "subjects",
        differences={
            name: _of_prompts(ones[0], others[0], name)
            if over_prompts and name in PER_PROMPT
            else _of_subjects(ones, others, name)
            for name in METRICS
        }
        | ({"copying": _of_folds(ones[0], others[0])} if over_prompts and ones[0].folds and others[0].folds else {}),
    )


def check_alike(one: Scores, other: Scores) -> None:
    """Refuse two runs whose scores are not of the same questions.

    Raises:
        UserError: prompts, seeds, pictures of each prompt, class noun, photos or encoders differ; it names which, and how.
    """
    asked: dict[str, list[object]] = {
        "prompts": [tuple(prompt.template for prompt in scores.prompts) for scores in (one, other)],
        "first seeds": [scores.seed for scores in (one, other)],
        "pictures of each prompt": [scores.images for scores in (one, other)],
        "class nouns": [scores.class_noun for scores in (one, other)],
        "photos to compare with": [tuple(sorted(scores.photos)) for scores in (one, other)],
        **{f"encoders of {name}": [scores.encoders.get(name) for scores in (one, other)] for name in one.encoders},
    }
    differing = [f"{what} ({_contrast(*values)})" for what, values in asked.items() if values[0] != values[1]]
    if differing:
        raise UserError(
            f"{one.name} and {other.name} cannot be compared, as they differ in {' and in '.join(differing)}; "
            "run `mascot evaluate` on both with the same options (and --photos, where they learned from different ones)."
        )


def _contrast(one: object, other: object) -> str:
    """Two values that differ, in short."""
    if not (isinstance(one, tuple) and isinstance(other, tuple)):
        return f"{one} and {other}"
    only = [item for item in (*one, *other) if item not in one or item not in other]
    return f"{len(one)} and {len(other)}, {f'such as {only[0]!r}' if only else 'in another order'}"


def _of_prompts(one: Scores, other: Scores, name: str) -> Difference:
    pairs = zip(one.prompts, other.prompts, strict=True)
    known = [(a.values[name], b.values[name]) for a, b in pairs if name in a.values and name in b.values]
    interval = paired([a for a, _ in known], [b for _, b in known], seed=_SEED)
    return Difference(
        one=one.values[name].value,
        other=other.values[name].value,
        interval=interval,
        reason=_reason([one, other], name, interval),
    )


def _of_folds(one: Scores, other: Scores) -> Difference:
    """The difference in copying, over the photos that were held out of both."""
    theirs = {fold.photo: fold.copying for fold in other.folds}
    known = [(fold.copying, theirs[fold.photo]) for fold in one.folds if fold.photo in theirs]
    interval = paired([a for a, _ in known], [b for _, b in known], seed=_SEED)
    reason = "" if known else "no photo was held out of both; give both the same --cross-validate"
    return Difference(
        one=one.values["copying"].value, other=other.values["copying"].value, interval=interval, reason=reason
    )


def _of_subjects(ones: Sequence[Scores], others: Sequence[Scores], name: str) -> Difference:
    known: list[tuple[float, float]] = []
    for one, other in zip(ones, others, strict=True):
        a, b = one.values[name].value, other.values[name].value
        if a is not None and b is not None:
            known.append((a, b))
    first, second = [a for a, _ in known], [b for _, b in known]
    interval = paired(first, second, seed=_SEED)
    return Difference(
        one=sum(first) / len(first) if first else None,
        other=sum(second) / len(second) if second else None,
        interval=interval,
        reason=_reason([*ones, *others], name, interval),
    )


def _reason(scores: Sequence[Scores], name: str, interval: Interval | None) -> str:
    """Why there is no difference: what the runs say of their missing values."""
    if interval is not None:
        return ""
    return "; ".join(dict.fromkeys(one.values[name].reason for one in scores if one.values[name].value is None))
