"""The law of memory: what does not fit it is one sentence with a remedy, in every command."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from mascot.cli import app
from mascot.errors import UserError, is_out_of_memory
from mascot.runs.inputs import refuse_plain
from tiny.world import World

REFUSED = {
    "a CPU": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 70368744177664 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "an accelerator": torch.OutOfMemoryError(),
    "Python": MemoryError(),
    "numpy": MemoryError("Unable to allocate 8.00 EiB for an array"),
    "MPS": RuntimeError("Invalid buffer size: 100.00 GiB"),
}
SENTENCE = re.compile(r"mascot: \S[^\n]*memory[^\n]*close other programs[^\n]*\.\n")
QUICK = ("--set", "prior.count=0", "--set", "device=cpu", "--set", "training.steps=2")


@pytest.mark.parametrize("place", REFUSED)
def test_every_allocators_refusal_is_known(place: str) -> None:
    assert is_out_of_memory(REFUSED[place])


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("memory")])
def test_other_errors_are_not(error: Exception) -> None:
    assert not is_out_of_memory(error)


def words_of(command: str, world: World, out: Path) -> list[str]:
    """A command that reads the tiny base."""
    photos, base, run = str(world.folder / "photos"), str(world.base), str(world.run.folder)
    encoders = ["--identity", str(world.identity), "--clip", str(world.clip)]
    subject = [photos, "--base", base, "--class-noun", "dog"]
    return {
        "train": ["train", *subject, "--token", "sks", "--out", str(out), *QUICK],
        "doctor": ["doctor", *subject, *QUICK],
        "generate": ["generate", run, "a dog", "--out", str(out)],
        "evaluate": ["evaluate", run, *encoders],
        "evaluate --cross-validate": ["evaluate", run, "--cross-validate", "all", *encoders],
        "diagnose": ["diagnose", run, *encoders],
        "token": ["token", "--base", base, *encoders],
        "sweep": ["sweep", run, "--over", "guidance=3", "--out", str(out / "grid.png")],
    }[command]


@pytest.mark.parametrize(
    "command", ["train", "doctor", "generate", "evaluate", "evaluate --cross-validate", "diagnose", "token", "sweep"]
)
def test_too_little_memory_is_one_sentence_in_every_command(
    world: World, command: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The base does not fit; nothing is written."""

    def refuse(*_: object, **__: object) -> None:
        raise REFUSED["a CPU"]

    monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", refuse)
    monkeypatch.setattr(sys, "argv", ["mascot", *words_of(command, world, tmp_path / "out")])
    with pytest.raises(SystemExit) as ending:
        app.main()
    said = capfd.readouterr().err
    assert (ending.value.code, SENTENCE.fullmatch(said) is not None) == (2, True), said
    assert not list((tmp_path / "out").rglob("*.png"))


def test_an_image_that_no_machine_has_memory_for_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["generate", str(world.run.folder), "a dog", "--size", "8192x8192", "--steps", "1", "--out"]
    monkeypatch.setattr(sys, "argv", ["mascot", *words, str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ending:
        app.main()
    said = capfd.readouterr().err
    assert (ending.value.code, SENTENCE.fullmatch(said) is not None) == (2, True), said
    assert "8192x8192 needs about" in said
    assert "--size" in said


def test_a_side_beyond_the_limit_names_the_option_that_gave_it(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["mascot", "generate", str(world.run.folder), "a dog", "--size", "64x1000000"])
    with pytest.raises(SystemExit):
        app.main()
    assert capfd.readouterr().err.startswith("mascot: --size, height 1000000: ")


@pytest.mark.parametrize("color", ["black", "white", "#123456"])
def test_class_images_of_one_color_are_refused(color: str) -> None:
    from PIL import Image

    good = Image.effect_noise((8, 8), 50).convert("RGB")
    images = refuse_plain(iter([good, Image.new("RGB", (8, 8), color)]), "base")
    assert next(images) is good
    with pytest.raises(UserError, match=r"give another --base, or --set prior\.count=0\.$"):
        next(images)
