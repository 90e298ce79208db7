"""Laws of the benchmark's selection rules: DVAR by its definition, and only kept checkpoints."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import selection_rules
from benchmarks.selection_rules import STUDY_KNOBS, Choice, ScoredChoice, best_of, dvar, even_marks, kept_from
from benchmarks.selection_runs import SubjectRun
from mascot.evaluation.selection.criterion import score
from mascot.generation.knobs import Knobs
from mascot.models.starter import HeldOutSubject
from mascot.recipe.recipe import Recipe
from tiny.validation_results import REFERENCES, result_with_score

OWN = Knobs(guidance=5.0, steps=25)


def test_dvar_stops_where_the_last_losses_vary_little_beside_all() -> None:
    generator = np.random.default_rng(0)
    losses = (0.3 * np.exp(-np.arange(120) / 15) + 0.1 + generator.normal(0, 0.002, 120)).tolist()
    stop = dvar(losses, window=20, threshold=0.15)
    ratios = [np.var(losses[end - 20 : end]) / np.var(losses[:end]) for end in range(20, 121)]
    assert stop == 19 + next(i for i, ratio in enumerate(ratios) if ratio < 0.15)
    assert dvar(losses[:stop], window=20, threshold=0.15) is None, "what comes later does not matter"
    assert dvar([5 + 3 * loss for loss in losses], window=20, threshold=0.15) == stop, "nor do level and scale"


def test_dvar_goes_on_while_the_loss_falls_and_stops_where_it_never_moved() -> None:
    assert dvar([-float(n) for n in range(30)], window=20, threshold=0.15) is None
    assert dvar([0.5] * 30, window=20, threshold=0.15) == 19
    assert dvar([0.5] * 19, window=20, threshold=0.15) is None


@pytest.mark.parametrize(("window", "threshold"), [(1, 0.15), (20, 0.0), (20, 1.0), (20, math.nan)])
def test_dvar_settings_that_decide_nothing_are_refused(window: int, threshold: float) -> None:
    with pytest.raises(ValueError, match="decide nothing"):
        dvar([0.1, 0.2], window=window, threshold=threshold)


def test_a_rule_gets_the_next_checkpoint_that_is_kept() -> None:
    marks = even_marks(800, 8, 450)
    assert marks == (100, 200, 300, 400, 450, 500, 600, 700, 800)
    assert even_marks(3, 8, 500) == (1, 2, 3)
    assert [kept_from(step, marks) for step in (1, 100, 401, 800, 900, None)] == [100, 100, 450, 800, 800, 800]


def test_the_oracle_takes_the_best_and_of_equal_ones_the_first() -> None:
    choices = [
        ScoredChoice(
            choice=Choice(step=step, knobs=OWN),
            result=result_with_score(total),
            score=score(result_with_score(total), REFERENCES),
        )
        for step, total in ((1, 0.2), (2, 0.6), (3, 0.6), (4, 0.1))
    ]
    assert best_of(choices).choice.step == 2


def test_losses_after_the_resumed_step_are_dropped(tmp_path: Path) -> None:
    held = HeldOutSubject(name="owl", class_noun="owl", live=True, photos=())
    run = SubjectRun(held_out=held, recipe=Recipe.preset(photos=("x",)), folder=tmp_path, marks=(10,), every=5)
    assert run.read_losses(10) == {}
    run.write_losses({5: 0.5, 0: 0.7, 10: 0.4})
    with run.losses.open("a", encoding="utf-8") as log:
        log.write("[15, 0.")  # cut off
    assert run.read_losses(20) == {0: 0.7, 5: 0.5, 10: 0.4}
    assert list(run.read_losses(5)) == [0, 5]


def test_the_rules_have_different_names() -> None:
    assert len(set(selection_rules.RULES)) == len(selection_rules.RULES) == 8


def test_the_studys_knobs_are_those_that_it_settles_on() -> None:
    """Guidance 11 to 13.8, UNet scale 0.5, text-encoder scale 0.1; and no table claims others."""
    assert 11 <= STUDY_KNOBS["guidance"] <= 13.8
    assert (STUDY_KNOBS["unet_scale"], STUDY_KNOBS["text_scale"]) == (0.5, 0.1)
    root = Path(__file__).resolve().parents[2]
    for page in (root / "docs" / "measuring.md", root / "benchmarks" / "README.md"):
        rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
        assert not [row for row in rows if "study" in row and "`study.py`" not in row]
