"""Laws of choosing while training: the best look is what is kept, choosing resumes to the bit, and where it cannot be done it says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mascot.adapters.adapter_file import Adapter
from mascot.api.train import train
from mascot.generation.loading import recommended_knobs
from mascot.generation.prompt_sets import CONTEXTS, PAPER, STARTER, STARTER_VALIDATION
from mascot.recipe.recipe import Recipe
from mascot.storage.run_folder import Run

STEPS = 40
COMMON = (
    f"training.steps={STEPS}", "training.warmup_steps=0", "previews.every=0", "prior.weight=0", "precision=fp32", "device=cpu", "knobs.steps=1",
    "method.rank=2", "method.learning_rate=1e-2", "selection.identity=starter", "selection.clip=starter", "selection.checkpoints=4",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASCOT_CACHE", str(home / "cache"))


def recipe_of(base: Path, home: Path, *overrides: str, class_noun: str | None = "dog") -> Recipe:
    return Recipe.preset(
        base=str(base), overrides=(*COMMON, *overrides), photos=(str(home / "photos"),), class_noun=class_noun
    )


def trained(
    recipe: Recipe, out: Path, *, resume: bool = False, stop_after: int | None = None
) -> tuple[Run, dict[str, Any]]:
    """A run without a report, and what was said; stopped after a step as by Ctrl-C where one is given."""
    said: dict[str, Any] = {}

    def watch(phase: str, facts: Any) -> None:
        said[phase] = facts
        if phase == "step" and facts.number == stop_after:
            raise KeyboardInterrupt

    if stop_after is None:
        return train(recipe, out=out, resume=resume, report=False, progress=watch), said
    with pytest.raises(KeyboardInterrupt):
        train(recipe, out=out, resume=resume, report=False, progress=watch)
    return Run(out), said


@pytest.fixture(scope="module")
def chosen(tiny_base: Path, home: Path) -> tuple[Run, dict[str, Any]]:
    """A run that chose."""
    return trained(recipe_of(tiny_base, home), home / "chosen")


def results(run: Run) -> list[dict[str, Any]]:
    return json.loads(run.selection.read_text(encoding="utf-8"))["chooser"]["looks"]


def test_it_looks_evenly_and_keeps_the_best(chosen: tuple[Run, dict[str, Any]]) -> None:
    """Looks lie at even steps, and the best one's parameters are what the adapter holds."""
    run, said = chosen
    seen = [validate["step"] for validate in results(run)]
    assert seen == [10, 20, 30, 40][: len(seen)]
    assert said["choosing"] > 0
    kept = sorted((run.folder / "best").iterdir())
    assert len(kept) == 1
    assert f"step {int(kept[0].name.removeprefix('step'))} is kept" in said["chosen"]


def test_the_adapter_says_what_to_draw_it_with(chosen: tuple[Run, dict[str, Any]]) -> None:
    """`generate` uses the recommended knobs when nothing else is said."""
    adapter = Adapter.read(chosen[0].adapter)
    assert adapter.manifest is not None
    assert adapter.manifest.knobs is not None
    said = f"guidance {adapter.manifest.knobs['guidance']:g}, "
    assert chosen[1]["knobs"].startswith(said)
    assert recommended_knobs(adapter).model_dump() == adapter.manifest.knobs
    assert adapter.manifest.knobs["height"] is None


@pytest.mark.parametrize("step", [5, 20, 31])
def test_choosing_resumes_to_the_bit(
    tiny_base: Path, home: Path, tmp_path: Path, chosen: tuple[Run, dict[str, Any]], step: int
) -> None:
    """Stopped before, at and after a look: the same looks, adapter and knobs."""
    recipe = recipe_of(tiny_base, home)
    if step > len(chosen[0].read_steps()):
        pytest.skip("training had stopped before")
    trained(recipe, tmp_path / "run", stop_after=step)
    run, _ = trained(recipe, tmp_path / "run", resume=True)
    assert run.selection.read_bytes() == chosen[0].selection.read_bytes()
    assert run.adapter.read_bytes() == chosen[0].adapter.read_bytes()


def test_choosing_changes_no_step(
    tiny_base: Path, home: Path, tmp_path: Path, chosen: tuple[Run, dict[str, Any]]
) -> None:
    """The losses are those of a run without; switched off, the last step is kept and nothing is recommended."""
    run, said = trained(recipe_of(tiny_base, home, "selection.active=false"), tmp_path / "run")
    with_choice = chosen[0].read_steps()
    assert run.read_steps()[: len(with_choice)] == with_choice
    assert "switched off" in said["chosen"]
    adapter = Adapter.read(run.adapter)
    assert adapter.manifest is not None
    assert adapter.manifest.knobs is None
    assert adapter.manifest.step == STEPS
    assert not run.selection.exists()


def test_a_better_look_is_what_is_drawn(
    tiny_base: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With scores planted so that the second look is the best, its parameters are what the adapter holds."""
    from mascot.evaluation.selection import validation
    from mascot.evaluation.selection.criterion import ValidationResult

    order = iter([0.3, 0.9, 0.2, 0.1])

    def planted(*_: Any) -> ValidationResult:
        return ValidationResult(likeness=next(order), prompt=0.9, nearest=0.0)

    monkeypatch.setattr(validation.Validation, "measure", planted)
    monkeypatch.setattr(validation.Validation, "recommend", lambda *_: None)
    monkeypatch.setattr(validation.Validation, "frame", references)
    run, said = trained(recipe_of(tiny_base, home, "selection.patience=2"), tmp_path / "run")
    assert "step 20 is kept" in said["chosen"]
    assert "up to step 40" in said["chosen"]
    monkeypatch.undo()
    plain = recipe_of(tiny_base, home, "selection.active=false")
    stopped, _ = trained(plain, tmp_path / "stopped", stop_after=20)
    state, best = (
        load_file(stopped.checkpoint(20) / "state.safetensors"),
        load_file(run.best(20) / "stage0.safetensors"),
    )
    assert all(torch.equal(state[f"parameter.{key}"], value) for key, value in best.items())
    whole, _ = trained(plain, tmp_path / "whole")
    ours, last = Adapter.read(run.adapter).tensors, Adapter.read(whole.adapter).tensors
    assert any(not torch.equal(ours[key], last[key]) for key in last)
    assert sorted(float(value.sum()) for value in ours.values()) == pytest.approx(
        sorted(float(value.sum()) for value in best.values())
    )


def references(*_: Any) -> Any:
    """Between 0 and 1."""
    from mascot.evaluation.selection.criterion import ReferenceScores

    return ReferenceScores(base_likeness=0.0, real_likeness=1.0, base_prompt=1.0, floor_prompt=0.0, real_nearest=1.0)


def test_where_it_cannot_be_done_it_says_why_and_training_goes_on(tiny_base: Path, home: Path, tmp_path: Path) -> None:
    """No class noun, too short a run, encoders that are not there."""
    cases = {
        "class noun": recipe_of(tiny_base, home, class_noun=None),
        "too short": recipe_of(tiny_base, home, "training.steps=2"),
        "nowhere": recipe_of(tiny_base, home, "selection.identity=./nowhere"),
    }
    for word, recipe in cases.items():
        run, said = trained(recipe, tmp_path / word.replace(" ", "_"))
        assert word in said["chosen"]
        assert "last step is kept" in said["chosen"]
        assert run.adapter.exists()


def test_validation_prompts_are_none_that_are_reported() -> None:
    """What is chosen on is not what is reported on."""
    reported = {
        *STARTER.things,
        *STARTER.live,
        *PAPER.things,
        *PAPER.live,
        *(prompt for group in CONTEXTS.values() for prompt in group),
    }
    assert not reported & {*STARTER_VALIDATION.things, *STARTER_VALIDATION.live}
