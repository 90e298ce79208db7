"""Knob search: find the inference knobs with the best score, within a budget of images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mascot.adapters.sides import DENOISER, TEXT_ENCODERS, Sides
from mascot.evaluation.selection.criterion import MINIMUM_GAIN, ReferenceScores, SelectionScore, ValidationResult, score
from mascot.generation.knobs import Knobs

Measure = Callable[[Knobs, int], ValidationResult]
"""Generates a number of images at some knobs and measures them.

A larger number includes the images of a smaller one.
"""

MINIMUM_KNOB_GAIN = 0.02
"""Least gain over the recipe's own knobs for which others are recommended.

The best of a dozen settings is a little higher by chance alone.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobTrial:
    """One setting of the knobs that was tried."""

    knobs: Knobs
    images: int
    """Number of images that its last result was measured on."""
    result: ValidationResult
    score: SelectionScore


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobRecommendation:
    """The recommended knobs, and all settings that were tried."""

    knobs: Knobs
    trials: tuple[KnobTrial, ...]
    """All trials, the best first."""
    recipe_trial: KnobTrial
    """The trial of the recipe's own knobs, which reach the last round."""
    images: int
    """Number of images that the search generated."""

    @property
    def reason(self) -> str:
        """What is recommended, and how it compares with the recipe's own knobs, in one sentence."""
        best, own = self.trials[0], self.recipe_trial
        knobs, tried = (
            describe_searched_knobs(best.knobs),
            f"{len(self.trials)} settings tried with {self.images} images",
        )
        if len(self.trials) == 1:
            return f"{knobs}, as in the recipe: there were not enough images to try another setting."
        if best.knobs == own.knobs:
            comparison = f"none of {tried} has {MINIMUM_KNOB_GAIN:g} more"
            return f"{knobs}, as in the recipe: score {best.score.total:.2f}; {comparison}."
        comparison = f"where the recipe's own ({describe_searched_knobs(own.knobs)}) have {own.score.total:.2f}"
        return f"{knobs}: score {best.score.total:.2f}, {comparison}; the best of {tried}."


def describe_searched_knobs(knobs: Knobs) -> str:
    """Format the three knobs that are searched."""
    return f"guidance {knobs.guidance:g}, UNet scale {knobs.unet_scale:g}, text scale {knobs.text_scale:g}"


def knob_grid(knobs: Knobs, changed: Sides, *, embeds_guidance: bool = False) -> list[Knobs]:
    """Build a grid around some knobs, which come first: guidance x UNet scale x text scale.

    No two settings generate the same images. So a side of the base that the adapter does not change
    (see `changed`) has one scale, and knobs that generate without guidance keep it off.
    """
    guided = embeds_guidance or knobs.guidance not in {0, 1}
    grid = [
        knobs.model_copy(
            update={
                "guidance": min(100.0, round(knobs.guidance * factor, 2)),
                "unet_scale": unet,
                "text_scale": text,
            }
        )
        for factor in ((1.0, 0.6, 1.6) if guided else (1.0,))
        for unet in ((1.0, 0.85, 0.7) if DENOISER in changed else (knobs.unet_scale,))
        for text in ((1.0, 0.5) if TEXT_ENCODERS in changed else (knobs.text_scale,))
    ]
    return list(dict.fromkeys([knobs, *grid]))


def search_knobs(
    measure: Measure, references: ReferenceScores, grid: Sequence[Knobs], *, budget: int, first: int, last: int
) -> KnobRecommendation:
    """Search a grid by successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943).

    Every setting is measured on `first` images, the better third on twice as many, and so on up to
    `last`. The grid's first setting, the recipe's own, reaches the last round. Only as many
    settings start, from the grid's beginning, as the budget allows.

    Args:
        measure: Generates and measures images.
        references: Scores by which results are normalized.
        grid: The settings, the recipe's own first.
        budget: Most images that the search may generate.
        first: Images of each setting in the first round.
        last: Images of each setting in the last round.

    Raises:
        ValueError: there is no setting, or the budget does not hold `first` images of one.
    """
    alive = list(grid)[: starting_settings(len(grid), budget, first, last)]
    if not alive:
        raise ValueError("the budget does not hold one setting; give a larger one.")
    trials: dict[int, KnobTrial] = {}
    generated, count, previous = 0, first, 0
    while True:
        for knobs in alive:
            result = measure(knobs, count)
            trials[grid.index(knobs)] = KnobTrial(
                knobs=knobs, images=count, result=result, score=score(result, references)
            )
        generated += (count - previous) * len(alive)
        ranked = sorted(alive, key=lambda knobs: rank(trials[grid.index(knobs)], grid.index(knobs)))
        better = ranked[: math.ceil(len(alive) / 3)]
        alive = better if grid[0] in better else [*better, grid[0]]
        previous, count = count, min(last, 2 * count)
        if previous == last or (count - previous) * len(alive) > budget - generated:
            return recommend(trials, images=generated)


def recommend(trials: Mapping[int, KnobTrial], *, images: int) -> KnobRecommendation:
    """Recommend one of the trials of the last round; keys are indices in the grid.

    The recipe's own knobs (index 0) are left only for a gain of `MINIMUM_KNOB_GAIN`. Among others
    whose scores differ by less than `MINIMUM_GAIN`, the earliest in the grid is recommended.
    """
    most = max(trial.images for trial in trials.values())
    finalists = {index: trial for index, trial in trials.items() if trial.images == most}
    top = max(trial.score.total for trial in finalists.values())
    margins = {index: MINIMUM_GAIN if index else MINIMUM_KNOB_GAIN for index in finalists}
    best = finalists[min(index for index, trial in finalists.items() if trial.score.total >= top - margins[index])]
    ranked = sorted(trials.items(), key=lambda item: rank(item[1], item[0]))
    others = [trial for _, trial in ranked if trial is not best]
    return KnobRecommendation(knobs=best.knobs, trials=(best, *others), recipe_trial=trials[0], images=images)


def starting_settings(settings: int, budget: int, first: int, last: int) -> int:
    """Count the settings of a grid that a budget of images lets start."""
    fitting = [count for count in range(1, settings + 1) if most_images(count, first, last) <= budget]
    return max(fitting, default=budget // first)


def most_images(settings: int, first: int, last: int) -> int:
    """Count the images that a search over so many settings generates at most."""
    total, count = settings * first, first
    while count < last:
        settings = min(settings, math.ceil(settings / 3) + 1)
        total += (min(last, 2 * count) - count) * settings
        count = min(last, 2 * count)
    return total


def rank(trial: KnobTrial, index: int) -> tuple[int, float, int]:
    """Return a sort key: most images first, then the best score, then the grid's order."""
    return -trial.images, -trial.score.total, index
