"""Laws of choosing: nothing is bought, nothing is copied, training stops when it has stopped paying, and a search keeps to its budget."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import selection_rules
from benchmarks.selection_rules import Choice, ScoredChoice, best_of, dvar, even_marks, kept_from
from benchmarks.selection_runs import SubjectRun
from mascot.evaluation.selection.checkpoint_selection import CheckpointSelector
from mascot.evaluation.selection.criterion import MINIMUM_GAIN, ReferenceScores, ValidationResult, score
from mascot.evaluation.selection.knob_search import MINIMUM_KNOB_GAIN, knob_grid, search_knobs
from mascot.generation.knobs import Knobs
from mascot.models.starter import HeldOutSubject
from mascot.recipe.recipe import Recipe

FRAME = ReferenceScores(base_likeness=0.28, real_likeness=0.92, base_prompt=0.74, floor_prompt=0.14, real_nearest=0.94)
"""About what the embedded base and its encoders give."""
TRAINED = ValidationResult(likeness=0.58, prompt=0.60, nearest=0.65)
USUAL = Knobs(guidance=5.0, steps=25)

cosines = st.floats(-1, 1)
measurements = st.builds(ValidationResult, likeness=cosines, prompt=cosines, nearest=cosines)
frames = st.builds(
    ReferenceScores,
    base_likeness=cosines,
    real_likeness=st.none() | cosines,
    base_prompt=cosines,
    floor_prompt=cosines,
    real_nearest=st.none() | cosines,
)
gains = st.floats(0, 0.5)


def reaching(total: float) -> ValidationResult:
    """What scores so: as much of the likeness as of the prompt, nothing copied."""
    likeness, prompt = FRAME.base_likeness + total * (0.92 - 0.28), FRAME.floor_prompt + total * (0.74 - 0.14)
    return ValidationResult(likeness=likeness, prompt=prompt, nearest=likeness)


def told(curve: Sequence[float], patience: int = 3) -> CheckpointSelector:
    """A chooser that has seen a curve of scores, a look every 100 steps, until it wanted no more."""
    selector = CheckpointSelector(references=FRAME, patience=patience)
    for number, total in enumerate(curve):
        selector.add(100 * (number + 1), reaching(total))
        if selector.should_stop:
            break
    return selector


def best_step(selector: CheckpointSelector) -> int:
    assert selector.best is not None
    return selector.best.step


@given(measured=measurements, references=frames)
def test_every_score_is_a_number_between_nothing_and_all(
    measured: ValidationResult, references: ReferenceScores
) -> None:
    found = score(measured, references)
    assert all(
        0 <= value <= 1 for value in (found.gain, found.kept, found.copying, found.total)
    )  # no comparison holds for NaN


@given(prompt=cosines, references=frames)
def test_the_untouched_base_is_worth_nothing(prompt: float, references: ReferenceScores) -> None:
    if references.base_likeness <= (1.0 if references.real_likeness is None else references.real_likeness):
        assert (
            score(
                ValidationResult(likeness=references.base_likeness, prompt=prompt, nearest=references.base_likeness),
                references,
            ).total
            == 0
        )


def test_real_photos_in_the_scenes_of_the_base_are_worth_all() -> None:
    assert score(ValidationResult(likeness=0.92, prompt=0.74, nearest=0.94), FRAME).total == 1


@given(measured=measurements, more=gains)
def test_more_of_likeness_or_prompt_is_never_worse_and_more_copying_never_better(
    measured: ValidationResult, more: float
) -> None:
    """Likeness up to the photos' own: what is nearer to them than they are to each other is copied."""
    total = score(measured, FRAME).total
    most = max(measured.likeness, FRAME.real_likeness or 1.0)
    assert score(replace(measured, likeness=min(measured.likeness + more, most)), FRAME).total >= total
    assert score(replace(measured, prompt=measured.prompt + more), FRAME).total >= total
    assert score(replace(measured, nearest=measured.nearest + more), FRAME).total <= total


def test_both_count_where_neither_is_at_its_end() -> None:
    total = score(TRAINED, FRAME).total
    assert score(replace(TRAINED, likeness=0.60), FRAME).total > total
    assert score(replace(TRAINED, prompt=0.62), FRAME).total > total


@given(measured=measurements, references=frames)
def test_neither_can_be_bought_with_the_other(measured: ValidationResult, references: ReferenceScores) -> None:
    found = score(measured, references)
    assert found.total <= 2 * min(found.gain, found.kept) + 1e-12
    assert found.total <= max(found.gain, found.kept) + 1e-12


def test_a_perfect_likeness_that_ignores_the_prompt_is_worth_nothing() -> None:
    assert score(ValidationResult(likeness=0.92, prompt=FRAME.floor_prompt, nearest=0.94), FRAME).total == 0


def test_copying_takes_its_share_and_copies_are_worth_nothing() -> None:
    good = ValidationResult(likeness=0.90, prompt=0.70, nearest=0.94)
    assert score(replace(good, nearest=0.97), FRAME).total == pytest.approx(score(good, FRAME).total / 2)
    assert score(replace(good, nearest=1.0), FRAME).total == 0


def test_pictures_as_near_to_a_photo_as_photos_are_to_each_other_are_no_copies() -> None:
    assert score(replace(TRAINED, nearest=0.94), FRAME) == score(replace(TRAINED, nearest=0.5), FRAME)


def test_with_one_photo_the_scale_ends_at_the_photo_itself_and_nothing_is_called_a_copy() -> None:
    alone = replace(FRAME, real_likeness=None, real_nearest=None)
    found = score(replace(TRAINED, nearest=1.0), alone)
    assert found.gain == pytest.approx((0.58 - 0.28) / (1 - 0.28))
    assert found.copying == 0


def test_a_curve_that_rises_and_falls_is_stopped_after_its_top() -> None:
    selector = told([0.1, 0.3, 0.5, 0.6, 0.5, 0.4, 0.3, 0.9])
    assert selector.should_stop
    assert best_step(selector) == 400
    assert len(selector.results) == 7, "three looks after the top"
    assert "step 400 is kept" in selector.reason
    assert "step 700" in selector.reason


def test_a_curve_that_goes_on_rising_is_never_stopped() -> None:
    selector = told([0.02 * number for number in range(1, 40)])
    assert not selector.should_stop
    assert best_step(selector) == 3900
    assert "no better" not in selector.reason


def test_a_slow_rise_adds_up() -> None:
    selector = told([0.3 + 0.6 * MINIMUM_GAIN * number for number in range(20)])
    assert not selector.should_stop
    assert best_step(selector) >= 1900


def test_a_plateau_is_left_and_its_beginning_kept() -> None:
    selector = told([0.2, 0.4, 0.5, 0.5 + 0.9 * MINIMUM_GAIN, 0.5, 0.5 + 0.5 * MINIMUM_GAIN, 0.5])
    assert selector.should_stop
    assert best_step(selector) == 300
    assert len(selector.results) == 6


def test_one_bad_look_on_the_way_up_does_not_stop_training() -> None:
    selector = told([0.1, 0.3, 0.15, 0.2, 0.5, 0.45, 0.6])
    assert not selector.should_stop
    assert best_step(selector) == 700


def test_noise_around_a_level_is_stopped_soon_and_loses_little() -> None:
    generator = random.Random(0)
    for _ in range(50):
        selector = told([0.5 + generator.gauss(0, 0.02) for _ in range(60)])
        assert selector.should_stop
        assert len(selector.results) < 30


def test_training_that_has_not_begun_to_pay_goes_on() -> None:
    selector = told([0, 0, 0, 0, 0, 0, 0.2])
    assert not selector.should_stop
    assert best_step(selector) == 700


def test_a_chooser_that_was_told_nothing_chooses_nothing_and_says_so() -> None:
    selector = CheckpointSelector(references=FRAME, patience=3)
    assert selector.best is None
    assert not selector.should_stop
    assert "no checkpoint" in selector.reason


@pytest.mark.parametrize("references", [FRAME, replace(FRAME, real_likeness=None, real_nearest=None)])
def test_a_chooser_that_was_killed_decides_the_same(references: ReferenceScores) -> None:
    curve = [0.1, 0.3, 0.5, 0.6, 0.5, 0.61, 0.4, 0.3]
    whole, resumed = (
        CheckpointSelector(references=references, patience=3),
        CheckpointSelector(references=references, patience=3),
    )
    for number, total in enumerate(curve):
        resumed = CheckpointSelector.from_json(json.loads(json.dumps(resumed.to_json())))
        assert whole.add(100 * number, reaching(total)) == resumed.add(100 * number, reaching(total))
        assert (whole.best, whole.should_stop, whole.reason) == (resumed.best, resumed.should_stop, resumed.reason)


def test_looks_that_are_trained_again_are_forgotten_first() -> None:
    selector = told([0.1, 0.3, 0.6, 0.5])
    selector.forget_after(200)
    assert [validate.step for validate in selector.results] == [100, 200]
    assert selector.add(300, reaching(0.6))
    assert best_step(selector) == 300


class Landscape:
    """Knobs whose scores are known, seen through pictures of which few deceive."""

    def __init__(self, truth: Callable[[Knobs], float], deception: float = 0.0) -> None:
        self.truth, self.deception = truth, deception
        self.asked: list[tuple[Knobs, int]] = []

    def __call__(self, knobs: Knobs, count: int) -> ValidationResult:
        self.asked.append((knobs, count))
        error = random.Random(f"{knobs} {count}").gauss(0, self.deception / math.sqrt(count))
        return reaching(min(1.0, max(0.0, self.truth(knobs) + error)))

    @property
    def drawn(self) -> int:
        """Pictures, where a larger number contains the smaller's."""
        return sum({knobs.model_dump_json(): count for knobs, count in self.asked}.values())


def peak_at(best: Knobs) -> Callable[[Knobs], float]:
    """A score that falls away from some knobs."""
    return lambda knobs: (
        0.8
        - 0.03 * abs(knobs.guidance - best.guidance)
        - abs(knobs.unet_scale - best.unet_scale)
        - abs(knobs.text_scale - best.text_scale)
    )


@pytest.mark.parametrize("place", range(0, 18, 3))
def test_the_search_finds_a_planted_optimum(place: int) -> None:
    best = knob_grid(USUAL)[place]
    seen = Landscape(peak_at(best), deception=0.1)
    found = search_knobs(seen, FRAME, knob_grid(USUAL), budget=200, first=5, last=20)
    assert found.knobs == best
    assert found.trials[0].knobs == best


@given(
    budget=st.integers(5, 400),
    first=st.integers(1, 5),
    rounds=st.integers(1, 10),
    deception=st.floats(0, 1),
    length=st.integers(1, 18),
)
def test_the_search_never_draws_more_than_its_budget(
    budget: int, first: int, rounds: int, deception: float, length: int
) -> None:
    seen = Landscape(lambda _: 0.5, deception)
    found = search_knobs(seen, FRAME, knob_grid(USUAL)[:length], budget=budget, first=first, last=first * rounds)
    assert seen.drawn == found.generated <= budget
    assert {(trial.knobs.model_dump_json(), trial.count) for trial in found.trials} <= {
        (k.model_dump_json(), n) for k, n in seen.asked
    }
    assert len(found.trials) == len({knobs.model_dump_json() for knobs, _ in seen.asked}), "all that was tried is told"


@given(budget=st.integers(5, 400), deception=st.floats(0, 1))
def test_the_usual_knobs_are_judged_by_as_many_pictures_as_those_that_beat_them(budget: int, deception: float) -> None:
    found = search_knobs(Landscape(lambda _: 0.5, deception), FRAME, knob_grid(USUAL), budget=budget, first=5, last=20)
    usual = next(trial for trial in found.trials if trial.knobs == USUAL)
    assert usual.count == found.trials[0].count == max(trial.count for trial in found.trials)
    assert found.usual == usual


def test_what_is_recommended_is_said_with_what_it_beats() -> None:
    other = knob_grid(USUAL)[7]
    found = search_knobs(Landscape(peak_at(other)), FRAME, knob_grid(USUAL), budget=400, first=5, last=20)
    best, usual = found.trials[0].score.total, found.usual.score.total
    assert found.reason.startswith(
        f"guidance {other.guidance:g}, UNet scale {other.unet_scale:g}, text scale {other.text_scale:g}: "
    )
    assert f"score {best:.2f}, where the recipe's own (guidance {USUAL.guidance:g}, " in found.reason
    assert (
        f" have {usual:.2f}; the best of {len(found.trials)} settings tried with {found.generated} pictures."
        in found.reason
    )
    kept = search_knobs(Landscape(peak_at(USUAL)), FRAME, knob_grid(USUAL), budget=400, first=5, last=20)
    assert "as in the recipe: score " in kept.reason
    alone = search_knobs(Landscape(lambda _: 0.5), FRAME, knob_grid(USUAL), budget=5, first=5, last=20)
    assert alone.reason.endswith("as in the recipe: there were pictures to try no other.")


def test_the_same_pictures_are_seen_again_and_more_of_them() -> None:
    seen = Landscape(peak_at(knob_grid(USUAL)[7]))
    search_knobs(seen, FRAME, knob_grid(USUAL), budget=400, first=5, last=20)
    counts = [count for _, count in seen.asked]
    assert counts == sorted(counts)
    assert {5, 10, 20} == set(counts)
    assert counts.count(5) > counts.count(10) > counts.count(20) > 1


def test_ties_go_to_the_usual_knobs() -> None:
    for truth in (lambda _: 0.5, lambda knobs: 0.5 if knobs == USUAL else 0.5 + 0.9 * MINIMUM_KNOB_GAIN):
        assert search_knobs(Landscape(truth), FRAME, knob_grid(USUAL), budget=400, first=5, last=20).knobs == USUAL


def test_a_budget_for_one_setting_keeps_the_usual_knobs() -> None:
    assert search_knobs(Landscape(lambda _: 0.5), FRAME, knob_grid(USUAL), budget=5, first=5, last=20).knobs == USUAL


@pytest.mark.parametrize(("grid", "budget"), [([], 100), ([USUAL], 4)])
def test_a_search_of_nothing_is_refused(grid: list[Knobs], budget: int) -> None:
    with pytest.raises(ValueError, match="does not hold one setting"):
        search_knobs(Landscape(lambda _: 0.5), FRAME, grid, budget=budget, first=5, last=20)


def test_the_grid_begins_with_the_usual_knobs_and_turns_three() -> None:
    grid = knob_grid(USUAL)
    assert grid[0] == USUAL
    assert len({knobs.model_dump_json() for knobs in grid}) == len(grid) == 18
    assert {name for knobs in grid for name, value in knobs if value != getattr(USUAL, name)} == {
        "guidance",
        "unet_scale",
        "text_scale",
    }


def test_dvar_stops_where_the_last_losses_vary_little_beside_all() -> None:
    generator = np.random.default_rng(0)
    losses = (0.3 * np.exp(-np.arange(120) / 15) + 0.1 + generator.normal(0, 0.002, 120)).tolist()
    place = dvar(losses, window=20, threshold=0.15)
    ratios = [np.var(losses[end - 20 : end]) / np.var(losses[:end]) for end in range(20, 121)]
    assert place == 19 + next(i for i, ratio in enumerate(ratios) if ratio < 0.15)
    assert dvar(losses[:place], window=20, threshold=0.15) is None, "what comes later does not matter"
    assert dvar([5 + 3 * loss for loss in losses], window=20, threshold=0.15) == place, "nor do level and scale"


def test_dvar_goes_on_while_the_loss_falls_and_stops_where_it_never_moved() -> None:
    assert dvar([-float(n) for n in range(30)], window=20, threshold=0.15) is None
    assert dvar([0.5] * 30, window=20, threshold=0.15) == 19
    assert dvar([0.5] * 19, window=20, threshold=0.15) is None


@pytest.mark.parametrize(("window", "threshold"), [(1, 0.15), (20, 0.0), (20, 1.0), (20, math.nan)])
def test_a_dvar_that_decides_nothing_is_refused(window: int, threshold: float) -> None:
    with pytest.raises(ValueError, match="decide nothing"):
        dvar([0.1, 0.2], window=window, threshold=threshold)


def test_a_rule_gets_the_next_checkpoint_that_is_kept() -> None:
    marks = even_marks(800, 8, 450)
    assert marks == (100, 200, 300, 400, 450, 500, 600, 700, 800)
    assert even_marks(3, 8, 500) == (1, 2, 3)
    assert [kept_from(step, marks) for step in (1, 100, 401, 800, 900, None)] == [100, 100, 450, 800, 800, 800]


def test_the_oracle_takes_the_best_and_of_equal_ones_the_first() -> None:
    choices = [
        ScoredChoice(choice=Choice(step=step, knobs=USUAL), result=reaching(total), score=score(reaching(total), FRAME))
        for step, total in ((1, 0.2), (2, 0.6), (3, 0.6), (4, 0.1))
    ]
    assert best_of(choices).choice.step == 2


def test_losses_after_the_step_that_training_goes_on_from_are_dropped(tmp_path: Path) -> None:
    held = HeldOutSubject(name="owl", class_noun="owl", live=True, photos=())
    run = SubjectRun(held_out=held, recipe=Recipe.preset(photos=("x",)), folder=tmp_path, marks=(10,), every=5)
    assert run.read_losses(10) == {}
    run.write_losses({5: 0.5, 0: 0.7, 10: 0.4})
    with run.losses.open("a", encoding="utf-8") as log:
        log.write("[15, 0.")  # cut off
    assert run.read_losses(20) == {0: 0.7, 5: 0.5, 10: 0.4}
    assert list(run.read_losses(5)) == [0, 5]


def test_the_rules_are_told_apart_by_name() -> None:
    assert len(set(selection_rules.RULES)) == len(selection_rules.RULES) == 8
