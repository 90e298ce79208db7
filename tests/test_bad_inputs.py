"""The law of the edge: what a user can mend ends in exit code 2 and one sentence that says what to do, and nothing is written."""

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
from bad_commands import PLAIN, Command, bad_commands
from bad_photos import noise

from mascot import cli, prior
from mascot.trainer import Loop

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = bad_commands()
SENTENCE = re.compile(r"mascot: \S[^\n]*[.?!]\n")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """The folder with everything that the commands name."""
    from bad_places import lay_out

    folder = tmp_path_factory.mktemp("places")
    lay_out(folder, tiny_base)
    return folder


@pytest.fixture
def here(places: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand in that folder, with caches and temporary files inside it, and leave it as it was found."""
    monkeypatch.chdir(places)
    for name in ("TMPDIR", "MASCOT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(places / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", str(places / "temporary"))
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    monkeypatch.setattr(Loop, "steps", never)
    monkeypatch.setattr(prior, "class_pictures", never)
    (places / "temporary").mkdir(exist_ok=True)
    before = set(places.iterdir())
    yield places
    for path in set(places.iterdir()) - before:
        shutil.rmtree(path)


def never(*arguments: object, **options: object) -> None:
    """Stand where the long work begins."""
    pytest.fail("a bad input must be refused before the first step and the first class picture")


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every entry below a folder, with its kind, size and time of change; a folder's own time is left out."""
    found: dict[str, tuple[int, int, int]] = {}
    for parent, folders, files in os.walk(folder):
        for name in folders + files:
            facts = (Path(parent) / name).lstat()
            found[os.path.join(parent, name)] = (facts.st_mode, facts.st_size, facts.st_mtime_ns) if name in files else (facts.st_mode, 0, 0)
    return found


def refused(words: Sequence[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> str:
    """Run a command in this process and return its one sentence; every other end is a failure."""
    before = snapshot(folder)
    monkeypatch.setattr(sys, "argv", ["mascot", *words])
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capfd.readouterr().err
    assert stop.value.code == 2, said
    assert SENTENCE.fullmatch(said), said
    assert changes(before, snapshot(folder)) == {}
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
