"""Laws of checkpoint selection: the best is kept, and training stops when it no longer improves."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from mascot.evaluation.selection.checkpoint_selection import CheckpointSelector
from mascot.evaluation.selection.criterion import MINIMUM_GAIN, ReferenceScores
from tiny.validation_results import REFERENCES, result_with_score


def select(curve: Sequence[float], patience: int = 3) -> CheckpointSelector:
    """A selector after a curve of scores, one every 100 steps, up to where it stops training."""
    selector = CheckpointSelector(references=REFERENCES, patience=patience)
    for number, total in enumerate(curve):
        selector.add(100 * (number + 1), result_with_score(total))
        if selector.should_stop:
            break
    return selector


def best_step(selector: CheckpointSelector) -> int:
    assert selector.best is not None
    return selector.best.step


def test_a_curve_that_rises_and_falls_is_stopped_after_its_maximum() -> None:
    selector = select([0.1, 0.3, 0.5, 0.6, 0.5, 0.4, 0.3, 0.9])
    assert selector.should_stop
    assert best_step(selector) == 400
    assert len(selector.results) == 7, "three validations after the best"
    assert "step 400 is kept" in selector.reason
    assert "step 700" in selector.reason


def test_a_curve_that_goes_on_rising_is_never_stopped() -> None:
    selector = select([0.02 * number for number in range(1, 40)])
    assert not selector.should_stop
    assert best_step(selector) == 3900
    assert "no better" not in selector.reason


def test_a_slow_rise_adds_up() -> None:
    selector = select([0.3 + 0.6 * MINIMUM_GAIN * number for number in range(20)])
    assert not selector.should_stop
    assert best_step(selector) >= 1900


def test_a_plateau_is_left_and_its_beginning_kept() -> None:
    selector = select([0.2, 0.4, 0.5, 0.5 + 0.9 * MINIMUM_GAIN, 0.5, 0.5 + 0.5 * MINIMUM_GAIN, 0.5])
    assert selector.should_stop
    assert best_step(selector) == 300
    assert len(selector.results) == 6


def test_one_bad_validation_on_the_way_up_does_not_stop_training() -> None:
    selector = select([0.1, 0.3, 0.15, 0.2, 0.5, 0.45, 0.6])
    assert not selector.should_stop
    assert best_step(selector) == 700


def test_noise_around_a_constant_is_stopped_soon() -> None:
    generator = random.Random(0)
    for _ in range(50):
        selector = select([0.5 + generator.gauss(0, 0.02) for _ in range(60)])
        assert selector.should_stop
        assert len(selector.results) < 30


def test_training_that_has_not_begun_to_improve_goes_on() -> None:
    selector = select([0, 0, 0, 0, 0, 0, 0.2])
    assert not selector.should_stop
    assert best_step(selector) == 700


def test_a_selector_without_results_selects_nothing_and_says_so() -> None:
    selector = CheckpointSelector(references=REFERENCES, patience=3)
    assert selector.best is None
    assert not selector.should_stop
    assert "no checkpoint" in selector.reason


@pytest.mark.parametrize("references", [REFERENCES, replace(REFERENCES, real_likeness=None, real_nearest_photo=None)])
def test_a_selector_that_was_restored_decides_the_same(references: ReferenceScores) -> None:
    curve = [0.1, 0.3, 0.5, 0.6, 0.5, 0.61, 0.4, 0.3]
    whole, resumed = (
        CheckpointSelector(references=references, patience=3),
        CheckpointSelector(references=references, patience=3),
    )
    for number, total in enumerate(curve):
        resumed = CheckpointSelector.from_json(json.loads(json.dumps(resumed.to_json())))
        assert whole.add(100 * number, result_with_score(total)) == resumed.add(100 * number, result_with_score(total))
        assert (whole.best, whole.should_stop, whole.reason) == (resumed.best, resumed.should_stop, resumed.reason)


def test_steps_that_are_trained_again_are_dropped_first() -> None:
    selector = select([0.1, 0.3, 0.6, 0.5])
    selector.go_on(after=200, patience=3, anew=False)
    assert [result.step for result in selector.results] == [100, 200]
    assert selector.add(300, result_with_score(0.6))
    assert best_step(selector) == 300


def test_an_extended_run_counts_its_patience_anew_and_keeps_its_candidates() -> None:
    selector = select([0.6, 0.5, 0.4, 0.3])
    assert selector.should_stop
    selector.go_on(after=400, patience=2, anew=True)
    assert not selector.should_stop
    selector.add(500, result_with_score(0.5))
    assert not selector.should_stop
    restored = CheckpointSelector.from_json(json.loads(json.dumps(selector.to_json())))
    restored.go_on(after=500, patience=2, anew=False)
    restored.add(600, result_with_score(0.5))
    assert restored.should_stop
    assert best_step(restored) == 100


def test_a_longer_patience_goes_on_where_a_shorter_one_stopped() -> None:
    selector = select([0.6, 0.5, 0.4, 0.3])
    selector.go_on(after=400, patience=5, anew=False)
    assert not selector.should_stop
