"""Laws of validation while training: the best checkpoint is kept, and selection resumes exactly."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mascot.adapters.adapter_file import Adapter
from mascot.api.train import train
from mascot.evaluation.selection.criterion import ReferenceScores, ValidationResult
from mascot.evaluation.selection.validation import Validation
from mascot.evaluation.selection.validation_set import ValidationSet
from mascot.generation.loading import recommended_knobs
from mascot.generation.prompts.prompt_sets import CONTEXTS, PAPER, STARTER, STARTER_VALIDATION
from mascot.methods.registry import settings_of
from mascot.progress import CheckpointChosen, Event, KnobsChosen, SettingsResolved, StepTrained
from mascot.recipe.recipe import Recipe
from mascot.runs.phase_schedule import plan_spans
from mascot.storage.run_folder import Run

STEPS = 40
COMMON = (
    f"training.steps={STEPS}",
    "training.warmup_steps=0",
    "previews.every=0",
    "prior.weight=0",
    "precision=fp32",
    "device=cpu",
    "knobs.steps=1",
    "method.rank=2",
    "method.learning_rate=1e-2",
    "selection.identity=starter",
    "selection.clip=starter",
    "selection.checkpoints=4",
)


@pytest.fixture(autouse=True)
def _cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASCOT_CACHE", str(home / "cache"))


def recipe_of(base: Path, home: Path, *overrides: str, class_noun: str | None = "dog") -> Recipe:
    return Recipe.preset(
        base=str(base), overrides=(*COMMON, *overrides), photos=(str(home / "photos"),), class_noun=class_noun
    )


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A run and its last event of each kind."""

    run: Run
    events: dict[type[Event], Event]

    @property
    def selection_images(self) -> int:
        """Images that selection was to generate at most."""
        event = self.events[SettingsResolved]
        assert isinstance(event, SettingsResolved)
        return event.selection_images

    @property
    def checkpoint_reason(self) -> str:
        """Why the checkpoint was selected."""
        event = self.events[CheckpointChosen]
        assert isinstance(event, CheckpointChosen)
        return event.reason

    @property
    def knobs_reason(self) -> str:
        """Why the knobs were recommended."""
        event = self.events[KnobsChosen]
        assert isinstance(event, KnobsChosen)
        return event.reason


def trained(recipe: Recipe, out: Path, *, resume: bool = False, stop_after: int | None = None) -> Trained:
    """Train without a report; a step to stop after is interrupted as by Ctrl-C."""
    events: dict[type[Event], Event] = {}

    def watch(event: Event) -> None:
        events[type(event)] = event
        if isinstance(event, StepTrained) and event.step == stop_after:
            raise KeyboardInterrupt

    if stop_after is None:
        return Trained(run=train(recipe, out=out, resume=resume, report=False, on_event=watch), events=events)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, out=out, resume=resume, report=False, on_event=watch)
    return Trained(run=Run(out), events=events)


@pytest.fixture(scope="module")
def selected(tiny_base: Path, home: Path) -> Trained:
    """A run with selection."""
    return trained(recipe_of(tiny_base, home), home / "selected")


def results(run: Run) -> list[dict[str, Any]]:
    return json.loads(run.selection.read_text(encoding="utf-8"))["selector"]["results"]


def test_it_validates_at_even_steps_and_keeps_the_best(selected: Trained) -> None:
    """Only the best checkpoint's parameters are kept."""
    steps = [result["step"] for result in results(selected.run)]
    assert steps == [10, 20, 30, 40][: len(steps)]
    assert selected.selection_images > 0
    kept = sorted((selected.run.folder / "best").iterdir())
    assert len(kept) == 1
    assert f"step {int(kept[0].name.removeprefix('step'))} is kept" in selected.checkpoint_reason


def test_the_adapter_records_the_recommended_knobs(selected: Trained) -> None:
    """`generate` uses the recommended knobs by default."""
    adapter = Adapter.read(selected.run.adapter)
    assert adapter.manifest is not None
    assert adapter.manifest.knobs is not None
    assert selected.knobs_reason.startswith(f"guidance {adapter.manifest.knobs['guidance']:g}, ")
    assert recommended_knobs(adapter).model_dump() == adapter.manifest.knobs
    assert adapter.manifest.knobs["height"] is None


@pytest.mark.parametrize("step", [5, 20, 31])
def test_selection_resumes_to_the_bit(
    tiny_base: Path, home: Path, tmp_path: Path, selected: Trained, step: int
) -> None:
    """Stopped before, at and after a validation: the same results, adapter and knobs."""
    recipe = recipe_of(tiny_base, home)
    if step > len(selected.run.read_steps()):
        pytest.skip("training had stopped before")
    trained(recipe, tmp_path / "run", stop_after=step)
    run = trained(recipe, tmp_path / "run", resume=True).run
    assert run.selection.read_bytes() == selected.run.selection.read_bytes()
    assert run.adapter.read_bytes() == selected.run.adapter.read_bytes()


def test_selection_changes_no_step(tiny_base: Path, home: Path, tmp_path: Path, selected: Trained) -> None:
    """The losses are those of a run without selection, which keeps the last step and no knobs."""
    plain = trained(recipe_of(tiny_base, home, "selection.active=false"), tmp_path / "run")
    run, with_selection = plain.run, selected.run.read_steps()
    assert run.read_steps()[: len(with_selection)] == with_selection
    assert "switched off" in plain.checkpoint_reason
    adapter = Adapter.read(run.adapter)
    assert adapter.manifest is not None
    assert adapter.manifest.knobs is None
    assert adapter.manifest.step == STEPS
    assert not run.selection.exists()


def test_the_best_checkpoint_is_what_is_exported(
    tiny_base: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are planted so that the second checkpoint is the best, and the adapter holds it."""
    order = iter([0.3, 0.9, 0.2, 0.1])

    def planted(*_: Any) -> ValidationResult:
        return ValidationResult(likeness=next(order), prompt_fidelity=0.9, nearest_photo=0.0)

    monkeypatch.setattr(ValidationSet, "measure", planted)
    monkeypatch.setattr(ValidationSet, "references", planted_references)
    monkeypatch.setattr(Validation, "recommend", lambda *_: None)
    best_of_four = trained(recipe_of(tiny_base, home, "selection.patience=2"), tmp_path / "run")
    run = best_of_four.run
    assert "step 20 is kept" in best_of_four.checkpoint_reason
    assert "up to step 40" in best_of_four.checkpoint_reason
    monkeypatch.undo()
    plain = recipe_of(tiny_base, home, "selection.active=false")
    stopped = trained(plain, tmp_path / "stopped", stop_after=20).run
    state, best = (
        load_file(stopped.checkpoint(20) / "state.safetensors"),
        load_file(run.best(20) / "stage0.safetensors"),
    )
    assert all(torch.equal(state[f"parameter.{key}"], value) for key, value in best.items())
    whole = trained(plain, tmp_path / "whole").run
    ours, last = Adapter.read(run.adapter).tensors, Adapter.read(whole.adapter).tensors
    assert any(not torch.equal(ours[key], last[key]) for key in last)
    assert sorted(float(value.sum()) for value in ours.values()) == pytest.approx(
        sorted(float(value.sum()) for value in best.values())
    )


def planted_references(*_: Any) -> ReferenceScores:
    """References that leave values as they are."""
    return ReferenceScores(
        base_likeness=0.0,
        real_likeness=1.0,
        base_prompt_fidelity=1.0,
        noise_prompt_fidelity=0.0,
        real_nearest_photo=1.0,
    )


def test_without_selection_the_reason_is_given_and_training_goes_on(
    tiny_base: Path, home: Path, tmp_path: Path
) -> None:
    """No class noun, too short a run, encoders that are not there."""
    cases = {
        "class noun": recipe_of(tiny_base, home, class_noun=None),
        "too short": recipe_of(tiny_base, home, "training.steps=2"),
        "nowhere": recipe_of(tiny_base, home, "selection.identity=./nowhere"),
    }
    for word, recipe in cases.items():
        result = trained(recipe, tmp_path / word.replace(" ", "_"))
        assert word in result.checkpoint_reason
        assert "last step is kept" in result.checkpoint_reason
        assert result.run.adapter.exists()


def test_no_validation_prompt_is_one_that_reports_are_measured_on() -> None:
    reported = {
        *STARTER.objects,
        *STARTER.live,
        *PAPER.objects,
        *PAPER.live,
        *(prompt for group in CONTEXTS.values() for prompt in group),
    }
    assert not reported & {*STARTER_VALIDATION.objects, *STARTER_VALIDATION.live}


@pytest.mark.parametrize(("share", "steps"), [(0.5, {3, 4}), (0.75, {4}), (0.99, set[int]())])
def test_the_end_of_an_earlier_phase_is_not_validated(share: float, steps: set[int]) -> None:
    """It trained other parameters than the last phase, into which they could not be loaded."""
    spans = plan_spans(1, settings_of("pivotal").model_validate({"token_share": share}), 4)
    run: Any = SimpleNamespace(spans=spans)
    assert Validation(run=run, checkpoints=3, knob_images=0).steps == steps
