"""The law of damaged adapters: each command refuses each in one sentence, and writes nothing."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from laws.bad_places import fresh_adapter
from laws.damaged_files import ENDING, contents, lay_out_damaged, mutated, put
from laws.test_bad_inputs import changes, snapshot
from mascot.cli import app
from mascot.data import class_images
from mascot.generation import generator
from mascot.training.loop import Loop
from tiny.photos import noise

LIMIT: Final = 20.0
"""Seconds after which a command counts as hanging, on a busy machine."""
LONGEST: Final = 900
"""Most letters of a sentence."""
NOTICE: Final = re.compile(r"(mascot|note): [^\n]*\n")
SENTENCE: Final = re.compile(r"mascot: \S[^\n]*[.?!]\n")
MUTATIONS: Final = 300
OUT: Final = f"out{ENDING}"
ALONE: Final = ("--steps", "1", "--count", "1", "--out", "out")

COMMANDS: Final[Mapping[str, Callable[[str], list[str]]]] = {
    "generate": lambda file: ["generate", file, "a dog", "--base", "base", *ALONE],
    "convert": lambda file: ["convert", file, OUT, "--to", "kohya"],
    "inspect": lambda file: ["inspect", file],
    "resize": lambda file: ["resize", file, "--rank", "1", "--out", OUT],
    "merge --into": lambda file: ["merge", file, "--into", "base", "--out", "out"],
    "generate --adapter": lambda file: ["generate", f"{OTHER}", "a dog", "--adapter", file, "--base", "base", *ALONE],
    "convert --to diffusers": lambda file: ["convert", file, OUT, "--to", "diffusers"],
    "convert --to comfyui": lambda file: ["convert", file, OUT, "--to", "comfyui"],
    "convert --to peft": lambda file: ["convert", file, "out", "--to", "peft"],
    "inspect --json": lambda file: ["inspect", "--json", file],
    "merge": lambda file: ["merge", file, f"other={OTHER}", "--out", OUT],
    "merge --rank": lambda file: ["merge", file, "--rank", "1", "--out", OUT],
    "extract": lambda file: ["extract", file, "--base", "base", "--rank", "1", "--out", OUT],
    "extract --base": lambda file: ["extract", "base", "--base", file, "--rank", "1", "--out", OUT],
    "publish": lambda file: ["publish", file, "--repo", "me/owl", "--dry-run", "--out", "out"],
    "evaluate": lambda file: ["evaluate", file, "--photos", "photos", "--base", "base", "--device", "cpu"],
    "train --from": lambda file: ["train", "photos", "--base", "base", "--from", file, "--out", "out", *PLAIN],
}
"""Each command that takes an adapter; the first three are tried by default."""
OTHER: Final = f"other{ENDING}"
PLAIN: Final = ("--class-noun", "dog", "--set", "prior.count=0", "--set", "device=cpu")
DEFAULT: Final = ("kohya", "ours", "bundle", "pickles", "peft")
"""Formats that are tried by default."""


class Reached(BaseException):
    """Raised where the long work begins: the file was accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a command ended."""

    code: object
    """The exit code; None where the long work began."""
    stdout: str
    stderr: str
    seconds: float


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Iterator[tuple[Path, dict[str, list[str]]]]:
    """Work in a folder with all damaged files; returns it, and their paths by format."""
    folder = tmp_path_factory.mktemp("places")
    shutil.copytree(tiny_base, folder / "base")
    fresh_adapter(tiny_base).write(folder / OTHER)
    (folder / "photos").mkdir()
    noise().save(folder / "photos" / "1.png")
    (folder / "temporary").mkdir()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about the kinds of tensors that are put into pickles
        patch.chdir(folder)
        for name in ("TMPDIR", "MASCOT_CACHE", "XDG_CACHE_HOME"):
            patch.setenv(name, str(folder / "temporary"))
        patch.setattr(tempfile, "tempdir", str(folder / "temporary"))
        for owner, name in ((generator, "denoise_stage"), (Loop, "steps"), (class_images, "read_or_generate")):
            patch.setattr(owner, name, reach)
        yield folder, lay_out_damaged(folder / "files", Path("base"))


def reach(*_: object, **__: object) -> None:
    """Stand where the long work begins."""
    raise Reached


def run(words: Sequence[str]) -> End:
    """Run a command in this process."""
    out, err, begun = io.StringIO(), io.StringIO(), time.monotonic()
    code: object = None
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["mascot", *words])
        with contextlib.suppress(Reached):
            try:
                app.main()
            except SystemExit as stop:
                code = stop.code
    return End(code=code, stdout=out.getvalue(), stderr=err.getvalue(), seconds=time.monotonic() - begun)


def faults_of(words: Sequence[str], folder: Path, *, may_pass: bool) -> str:
    """Run a command on a damaged file; say what is wrong with how it ended; empty for nothing."""
    before = snapshot(folder)
    try:
        end = run(words)
    except Exception as error:  # noqa: BLE001 - any traceback is a fault, and all are listed
        return f"{words}: {type(error).__name__}: {error}"
    *notices, sentence = [*end.stderr.splitlines(keepends=True)] or [""]
    wrong: list[str] = []
    warned = words[0] == "inspect" and "warning" in end.stdout
    if end.code == 2:
        if not SENTENCE.fullmatch(sentence) or not all(NOTICE.fullmatch(notice) for notice in notices):
            wrong.append(f"not one sentence: {end.stderr}")
        if changed := changes(before, snapshot(folder)):
            wrong.append(f"written: {list(changed)}")
    elif not may_pass and not (end.code == 0 and warned):
        wrong.append(f"ended with {end.code}")
    if any(not letter.isprintable() and letter != "\n" for letter in end.stdout + end.stderr):
        wrong.append("unprintable letters")
    if len(sentence) > LONGEST:
        wrong.append(f"{len(sentence)} letters")
    if end.seconds > LIMIT:
        wrong.append(f"{end.seconds:.0f} s")
    clean(folder)
    return f"{words}: {'; '.join(wrong)}" if wrong else ""


def clean(folder: Path) -> None:
    """Remove what a command wrote."""
    for path in folder.iterdir():
        if path.name.startswith("out"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def check(files: Sequence[str], commands: Sequence[str], folder: Path) -> None:
    """Give each file to each command, and list all that ends otherwise than in a sentence."""
    faults = [faults_of(COMMANDS[command](file), folder, may_pass=False) for file in files for command in commands]
    found = [fault for fault in faults if fault]
    assert not found, f"{len(found)} of {len(faults)} faults:\n" + "\n".join(found[:40])
    assert not (folder / "ran").exists(), "no code in a file was run"


def test_damaged_files_are_refused_by_what_reads_them_most(places: tuple[Path, dict[str, list[str]]]) -> None:
    folder, files = places
    assert sum(len(own) for own in files.values()) > 400
    check(files["kohya"], ["convert", "inspect"], folder)
    for name in DEFAULT[1:]:
        check(files[name], ["inspect"], folder)
    check([file for name in DEFAULT for file in files[name][::4]], ["generate", "resize"], folder)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_every_damaged_file(places: tuple[Path, dict[str, list[str]]], command: str) -> None:
    folder, files = places
    check([file for name, own in files.items() if name != "whole" for file in own], [command], folder)


@pytest.mark.parametrize("name", ["ours", "kohya", "comfyui", "bundle", "peft"])
def test_the_whole_files_are_accepted(places: tuple[Path, dict[str, list[str]]], name: str) -> None:
    folder, _ = places
    file = f"files/whole/{name}{'' if name == 'peft' else ENDING}"
    for command in list(COMMANDS)[:5]:
        end = run(COMMANDS[command](file))
        assert end.code in {0, None}, end.stderr
        clean(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ours", "kohya", "words", "bundle"])
def test_bytes_changed_at_random_end_in_a_sentence_or_in_a_result(
    places: tuple[Path, dict[str, list[str]]], name: str
) -> None:
    folder, _ = places
    whole = contents(Path("base"))[name].bytes()
    found: list[str] = []
    for seed in range(MUTATIONS):
        put(folder / "mutated" / f"file{ENDING}", mutated(whole, seed))
        command = list(COMMANDS)[seed % len(COMMANDS)]
        if fault := faults_of(COMMANDS[command](f"mutated/file{ENDING}"), folder, may_pass=True):
            found.append(f"{seed}: {fault}")
    assert not found, f"{len(found)} of {MUTATIONS} faults:\n" + "\n".join(found[:20])


@pytest.mark.parametrize("number", range(2))
def test_old_results_stay_what_they_were(places: tuple[Path, dict[str, list[str]]], number: int) -> None:
    folder, _ = places
    file = ("files/kohya/half.safetensors", "files/ours/nan.safetensors")[number]
    (folder / OUT).write_bytes(b"older")
    for command in ("convert", "resize", "merge"):
        end = run(COMMANDS[command](file))
        assert (end.code, (folder / OUT).read_bytes()) == (2, b"older")
    (folder / OUT).unlink()
