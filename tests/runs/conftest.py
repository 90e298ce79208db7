"""The command `mascot`, run in this process on the tiny base."""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from mascot.cli.app import main
from mascot.storage.run_folder import Run

QUICK = (
    "token=sks",
    "training.checkpoint_every=2",
    "training.batch_size=2",
    "previews.every=0",
    "knobs.steps=1",
    "prior.weight=0",
    "selection.active=false",
    "diagnosis.active=false",
)
"""Settings of quick runs, which every method accepts."""

Mascot = Callable[..., tuple[int, str]]
"""Runs a command; returns its exit code and what it printed, in one line."""
Train = Callable[..., Path]
"""Trains a quick run into a folder, which must succeed."""


@pytest.fixture(scope="module")
def mascot(home: Path) -> Mascot:
    def run(*words: object) -> tuple[int, str]:
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setenv("MASCOT_CACHE", str(home / "cache"))
            patch.setattr("mascot.api.train.write_training_report", lambda *_: None)
            patch.setattr("mascot.runs.training_run.memory_needs", lambda *_: None)
            patch.setattr(sys, "argv", ["mascot", *map(str, words)])
            with pytest.raises(SystemExit) as stop:
                main()
        assert "Traceback" not in err.getvalue()
        return int(stop.value.code or 0), " ".join((err if stop.value.code else out).getvalue().split())

    return run


@pytest.fixture(scope="module")
def train(mascot: Mascot, home: Path, tiny_base: Path) -> Train:
    def run(out: Path, *words: object, settings: tuple[str, ...] = ()) -> Path:
        rate = ("method.learning_rate=1e-2",) * ("method.name=pivotal" not in settings)
        chosen = [word for setting in (*QUICK, *rate, *settings) for word in ("--set", setting)]
        given = ["train", home / "photos", "--class-noun", "dog", "--base", tiny_base, *chosen, "--out", out]
        code, printed = mascot(*given, *words)
        assert code == 0, printed
        return out

    return run


@pytest.fixture(scope="module")
def finished(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of four steps at a constant learning rate; read only."""
    return Run(train(tmp_path_factory.mktemp("finished") / "run", "--steps", 4))


def commands(sentence: str) -> list[list[str]]:
    """The commands that a sentence names in backticks, without the program's name."""
    return [shlex.split(part)[1:] for part in sentence.split("`")[1::2] if part.startswith("mascot ")]
