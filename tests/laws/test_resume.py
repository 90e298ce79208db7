"""Laws of resuming: a run stopped at any moment ends in the bytes of one that never stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mascot.api.train import train
from mascot.cli.app import main
from mascot.errors import UserError
from mascot.recipe.recipe import Recipe
from mascot.storage.run_folder import Run
from reliability.processes import PROCESSES

STEPS = 8
OVERRIDES = (
    f"training.steps={STEPS}",
    "training.checkpoint_every=2",
    "training.lr_schedule=cosine",
    "training.warmup_steps=2",
    "training.batch_size=2",
    "previews.every=4",
    "knobs.steps=1",
    "prior.count=1",
    "prior.steps=1",
    "method.learning_rate=1e-2",
    "method.text_learning_rate=1e-3",
    "method.rank=4",
)
Moment = tuple[str, str, int]
"""Module, function in it, and at which of its calls, from 1, the process ends as by `kill -9`."""

MOMENTS: dict[str, Moment] = {
    "before the first step": ("mascot.training.loop", "Loop.steps", 1),
    "before the first checkpoint": ("mascot.runs.training_steps", "save_checkpoint", 1),
    "when a checkpoint is half written": ("mascot.training.checkpoint", "save_file", 2),
    "right after a checkpoint appears": ("mascot.runs.training_steps", "delete_old_checkpoints", 2),
    "between two checkpoints": ("mascot.training.loop", "Loop.accumulate", 6),
    "after the last step": ("mascot.adapters.adapter_file", "Adapter.write", STEPS // 2 + 1),
}


def plant(moment: Moment) -> None:
    """Kill this process at the n-th call of a function; `save_file` leaves half a file before."""
    module, path, at = moment
    owner: Any = import_module(module)
    for part in path.split(".")[:-1]:
        owner = getattr(owner, part)
    name = path.rpartition(".")[2]
    whole, calls = getattr(owner, name), [0]

    def mined(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == at:
            if name == "save_file":
                whole(*arguments, **named)
                arguments[1].write_bytes(arguments[1].read_bytes()[:1000])
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*arguments, **named)

    setattr(owner, name, mined)


def command(
    words: list[str], environment: dict[str, str], output: Path, moment: Moment | None, *, report: bool
) -> None:
    """Run one command of the command line in this process."""
    os.environ.update(environment)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = ["mascot", *words]
    if not report:
        module: Any = import_module("mascot.api.train")
        module.write_training_report = lambda *_: None
    if moment is not None:
        plant(moment)
    # Tests that run in the background inherit that Ctrl-C is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()


class Command:
    """One command in a process of its own."""

    def __init__(self, words: list[str], home: Path, moment: Moment | None = None, *, report: bool = False) -> None:
        self.output = home / f"output{time.monotonic_ns()}.txt"
        environment = {"MASCOT_CACHE": str(home / "cache")}
        self.process = PROCESSES.Process(
            target=command, args=(words, environment, self.output, moment), kwargs={"report": report}
        )
        self.process.start()

    def kill_when(self, ready: Callable[[], bool], number: signal.Signals) -> None:
        """Send a signal as soon as something is true."""
        deadline = time.monotonic() + 300
        while not ready() and self.process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.002)
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def ended(self) -> tuple[int | None, str]:
        """Its exit code (negative for a signal) and what it printed."""
        self.process.join(300)
        return self.process.exitcode, self.output.read_text(encoding="utf-8") if self.output.exists() else ""


def start(base: Path, home: Path, out: Path) -> list[str]:
    settings = [word for override in OVERRIDES for word in ("--set", override)]
    return ["train", str(home / "photos"), "--class-noun", "dog", "--base", str(base), *settings, "--out", str(out)]


def resumed(out: Path, home: Path) -> None:
    code, printed = Command(["train", "--resume", "--out", str(out)], home).ended()
    assert code == 0, printed


@pytest.fixture(scope="module")
def uninterrupted(tiny_base: Path, home: Path) -> Run:
    """A run that never stopped, with its report."""
    code, printed = Command(start(tiny_base, home, home / "whole"), home, report=True).ended()
    assert code == 0, printed
    return Run(home / "whole")


def assert_equal(run: Run, whole: Run) -> None:
    """The same adapter, log, recipe and previews; and no temporary file is left."""
    assert run.adapter.read_bytes() == whole.adapter.read_bytes()
    assert run.steps.read_text(encoding="utf-8") == whole.steps.read_text(encoding="utf-8")
    assert run.recipe.read_bytes() == whole.recipe.read_bytes()
    assert run.effective.read_bytes() == whole.effective.read_bytes()
    for step, images in whole.previews().items():
        assert [path.read_bytes() for path in run.previews()[step]] == [path.read_bytes() for path in images]
    assert [path.name for path in run.folder.rglob(".*.tmp")] == []


def test_a_run_that_never_stopped_is_whole_and_can_be_repeated(tiny_base: Path, home: Path, uninterrupted: Run) -> None:
    rows = uninterrupted.read_steps()
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert uninterrupted.report.exists()
    assert sorted(uninterrupted.previews()) == [0, 4, 8]
    assert len(list((home / "whole" / "checkpoints").iterdir())) == 2
    code, printed = Command(start(tiny_base, home, home / "again"), home).ended()
    assert code == 0, printed
    assert_equal(Run(home / "again"), uninterrupted)


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_resumed_is_never_killed(
    tiny_base: Path, home: Path, uninterrupted: Run, moment: str, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    assert Command(start(tiny_base, home, run.folder), home, MOMENTS[moment]).ended()[0] == -signal.SIGKILL
    assert not run.adapter.exists()
    resumed(run.folder, home)
    assert_equal(run, uninterrupted)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)], ids=["kill -9", "Ctrl-C"]
)
def test_stopped_from_outside_when_a_checkpoint_appears_and_resumed_is_never_stopped(
    tiny_base: Path, home: Path, uninterrupted: Run, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    run = Run(tmp_path / "run")
    running = Command(start(tiny_base, home, run.folder), home)
    running.kill_when(lambda: run.last_checkpoint() is not None, number)
    ended, printed = running.ended()
    assert ended == code, printed
    assert len(run.read_steps()) >= 2
    resumed(run.folder, home)
    assert_equal(run, uninterrupted)


def test_stopped_twice_and_resumed_twice_is_never_stopped(
    tiny_base: Path, home: Path, uninterrupted: Run, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    assert (
        Command(start(tiny_base, home, run.folder), home, ("mascot.training.loop", "Loop.accumulate", 4)).ended()[0]
        == -signal.SIGKILL
    )
    again = Command(
        ["train", "--resume", "--out", str(run.folder)], home, ("mascot.training.loop", "Loop.accumulate", 4)
    )
    assert again.ended()[0] == -signal.SIGKILL
    resumed(run.folder, home)
    assert_equal(run, uninterrupted)
    resumed(run.folder, home)  # a finished run has nothing left to do
    assert_equal(run, uninterrupted)


def test_killed_before_anything_was_written_it_can_simply_be_started_again(
    tiny_base: Path, home: Path, uninterrupted: Run, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    words = start(tiny_base, home, run.folder)
    assert Command(words, home, ("mascot.runs.training_run", "TrainingRun.batches", 1)).ended()[0] == -signal.SIGKILL
    shutil.rmtree(run.folder)
    run.folder.mkdir()
    run.lock.touch()
    code, printed = Command(words, home).ended()
    assert code == 0, printed
    assert_equal(run, uninterrupted)


@pytest.fixture
def copied(uninterrupted: Run, tmp_path: Path) -> Run:
    return Run(Path(shutil.copytree(uninterrupted.folder, tmp_path / "copy")))


def refusal(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a command ends with exit code 2."""
    monkeypatch.setattr(sys, "argv", ["mascot", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_resumed_run_keeps_its_recipe(
    copied: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = copied.adapter.read_bytes()
    resume = ["train", "--resume", "--out", str(copied.folder)]
    for words in (["--seed", "1"], ["--set", "method.rank=8"], ["--base", "starter"]):
        assert "cannot be resumed with" in refusal([*resume, *words], monkeypatch, capsys)
    assert "--out" in refusal(["train", "--resume"], monkeypatch, capsys)
    recipe = Recipe.read(copied.recipe)
    with pytest.raises(UserError, match="seed from 0 to 1"):
        train(recipe.model_copy(update={"seed": 1}), out=copied.folder, resume=True)
    assert copied.adapter.read_bytes() == before


def test_a_run_is_never_overwritten(copied: Run) -> None:
    before = {path: path.read_bytes() for path in copied.folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="not empty"):
        train(Recipe.read(copied.recipe), out=copied.folder)
    assert {path: path.read_bytes() for path in copied.folder.rglob("*") if path.is_file()} == before


def test_what_is_no_run_cannot_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "not a mascot run" in refusal(["train", "--resume", "--out", str(tmp_path)], monkeypatch, capsys)


@pytest.mark.parametrize("change", ["another picture", "one more", "one less"])
def test_other_photos_are_refused(copied: Run, home: Path, tmp_path: Path, change: str) -> None:
    photos = Path(shutil.copytree(home / "photos", tmp_path / "photos"))
    recipe = Recipe.read(copied.recipe).model_copy(update={"photos": (str(photos),)})
    copied.recipe.write_text(recipe.to_toml(), encoding="utf-8")
    if change == "another picture":
        with Image.open(photos / "0.png") as image:
            changed = image.convert("RGB")
        changed.putpixel((0, 0), (1, 2, 3))
        changed.save(photos / "0.png")
    elif change == "one more":
        shutil.copy(photos / "0.png", photos / "9.png")
    else:
        (photos / "0.png").unlink()
    with pytest.raises(UserError, match="photos changed since"):
        train(recipe, out=copied.folder, resume=True)


def test_another_base_is_refused(copied: Run) -> None:
    facts = json.loads(copied.effective.read_text(encoding="utf-8"))
    copied.effective.write_text(json.dumps(facts | {"base": "0" * 16}), encoding="utf-8")
    with pytest.raises(UserError, match="base changed since"):
        train(Recipe.read(copied.recipe), out=copied.folder, resume=True)


def test_two_processes_cannot_share_a_run(copied: Run, home: Path) -> None:
    with copied.locked():
        code, printed = Command(["train", "--resume", "--out", str(copied.folder)], home).ended()
    assert code == 2
    assert "in use by another mascot process" in printed
    assert str(copied.folder) in " ".join(printed.split())
    resumed(copied.folder, home)  # and the lock was let go


def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_goes_on(
    copied: Run, home: Path, uninterrupted: Run
) -> None:
    last = copied.last_checkpoint()
    assert last is not None
    state = last / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-1])
    code, printed = Command(["train", "--resume", "--out", str(copied.folder)], home).ended()
    assert code == 2
    assert last.name in " ".join(printed.split())
    shutil.rmtree(last)  # what the sentence says
    resumed(copied.folder, home)
    assert_equal(copied, uninterrupted)


def test_a_log_cut_off_in_a_line_is_mended(copied: Run, home: Path, uninterrupted: Run) -> None:
    text = copied.steps.read_text(encoding="utf-8")
    copied.steps.write_text(text[:-20], encoding="utf-8")
    last = copied.last_checkpoint()
    assert last is not None
    shutil.rmtree(last)
    resumed(copied.folder, home)
    assert [json.loads(line)["step"] for line in copied.steps.read_text(encoding="utf-8").splitlines()] == list(
        range(1, STEPS + 1)
    )
    assert_equal(copied, uninterrupted)
