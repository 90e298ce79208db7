"""TODO evaluation.selection.knob_search."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mascot.evaluation.selection.criterion import MINIMUM_GAIN, ReferenceScores, SelectionScore, ValidationResult, score
from mascot.generation.knobs import Knobs

Measure = Callable[[Knobs, int], "ValidationResult"]
"""Draws so many pictures at some knobs (a larger number contains the smaller's) and measures them."""


MINIMUM_KNOB_GAIN = 0.02
"""The least gain over the recipe's own knobs for which they are left: the best of a dozen settings is a little higher by chance alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobTrial:
    """One setting of the knobs that was tried."""

    knobs: Knobs
    count: int
    """Pictures that it was judged by in the end."""
    measured: ValidationResult
    score: SelectionScore


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobRecommendation:
    """The knobs to draw with, and all that were tried, the best first."""

    knobs: Knobs
    trials: tuple[KnobTrial, ...]
    usual: KnobTrial
    """The recipe's own knobs, which were judged to the end."""
    generated: int
    """Pictures that were drawn for it."""

    @property
    def reason(self) -> str:
        """What is recommended, and by how much it beats the recipe's own knobs, in one sentence."""
        best, tried = self.trials[0], f"{len(self.trials)} settings tried with {self.generated} pictures"
        if len(self.trials) == 1:
            return f"{describe_searched_knobs(best.knobs)}, as in the recipe: there were pictures to try no other."
        if best.knobs == self.usual.knobs:
            return f"{describe_searched_knobs(best.knobs)}, as in the recipe: score {best.score.total:.2f}; none of {tried} has {MINIMUM_KNOB_GAIN:g} more."
        usual = (
            f"where the recipe's own ({describe_searched_knobs(self.usual.knobs)}) have {self.usual.score.total:.2f}"
        )
        return f"{describe_searched_knobs(best.knobs)}: score {best.score.total:.2f}, {usual}; the best of {tried}."


def describe_searched_knobs(knobs: Knobs) -> str:
    """The three knobs that are searched, in words."""
    return f"guidance {knobs.guidance:g}, UNet scale {knobs.unet_scale:g}, text scale {knobs.text_scale:g}"


def knob_grid(usual: Knobs) -> list[Knobs]:
    """The study's three knobs around the usual ones, which come first: guidance x UNet scale x text-encoder scale."""
    grid = [
        usual.model_copy(update={"guidance": round(usual.guidance * times, 2), "unet_scale": unet, "text_scale": text})
        for times in (1.0, 0.6, 1.6)
        for unet in (1.0, 0.85, 0.7)
        for text in (1.0, 0.5)
    ]
    return [usual, *(knobs for knobs in grid if knobs != usual)]


def search_knobs(
    measure: Measure, references: ReferenceScores, grid: Sequence[Knobs], *, budget: int, first: int, last: int
) -> KnobRecommendation:
    """Search a grid by successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943), with at most `budget` pictures.

    Every setting is judged by `first` pictures, the better third by twice as many, and so on up to `last`; pictures are those of before
    and some more. The grid's first setting, the usual one, stays to the end: what is recommended instead has beaten it on all pictures.
    So many settings begin as the whole search has pictures for, from the grid's beginning. The usual setting is left for a gain of
    LEAVING alone; of others whose scores are not worth telling apart the earlier in the grid is taken.

    Raises:
        ValueError: there is no setting, or the budget does not hold `first` pictures of one.
    """
    fitting = [count for count in range(1, len(grid) + 1) if cost_of(count, first, last) <= budget]
    alive = list(grid)[: max(fitting, default=budget // first)]
    if not alive:
        raise ValueError("the budget does not hold one setting")
    tried: dict[int, KnobTrial] = {}
    generated, count, had = 0, first, 0
    while True:
        for knobs in alive:
            measured = measure(knobs, count)
            tried[grid.index(knobs)] = KnobTrial(
                knobs=knobs, count=count, measured=measured, score=score(measured, references)
            )
        generated += (count - had) * len(alive)
        ranked = sorted(alive, key=lambda knobs: order(tried[grid.index(knobs)], grid.index(knobs)))
        better = ranked[: math.ceil(len(alive) / 3)]
        alive = better if grid[0] in better else [*better, grid[0]]
        had, count = count, min(last, 2 * count)
        if had == last or (count - had) * len(alive) > budget - generated:
            break
    finalists = [(place, trial) for place, trial in tried.items() if trial.count == had]
    top = max(trial.score.total for _, trial in finalists)
    margins = {place: MINIMUM_GAIN if place else MINIMUM_KNOB_GAIN for place, _ in finalists}
    best = min((place, trial) for place, trial in finalists if trial.score.total >= top - margins[place])[1]
    others = [
        trial for _, trial in sorted(tried.items(), key=lambda item: order(item[1], item[0])) if trial is not best
    ]
    return KnobRecommendation(knobs=best.knobs, trials=(best, *others), usual=tried[0], generated=generated)


def cost_of(settings: int, first: int, last: int) -> int:
    """Pictures at most that a search over so many settings draws."""
    total, count = settings * first, first
    while count < last:
        settings = min(settings, math.ceil(settings / 3) + 1)
        total += (min(last, 2 * count) - count) * settings
        count = min(last, 2 * count)
    return total


def order(trial: KnobTrial, place: int) -> tuple[int, float, int]:
    """Sort the longest judged first, then the best, then the grid's order."""
    return -trial.count, -trial.score.total, place
