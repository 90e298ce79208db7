"""An optimizer brings the settings that it needs, and what the user says against it is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from mascot.cli.app import main
from mascot.experiments.search import make_point, recipe_values
from mascot.methods.registry import METHODS
from mascot.recipe.optimizer_needs import check_optimizer, rates_in
from mascot.recipe.recipe import Recipe


def recipe(*overrides: str, **given: Any) -> Recipe:
    return Recipe.preset(photos=["x"], class_noun="dog", overrides=overrides, **given)


def rates(made: Recipe) -> dict[str, float]:
    return dict(rates_in(made.method.model_dump(), "method"))


@pytest.mark.parametrize("method", METHODS)
def test_prodigy_alone_brings_rates_of_one_and_a_constant_schedule(method: str) -> None:
    made = recipe("training.optimizer=prodigy", f"method.name={method}")
    plain = recipe(f"method.name={method}")
    assert made.training.lr_schedule == "constant"
    assert rates(made) == dict.fromkeys(rates(plain), 1.0)
    check_optimizer(made.training, made.method)
    assert made.training.steps == plain.training.steps


@pytest.mark.parametrize("method", METHODS)
def test_schedule_free_alone_brings_a_constant_schedule(method: str) -> None:
    made = recipe("training.optimizer=schedule-free", f"method.name={method}")
    assert (made.training.lr_schedule, made.training.ema_decay) == ("constant", None)
    assert rates(made) == rates(recipe(f"method.name={method}"))
    check_optimizer(made.training, made.method)


def test_what_the_user_says_wins() -> None:
    made = recipe("training.optimizer=prodigy", "method.learning_rate=0.5", "training.lr_schedule=cosine")
    assert rates(made) == {"method.learning_rate": 0.5, "method.text_learning_rate": 0.5}
    assert made.training.lr_schedule == "cosine"
    assert rates(recipe("training.optimizer=prodigy", "method.text_learning_rate=0")) == {"method.learning_rate": 1.0}
    assert recipe("training.optimizer=adamw").training.lr_schedule == recipe().training.lr_schedule


def test_a_file_is_what_the_user_says(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("[training]\noptimizer = 'prodigy'\n", encoding="utf-8")
    assert set(rates(recipe(file=tmp_path / "r.toml")).values()) == {1.0}


def test_a_sweep_over_optimizers_brings_what_each_needs(home: Path) -> None:
    values = recipe_values(recipe().model_copy(update={"photos": (str(home / "photos"),)}))
    made = {name: make_point(values, {"training.optimizer": name}).recipe for name in ("adamw", "prodigy")}
    assert recipe_values(made["adamw"]) == values
    assert set(rates(made["prodigy"]).values()) == {1.0}


CONTRADICTIONS = {
    "prodigy with a rate": ("training.optimizer=prodigy", "method.learning_rate=1e-3"),
    "prodigy with two rates": ("training.optimizer=prodigy", "method.learning_rate=1", "method.text_learning_rate=0.5"),
    "schedule-free with a schedule": ("training.optimizer=schedule-free", "training.lr_schedule=cosine"),
    "schedule-free with an average": ("training.optimizer=schedule-free", "training.ema_decay=0.9"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_contradiction_is_refused_before_anything_is_loaded(
    case: str,
    home: Path,
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [word for setting in CONTRADICTIONS[case] for word in ("--set", setting)]
    given = [
        "train",
        str(home / "photos"),
        "--class-noun",
        "dog",
        "--base",
        str(tiny_base),
        "--out",
        str(tmp_path / "run"),
    ]
    monkeypatch.setattr(sys, "argv", ["mascot", *given, *words])
    monkeypatch.setattr("mascot.runs.opening.load_base", lambda _: pytest.fail("a base was loaded"))
    with pytest.raises(SystemExit) as stop:
        main()
    sentence = " ".join(capsys.readouterr().err.split())
    assert stop.value.code == 2
    assert CONTRADICTIONS[case][1].split("=")[0] in sentence, sentence
    remedy = sentence.split("; give ")[1].strip(".").split()[1::2]
    made = recipe(*CONTRADICTIONS[case], *remedy)
    check_optimizer(made.training, made.method)
    assert not (tmp_path / "run").exists()
