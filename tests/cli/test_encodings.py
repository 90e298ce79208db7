"""Laws of letters: any letter is printed somehow, and text that is not UTF-8 is refused first."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

from mascot.api import train
from mascot.cli import app
from mascot.data.photos import read_photos
from mascot.errors import UserError
from mascot.generation.knobs import Knobs
from mascot.recipe.recipe import Recipe
from tiny.photos import noise

SMALL = (
    "precision=fp32",
    "device=cpu",
    "prior.count=0",
    "previews.every=0",
    "knobs.steps=1",
    "method.rank=2",
    "training.steps=2",
    "diagnosis.active=false",
)

SHOWN = {"cp1252": "cp1252", "ascii": "utf-8", "utf-8": "utf-8"}
"""Encoding of a stream to the one that is printed: typer takes ASCII for a mistake."""

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Photos whose names and folder few encodings have letters for."""
    folder = tmp_path / "häuser кот"
    folder.mkdir()
    for number, name in enumerate(("a🐱", "né")):
        noise(64 + number, 64).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def mascot(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command in this process, with streams of an encoding; what it ends in and prints."""

    def run(encoding: str, *words: object) -> tuple[int, str, str]:
        streams = [TextIOWrapper(BytesIO(), encoding=encoding, errors="strict") for _ in range(2)]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["mascot", *map(str, words)])
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            with pytest.raises(SystemExit) as stop:
                app.main()
        assert isinstance(stop.value.code, int)
        for stream in streams:
            stream.flush()
        printed, errors = (stream.buffer.getvalue().decode(SHOWN[encoding]) for stream in streams)  # pyright: ignore[reportAttributeAccessIssue]
        return stop.value.code, printed, errors

    return run


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_no_command_dies_of_a_letter(
    mascot: Command, monkeypatch: pytest.MonkeyPatch, tiny_base: Path, photos: Path, tmp_path: Path, encoding: str
) -> None:
    monkeypatch.setattr(train, "write_training_report", lambda *_: None)
    sets = [word for item in SMALL for word in ("--set", item)]
    out = tmp_path / "lauf 走"
    code, printed, errors = mascot(
        encoding, "train", photos, "--base", tiny_base, "--token", "кот", "--class-noun", "сова", "--out", out, *sets
    )
    assert (code, errors) == (0, "")
    assert ".png" in printed
    code, printed, errors = mascot(encoding, "generate", out, "ein {subject} 走", "--count", 1)
    assert (code, errors) == (0, "")
    assert printed.strip().endswith(".png")
    code, printed, errors = mascot(encoding, "generate", tmp_path / "走", "x")
    assert code == 2
    assert " is not a mascot run" in errors or "does not exist" in errors
    code, printed, errors = mascot(encoding, "doctor", photos, "--class-noun", "сова", "--no-measure")
    assert (code, errors) == (0, "")


BAD = os.fsdecode(b"caf\xe9")
COMMANDS = (
    ("train", BAD, "--class-noun", "owl"),
    ("train", "photos", "--class-noun", BAD),
    ("train", "photos", "--class-noun", "owl", "--token", BAD),
    ("train", "photos", "--class-noun", "owl", "--out", BAD),
    ("train", "photos", "--class-noun", "owl", "--set", f"knobs.negative={BAD}"),
    ("train", "photos", "--class-noun", "owl", "--recipe", BAD),
    ("generate", "run", BAD),
    ("generate", "run", "x", "--negative", BAD),
    ("doctor", BAD),
    ("token", "--base", BAD),
    ("evaluate", BAD),
    ("sweep", "run", "--over", f"knobs.negative={BAD}"),
    (BAD,),
    ("train", f"--{BAD}"),
)


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: ascii(" ".join(words)))
def test_an_argument_that_is_not_utf_8_is_refused_in_one_sentence(mascot: Command, words: tuple[str, ...]) -> None:
    code, printed, errors = mascot("utf-8", *words)
    assert (code, printed) == (2, "")
    assert "caf\\xe9" in errors
    assert errors.endswith(" is not UTF-8; write it in UTF-8, and rename a file whose name is not.\n")
    assert errors.count("\n") == 1


def test_text_that_is_not_utf_8_is_no_part_of_a_recipe() -> None:
    for given in ({"token": BAD}, {"class_noun": BAD}, {"photos": (BAD,)}, {"base": BAD}):
        with pytest.raises(UserError):
            Recipe.preset(**({"photos": ("p",)} | given))  # type: ignore[arg-type]
    for item in (f"knobs.negative={BAD}", f"previews.prompts=['{BAD}']", f"dataset.templates=['{BAD}']"):
        with pytest.raises(UserError):
            Recipe.preset(photos=("p",), overrides=[item])
    with pytest.raises(ValueError, match="negative"):
        Knobs(negative=BAD)


def test_a_photo_whose_name_is_not_utf_8_is_left_out_by_name(mascot: Command, photos: Path) -> None:
    noise(64, 64).save(photos / f"{BAD}.png")
    code, printed, _ = mascot("utf-8", "doctor", photos, "--class-noun", "owl", "--no-measure")
    assert code == 0
    assert "caf?.png has a name that is not UTF-8; rename it." in printed
    with pytest.raises(UserError, match="not UTF-8; rename it"):
        read_photos([photos / f"{BAD}.png"])
