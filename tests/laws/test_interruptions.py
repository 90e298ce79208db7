"""The law of ending: Ctrl-C and SIGTERM end a command in order, in every phase of it."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from mascot.cli import app
from mascot.errors import received
from mascot.storage.run_folder import Run
from tiny.world import World

SAID = "mascot: interrupted; finished work is kept.\n"
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}
SETTINGS = (
    "device=cpu",
    "precision=fp32",
    "token=sks",
    "prior.count=2",
    "prior.steps=1",
    "knobs.steps=1",
    "training.steps=2",
    "training.warmup_steps=0",
    "previews.every=1",
    "method.rank=2",
    "selection.checkpoints=1",
)
PHASES = {
    "libraries are imported": "mascot.models.families.registry.import_module",
    "weights are read": "mascot.models.pipeline_stage.open_pipeline",
    "a part is read again": "mascot.models.pipeline_files.read_part",
    "class images": "mascot.data.class_images.read_or_generate",
    "between phases": "mascot.runs.training_steps.check_base",
    "memory is estimated": "mascot.runs.training_run.memory_needs",
    "previews": "mascot.runs.previews.write_image",
    "a step": "mascot.training.loop.training_loss",
    "a checkpoint": "mascot.training.checkpoint.save_file",
    "encoders are read": "mascot.evaluation.metrics.image_encoders._load",
    "the adapter is written": "mascot.adapters.adapter_file.atomic_write",
    "diagnosis": "mascot.evaluation.diagnosis.probe_images.ProbeImages.measurements",
    "report": "mascot.api.train.write_training_report",
}
"""Phase of a training -> a function that it calls."""
QUICK = ("weights are read", "class images", "diagnosis")


@pytest.fixture(autouse=True)
def _handled() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, as in a program that was started from a terminal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a command in this process, and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["mascot", *words])
    with pytest.raises(SystemExit) as ending:
        app.main()
    assert not received, "the next command starts afresh"
    return int(ending.value.code or 0)


def plant(path: str, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Send a signal when a function is called, and turn it into an error, as libraries do."""
    module, _, name = path.rpartition(".")
    try:
        owner: Any = import_module(module)
    except ModuleNotFoundError:
        module, _, kind = module.rpartition(".")
        owner = getattr(import_module(module), kind)
    whole: Callable[..., Any] = getattr(owner, name)
    calls: list[int] = []

    def interrupted(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            try:
                signal.raise_signal(number)
            except KeyboardInterrupt as error:
                raise OSError("a library is at a loss") from error
        return whole(*arguments, **named)

    monkeypatch.setattr(owner, name, interrupted)
    return calls


def train(world: World, out: Path) -> list[str]:
    """The words of a training that passes every phase."""
    encoders = (f"selection.identity={world.identity}", f"selection.clip={world.clip}", "diagnosis.images=2")
    settings = [word for item in (*SETTINGS, *encoders) for word in ("--set", item)]
    photos, base = str(world.folder / "photos"), str(world.base)
    return ["train", photos, "--class-noun", "dog", "--base", base, *settings, "--out", str(out)]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize(
    "phase", [phase if phase in QUICK else pytest.param(phase, marks=pytest.mark.slow) for phase in PHASES]
)
def test_a_training_ends_in_order_in_every_phase(
    world: World,
    phase: str,
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """One line and the shell's exit code, even where a library changes the error."""
    monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / "cache"))
    calls = plant(PHASES[phase], number, monkeypatch)
    code = run(train(world, tmp_path / "run"), monkeypatch)
    assert calls, "the planted function was never called"
    assert (code, capfd.readouterr().err) == (SIGNALS[number], SAID)
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")], "nothing is half-written"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["generate", "evaluate", "diagnose"])
def test_other_commands_end_in_order_too(
    world: World, command: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / "cache"))
    plant("mascot.models.pipeline_stage.open_pipeline", signal.SIGTERM, monkeypatch)
    encoders = ["--identity", str(world.identity), "--clip", str(world.clip)]
    words = [command, str(world.run.folder), *(["a dog"] if command == "generate" else encoders)]
    assert run(words, monkeypatch) == 143
    assert capfd.readouterr().err == SAID


def test_an_interruption_that_a_finalizer_loses_ends_the_command_at_the_next_event(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    def lose(*_: object) -> None:
        made = Finalized()
        del made
        gc.collect()

    monkeypatch.setattr("mascot.runs.opening.check_same", lose)
    assert run(train(world, tmp_path / "run"), monkeypatch) == 130
    assert capfd.readouterr().err == SAID
    assert not Run(tmp_path / "run").adapter.exists()
