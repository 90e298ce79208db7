"""Laws of the knob search: it finds the best setting, within its budget, or keeps the recipe's."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mascot.adapters.sides import DENOISER, TEXT_ENCODERS
from mascot.evaluation.selection.criterion import ValidationResult
from mascot.evaluation.selection.knob_search import MINIMUM_KNOB_GAIN, knob_grid, search_knobs
from mascot.generation.knobs import Knobs
from tiny.validation_results import REFERENCES, result_with_score

BOTH = frozenset({DENOISER, TEXT_ENCODERS})
OWN = Knobs(guidance=5.0, steps=25)
"""The recipe's own knobs."""


class Landscape:
    """Known scores of knobs, measured with noise that falls with the number of images."""

    def __init__(self, truth: Callable[[Knobs], float], noise: float = 0.0) -> None:
        self.truth, self.noise = truth, noise
        self.calls: list[tuple[Knobs, int]] = []

    def __call__(self, knobs: Knobs, count: int) -> ValidationResult:
        self.calls.append((knobs, count))
        error = random.Random(f"{knobs} {count}").gauss(0, self.noise / math.sqrt(count))
        return result_with_score(min(1.0, max(0.0, self.truth(knobs) + error)))

    @property
    def images(self) -> int:
        """Number of images, where a larger number includes the smaller one's."""
        return sum({knobs.model_dump_json(): count for knobs, count in self.calls}.values())


def peak_at(best: Knobs) -> Callable[[Knobs], float]:
    """A score that falls with the distance from some knobs."""
    return lambda knobs: (
        0.8
        - 0.03 * abs(knobs.guidance - best.guidance)
        - abs(knobs.unet_scale - best.unet_scale)
        - abs(knobs.text_scale - best.text_scale)
    )


@pytest.mark.parametrize("index", range(0, 18, 3))
def test_the_search_finds_a_planted_optimum(index: int) -> None:
    best = knob_grid(OWN, BOTH)[index]
    landscape = Landscape(peak_at(best), noise=0.1)
    found = search_knobs(landscape, REFERENCES, knob_grid(OWN, BOTH), budget=200, first=5, last=20)
    assert found.knobs == best
    assert found.trials[0].knobs == best


@given(
    budget=st.integers(5, 400),
    first=st.integers(1, 5),
    rounds=st.integers(1, 10),
    noise=st.floats(0, 1),
    length=st.integers(1, 18),
)
def test_the_search_never_generates_more_than_its_budget(
    budget: int, first: int, rounds: int, noise: float, length: int
) -> None:
    landscape = Landscape(lambda _: 0.5, noise)
    found = search_knobs(
        landscape, REFERENCES, knob_grid(OWN, BOTH)[:length], budget=budget, first=first, last=first * rounds
    )
    assert landscape.images == found.images <= budget
    assert {(trial.knobs.model_dump_json(), trial.images) for trial in found.trials} <= {
        (k.model_dump_json(), n) for k, n in landscape.calls
    }
    assert len(found.trials) == len({knobs.model_dump_json() for knobs, _ in landscape.calls}), (
        "every setting that was tried is listed"
    )


@given(budget=st.integers(5, 400), noise=st.floats(0, 1))
def test_the_recipe_s_knobs_are_measured_on_as_many_images_as_those_that_beat_them(budget: int, noise: float) -> None:
    found = search_knobs(
        Landscape(lambda _: 0.5, noise), REFERENCES, knob_grid(OWN, BOTH), budget=budget, first=5, last=20
    )
    own = next(trial for trial in found.trials if trial.knobs == OWN)
    assert own.images == found.trials[0].images == max(trial.images for trial in found.trials)
    assert found.recipe_trial == own


def test_the_reason_compares_the_recommendation_with_the_recipe() -> None:
    other = knob_grid(OWN, BOTH)[7]
    found = search_knobs(Landscape(peak_at(other)), REFERENCES, knob_grid(OWN, BOTH), budget=400, first=5, last=20)
    best, own = found.trials[0].score.total, found.recipe_trial.score.total
    assert found.reason.startswith(
        f"guidance {other.guidance:g}, UNet scale {other.unet_scale:g}, text scale {other.text_scale:g}: "
    )
    assert f"score {best:.2f}, where the recipe's own (guidance {OWN.guidance:g}, " in found.reason
    assert (
        f" have {own:.2f}; the best of {len(found.trials)} settings tried with {found.images} images." in found.reason
    )
    kept = search_knobs(Landscape(peak_at(OWN)), REFERENCES, knob_grid(OWN, BOTH), budget=400, first=5, last=20)
    assert "as in the recipe: score " in kept.reason
    alone = search_knobs(Landscape(lambda _: 0.5), REFERENCES, knob_grid(OWN, BOTH), budget=5, first=5, last=20)
    assert alone.reason.endswith("as in the recipe: there were not enough images to try another setting.")


def test_later_rounds_measure_more_images_of_fewer_settings() -> None:
    landscape = Landscape(peak_at(knob_grid(OWN, BOTH)[7]))
    search_knobs(landscape, REFERENCES, knob_grid(OWN, BOTH), budget=400, first=5, last=20)
    counts = [count for _, count in landscape.calls]
    assert counts == sorted(counts)
    assert {5, 10, 20} == set(counts)
    assert counts.count(5) > counts.count(10) > counts.count(20) > 1


def test_ties_go_to_the_recipe_s_knobs() -> None:
    for truth in (lambda _: 0.5, lambda knobs: 0.5 if knobs == OWN else 0.5 + 0.9 * MINIMUM_KNOB_GAIN):
        assert (
            search_knobs(Landscape(truth), REFERENCES, knob_grid(OWN, BOTH), budget=400, first=5, last=20).knobs == OWN
        )


def test_a_budget_for_one_setting_keeps_the_recipe_s_knobs() -> None:
    assert (
        search_knobs(Landscape(lambda _: 0.5), REFERENCES, knob_grid(OWN, BOTH), budget=5, first=5, last=20).knobs
        == OWN
    )


@pytest.mark.parametrize(("grid", "budget"), [([], 100), ([OWN], 4)])
def test_a_search_of_nothing_is_refused(grid: list[Knobs], budget: int) -> None:
    with pytest.raises(ValueError, match="does not hold one setting"):
        search_knobs(Landscape(lambda _: 0.5), REFERENCES, grid, budget=budget, first=5, last=20)


def test_the_grid_starts_with_the_recipe_s_knobs_and_varies_three() -> None:
    grid = knob_grid(OWN, BOTH)
    assert grid[0] == OWN
    assert len({knobs.model_dump_json() for knobs in grid}) == len(grid) == 18
    assert {name for knobs in grid for name, value in knobs if value != getattr(OWN, name)} == {
        "guidance",
        "unet_scale",
        "text_scale",
    }
