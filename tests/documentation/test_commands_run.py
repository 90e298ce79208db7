"""Laws of the documentation's commands: each runs as it stands, made short by further settings.

The commands of a page run in their order, in a folder of the page's own, on the embedded base. A
command may read what one before it wrote. Only lengths are changed: steps, and numbers of images.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from pathlib import Path

import pytest

from documentation.commands_not_run import reason_not_to_run
from documentation.documented_commands import Documented, commands
from documentation.markdown_pages import ROOT, name_of
from documentation.workspace import PROMPT, SMALL, make_workspace, workspace_of
from tiny.commands import Command

FIRST = {command.text: command for command in reversed(commands())}
"""Command -> where it stands first; it runs there, and not again."""
RUN = [command for command in FIRST.values() if reason_not_to_run(command.text) is None]
PAGES = {
    name_of(page): list(members)
    for page, members in groupby(sorted(RUN, key=commands().index), key=lambda command: command.page)
}
SHORTER = {"--steps": "2", "--trials": "2", "--images": "1", "--prompts": "1", "--count": "1"}
"""Option -> its value here, whatever stands in the documentation."""
ADDED = {
    "evaluate": ("--images", "1", "--prompt", PROMPT),
    "diagnose": ("--prompt", PROMPT),
    "suite": ("--images", "1", "--prompts", "1"),
    "generate": ("--count", "1"),
}
"""Command -> options that make it shorter, where they are not given."""


def shortened(words: Sequence[str]) -> list[str]:
    """The same command with fewer steps and images."""
    name, found = words[1], [shorter_value(before, word) for before, word in zip(["", *words], words, strict=False)]
    if "--resume" in found and "--steps" in found:
        found[found.index("--steps") + 1] = "3"
    if name in {"train", "doctor", "suite"} and len(found) > 2 and "--resume" not in found:
        found += small_settings(name, found)
    added = ADDED.get(name, ())
    pairs = [pair for pair in zip(added[::2], added[1::2], strict=True) if pair[0] not in found]
    pairs = [] if "--real" in found else pairs
    return [*found, *(word for pair in pairs for word in pair)]


def shorter_value(option: str, word: str) -> str:
    """A word of a command, with the steps that it names made few."""
    if option in SHORTER and word.isdecimal():
        return SHORTER[option]
    return re.sub(r"@200\b", "@1", re.sub(r"@200,400\b", "@1,2", word)).replace("steps=200,400", "steps=1,2")


def small_settings(name: str, words: Sequence[str]) -> list[str]:
    """Settings that make a training short, without those that are given or have no effect."""
    given = {after.partition("=")[0] for word, after in pairwise(words) if word == "--set"}
    unused = {"prior.weight=0", "prior.form=outputs", "textual-inversion"} & set(words)
    recipe = [after for word, after in pairwise(words) if word == "--recipe"]
    unused |= {"recipe"} & {"recipe" for place in recipe if "outputs" in Path(place).read_text(encoding="utf-8")}
    settings = [one for one in SMALL if one.partition("=")[0] not in given]
    settings = [one for one in settings if not (unused and one.startswith("prior."))]
    settings = [one for one in settings if not (name == "suite" and one.startswith("diagnosis."))]
    settings = [one for one in settings if not ("--steps" in words and one.startswith("training.steps"))]
    token = [] if name == "suite" or "--token" in words or "--from" in words or recipe else tokens_of(words)
    return [*token, *(word for one in settings for word in ("--set", one))]


def tokens_of(words: Sequence[str]) -> list[str]:
    """The option that spares the search for a token, with one for each subject."""
    noun = words[words.index("--class-noun") + 1] if "--class-noun" in words else ""
    return ["--token", "sks,zwx" if "," in noun else "sks"]


def clear_output(words: Sequence[str], folder: Path) -> None:
    """Delete what a command will write, which is there for other pages' commands."""
    targets = [after for word, after in pairwise(words) if word == "--out"]
    targets += [words[3]] if words[1] == "convert" else []
    for target in (folder / place for place in targets if "--resume" not in words):
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that each page gets a copy of."""
    folder = tmp_path_factory.mktemp("documentation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASCOT_CACHE", str(folder / "cache"))
        yield make_workspace(folder / "template")


def run_script(words: Sequence[str]) -> tuple[int, str]:
    """Run a script of the examples in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, *words[1:]], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(
    page: str, template: Path, tmp_path: Path, mascot: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workspace_of(page, template, tmp_path / "work")
    monkeypatch.chdir(folder)
    failed: dict[str, str] = {}
    for command in PAGES[page]:
        words = command.words
        if words[0] == "mascot":
            clear_output(words, folder)
            given = words if words[1].startswith("--") else shortened(words)
            code, _, errors = mascot(*given[1:])
        else:
            code, errors = run_script(words)
        if code:
            failed[command.text] = errors
    assert failed == {}


def test_only_lengths_are_changed() -> None:
    """What is added makes a command short; what is replaced are numbers."""
    texts = ["mascot generate runs/owl@200 'a dog' --seed 3", "mascot sweep r.toml --over steps=200,400 --trials 20"]
    assert [shortened(Documented(ROOT, text).words) for text in texts] == [
        ["mascot", "generate", "runs/owl@1", "a dog", "--seed", "3", "--count", "1"],
        ["mascot", "sweep", "r.toml", "--over", "steps=1,2", "--trials", "2"],
    ]
