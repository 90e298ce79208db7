"""The law of outputs: one rule for each command that writes a file or a folder from an adapter."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from safetensors.torch import load_file, save_file

from laws.bad_places import fresh_adapter
from laws.damaged_files import contents
from laws.test_bad_adapters import SENTENCE, run
from laws.test_bad_inputs import changes, snapshot
from mascot.storage import atomic_write


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """A command that writes, without its place."""

    words: Callable[[str], list[str]]
    """Completes the command line by the place."""
    name: str = "made.safetensors"
    """A name that it can write under."""


WRITERS: Final[Mapping[str, Writer]] = {
    "convert": Writer(words=lambda out: ["convert", "a.safetensors", out, "--to", "kohya"]),
    "convert --to peft": Writer(words=lambda out: ["convert", "a.safetensors", out, "--to", "peft"], name="made"),
    "convert words": Writer(words=lambda out: ["convert", "words.safetensors", out, "--to", "diffusers"]),
    "merge": Writer(words=lambda out: ["merge", "a.safetensors", "b.safetensors", "--out", out]),
    "merge --into": Writer(words=lambda out: ["merge", "a.safetensors", "--into", "base", "--out", out], name="made"),
    "merge words": Writer(
        words=lambda out: ["merge", "words.safetensors", "--into", "base", "--out", out], name="made"
    ),
    "extract": Writer(words=lambda out: ["extract", "tuned", "--base", "base", "--rank", "1", "--out", out]),
    "resize": Writer(words=lambda out: ["resize", "a.safetensors", "--rank", "1", "--out", out]),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A folder with two adapters, one with words, a base, and what was trained from it."""
    folder = tmp_path_factory.mktemp("made") / "places"
    shutil.copytree(tiny_base, folder / "base")
    shutil.copytree(tiny_base, folder / "tuned")
    file = folder / "tuned" / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    name = next(key for key in weights if key.endswith("attn1.to_q.weight"))
    save_file(weights | {name: weights[name] + 0.1}, file, metadata={"format": "pt"})
    fresh_adapter(tiny_base).write(folder / "a.safetensors")
    shutil.copyfile(folder / "a.safetensors", folder / "b.safetensors")
    (folder / "words.safetensors").write_bytes(contents(tiny_base)["bundle"].bytes())
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a copy of that folder."""
    shutil.copytree(made, tmp_path, copy_function=os.link, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(words: list[str], says: str) -> None:
    """Run a command that must end in one sentence, with nothing changed."""
    before = snapshot(Path())
    end = run(words)
    assert end.code == 2, (words, end)
    assert SENTENCE.fullmatch(end.stderr.splitlines(keepends=True)[-1]), end.stderr
    assert says in end.stderr
    assert changes(before, snapshot(Path())) == {}


@pytest.mark.parametrize("command", WRITERS)
def test_a_place_that_is_taken_is_refused_whatever_is_there(here: Path, command: str) -> None:
    writer = WRITERS[command]
    suffix = Path(writer.name).suffix
    (here / f"file{suffix}").write_bytes(b"older")
    (here / f"folder{suffix}").mkdir()
    (here / f"full{suffix}").mkdir()
    (here / f"full{suffix}" / "older").touch()
    (here / f"lost{suffix}").symlink_to("nowhere")
    (here / f"loop{suffix}").symlink_to(f"loop{suffix}")
    for name in ("file", "folder", "full", "lost", "loop"):
        refused(writer.words(f"{name}{suffix}"), "exists already; give another name, or remove it first.")


@pytest.mark.slow
@pytest.mark.parametrize("command", WRITERS)
def test_a_place_that_cannot_be_written_is_refused(here: Path, command: str) -> None:
    writer = WRITERS[command]
    (here / "file").touch()
    refused(writer.words(f"file/{writer.name}"), "Not a directory")
    refused(writer.words(f"{'n' * 300}{writer.name}"), "too long")
    if Path("/proc/self").exists():
        refused(writer.words(f"/proc/{writer.name}"), "cannot be written")


@pytest.mark.slow
@pytest.mark.parametrize("command", WRITERS)
def test_folders_above_are_made_and_the_second_time_is_refused(here: Path, command: str) -> None:
    writer = WRITERS[command]
    place = f"new/\N{OWL} one/{writer.name}"
    end = run(writer.words(place))
    assert end.code == 0, end.stderr
    assert (here / place).exists()
    assert not list(here.rglob("*.tmp"))
    refused(writer.words(place), "exists already")


@pytest.mark.parametrize("command", WRITERS)
def test_a_disk_that_is_full_at_the_end_leaves_nothing(
    here: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = WRITERS[command]

    def full(path: Path) -> None:
        if path.name.startswith(f".{writer.name}."):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_write, "sync", full)
    refused(writer.words(writer.name), "No space left on device")
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert run(writer.words(writer.name)).code == 0


@pytest.mark.slow
@pytest.mark.parametrize("command", WRITERS)
def test_ctrl_c_ends_with_130_and_leaves_nothing(here: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = WRITERS[command]

    def interrupted(path: Path) -> None:
        if path.name.startswith(f".{writer.name}."):
            raise KeyboardInterrupt

    monkeypatch.setattr(atomic_write, "sync", interrupted)
    before = snapshot(here)
    assert run(writer.words(writer.name)).code == 130
    assert changes(before, snapshot(here)) == {}


def test_an_adapter_of_zeros_is_refused_where_it_would_be_added(here: Path) -> None:
    tensors = contents(here / "base")["kohya"].tensors
    zeros = {key: tensor * 0 if key.endswith("lora_up.weight") else tensor for key, tensor in tensors.items()}
    save_file(zeros, here / "zeros.safetensors")
    for words in (
        ["merge", "zeros.safetensors", "a.safetensors", "--out", "made.safetensors"],
        ["merge", "zeros.safetensors", "--into", "base", "--out", "made"],
        ["resize", "zeros.safetensors", "--rank", "1", "--out", "made.safetensors"],
    ):
        refused(words, "changes nothing, as every layer's change is 0")


def test_two_words_with_one_name_for_files_get_two_files(here: Path) -> None:
    content = contents(here / "base")["bundle"]
    rows = content.tensors["bundle_emb.owl.emb_params"]
    words = {"bundle_emb.o/wl.emb_params": rows + 1, "bundle_emb.../../owl.emb_params": rows + 2}
    save_file({**content.tensors, **words}, here / "three.safetensors")
    for command in (
        ["merge", "three.safetensors", "--into", "base", "--out", "made/base"],
        ["convert", "three.safetensors", "made/base.safetensors", "--to", "diffusers"],
    ):
        assert run(command).code == 0
        files = [here / "made" / f"base_owl{number}.safetensors" for number in ("", "-2", "-3")]
        assert len({next(iter(load_file(file).values())).sum().item() for file in files}) == 3
        shutil.rmtree(here / "made")


def test_words_beside_an_output_are_checked_before_anything_is_written(here: Path) -> None:
    (here / "made_owl.safetensors").write_bytes(b"older")
    for command in ("convert words", "merge words"):
        refused(WRITERS[command].words(WRITERS[command].name), "made_owl.safetensors exists already")
