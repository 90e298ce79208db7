"""The law of the edge: a user error ends in exit code 2, one sentence, and nothing written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from laws.bad_commands import PLAIN, Command, bad_commands
from laws.bad_questions import JUDGES, bad_questions
from mascot.cli import app
from mascot.data import class_images
from mascot.storage.run_folder import Run
from mascot.training.loop import Loop
from tiny.photos import noise

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [*bad_commands(), *bad_questions()]
SENTENCE = re.compile(r"mascot: \S[^\n]*[.?!]\n")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """The folder with everything that the commands name."""
    from laws.bad_places import lay_out

    folder = tmp_path_factory.mktemp("places")
    lay_out(folder, tiny_base)
    return folder


@pytest.fixture
def here(places: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in that folder, with caches and temporary files inside it, and leave it unchanged."""
    monkeypatch.chdir(places)
    for name in ("TMPDIR", "MASCOT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(places / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", str(places / "temporary"))
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    monkeypatch.setattr(Loop, "steps", never)
    monkeypatch.setattr(class_images, "read_or_generate", never)
    (places / "temporary").mkdir(exist_ok=True)
    before = set(places.iterdir())
    yield places
    for path in set(places.iterdir()) - before:
        shutil.rmtree(path)


def never(*_: object, **__: object) -> None:
    """Stand where the long work begins."""
    pytest.fail("a bad input must be refused before the first step and the first class picture")


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every entry below a folder, with kind, size and time of change (not a folder's own)."""
    found: dict[str, tuple[int, int, int]] = {}
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in folders + files):
            facts = path.lstat()
            found[str(path)] = (
                (facts.st_mode, 0, 0) if path.name in folders else (facts.st_mode, facts.st_size, facts.st_mtime_ns)
            )
    return found


def refused(
    words: Sequence[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> str:
    """Run a command here and return its one sentence; any other end, or a written file, fails."""
    before = snapshot(folder)
    said = sentence_of(words, monkeypatch, capfd)
    assert changes(before, snapshot(folder)) == {}
    return said


def sentence_of(words: Sequence[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> str:
    """Run a command in this process and return its one sentence; every other end is a failure."""
    monkeypatch.setattr(sys, "argv", ["mascot", *words])
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        app.main()
    said = capfd.readouterr().err
    assert stop.value.code == 2, said
    assert SENTENCE.fullmatch(said), said
    return said.removeprefix("mascot: ")


def changes(before: dict[str, tuple[int, int, int]], after: dict[str, tuple[int, int, int]]) -> dict[str, object]:
    """What was added, removed or changed."""
    return {key: after.get(key, "gone") for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def write(folder: Path, command: Command) -> None:
    """Write a command's own files; `GOOD` stands for a good photo."""
    for name, data in command.files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if data == b"GOOD":
            noise().save(path)
        else:
            path.write_bytes(data)


def test_there_are_more_than_two_hundred_and_no_two_are_the_same() -> None:
    assert len(COMMANDS) > 200
    assert len({(command.words, tuple(command.files.items())) for command in COMMANDS}) == len(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_mistake_ends_in_one_sentence_and_nothing_is_written(
    command: Command, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write(here, command)
    said = refused(command.words, here, monkeypatch, capfd)
    assert command.says.lower() in said.lower()


def test_every_bad_photo_is_refused_when_it_is_the_only_one(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    photos = [
        path
        for path in sorted((here / "bad").iterdir())
        if not path.name.endswith(".mask.png") and path.name != "folder.jpg"
    ]
    assert len(photos) > 100
    before = snapshot(here)
    for photo in photos:
        assert photo.name in sentence_of(
            ["train", f"bad/{photo.name}", "--base", "base", "--out", "out", *PLAIN], monkeypatch, capfd
        )
    assert changes(before, snapshot(here)) == {}


def test_a_bad_photo_is_named_also_without_a_folder_for_the_run(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("loop.png", "lost.jpg", "empty.jpg"):
        assert name in refused(["train", f"bad/{name}", "--base", "base", *PLAIN], here, monkeypatch, capfd)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="this system has no folder that nobody may write to")
@pytest.mark.parametrize(
    "words",
    [
        ["train", "photos", "--base", "base", "--out", "/proc/run", *PLAIN],
        ["generate", "adapter.safetensors", "a dog", "--steps", "1", "--count", "1", "--out", "/proc/pictures"],
        ["suite", "collection", "--base", "base", "--out", "/proc/suite", *JUDGES],
        ["compare", "runs/scored", "runs/scored", "--out", "/proc/page.html"],
        ["sweep", "sweep.toml", "--over", "method.rank=2,4", "--out", "/proc/sweep", *JUDGES[:4]],
        ["sweep", "run", "--over", "guidance=3", "--out", "/proc/knobs.png"],
    ],
    ids=" ".join,
)
def test_a_folder_that_may_not_be_written_is_refused(
    words: list[str], here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    said = refused(words, here, monkeypatch, capfd)
    assert "/proc/" in said


ABSENT = {
    "train photos --base base --out out --set device=mps --set prior.count=0": "give --set device=cpu.",
    "doctor photos --base base --no-measure --set device=mps": "give --set device=cpu.",
    "sweep own/recipe.toml --over device=cpu,mps --out out": "give --set device=cpu.",
    "evaluate adapter.safetensors --photos photos --device mps": "give --device cpu.",
    "evaluate photos --real --device mps": "give --device cpu.",
    "train --resume --out own": "resume it where there is one, or with --set device=cpu.",
}
"""A command that asks for a device that is not there -> what it can be told in its place."""


@pytest.mark.parametrize("line", ABSENT)
def test_a_device_that_is_not_there_is_refused_with_an_option_that_this_command_has(
    line: str, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    (here / "own").mkdir()
    text = 'photos = ["photos"]\nbase = "base"\nclass_noun = "dog"\ndevice = "mps"\n[method]\nname = "lora"\n'
    (here / "own" / "recipe.toml").write_text(text)
    said = refused(line.split(), here, monkeypatch, capfd)
    assert said.startswith("this machine has no mps device; ")
    assert said.strip().endswith(ABSENT[line])


@pytest.mark.parametrize(
    "words",
    [
        ["trian"],
        ["train", "photos", "--sted", "3"],
        ["train", "photos", "--base", "bases/no_vae", "--out", "out", *PLAIN],
        ["generate", "adapters/other_shapes.safetensors", "a dog"],
    ],
    ids=" ".join,
)
def test_a_fresh_process_says_the_same(
    words: list[str], here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    said = refused(words, here, monkeypatch, capfd)
    before = snapshot(here)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    code = "from mascot.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, f"mascot: {said}")
    assert changes(before, snapshot(here)) == {}


def test_a_file_left_behind_is_noticed(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def leave_a_file() -> None:
        Path("temporary/left.tmp").touch()
        sys.stderr.write("mascot: it is not done.\n")
        sys.exit(2)

    monkeypatch.setattr(app, "main", leave_a_file)
    with pytest.raises(AssertionError, match=r"left\.tmp"):
        refused([], here, monkeypatch, capfd)


def test_a_sweep_whose_folder_is_in_use_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "own").mkdir()
    (here / "own" / "recipe.toml").write_text(
        'photos = ["photos"]\nbase = "base"\nclass_noun = "dog"\ndevice = "cpu"\n'
    )
    with Run(here / "out").locked():
        words = [
            "sweep",
            "own/recipe.toml",
            "--over",
            "method.rank=2,4",
            "--out",
            "out",
            "--set",
            "prior.count=0",
            *JUDGES[:4],
        ]
        assert "in use by another mascot process" in refused(words, here, monkeypatch, capfd)


@pytest.mark.parametrize(
    "said", ["mascot: no.\nmascot: no.\n", "Traceback\n", "mascot: it is not done\n", "mascot: \n", ""]
)
def test_anything_but_one_sentence_is_noticed(
    said: str, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def say() -> None:
        sys.stderr.write(said)
        sys.exit(2)

    monkeypatch.setattr(app, "main", say)
    with pytest.raises(AssertionError):
        refused([], here, monkeypatch, capfd)
