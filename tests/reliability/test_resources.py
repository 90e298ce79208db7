"""Full disks, little memory and crowds: a sentence or an orderly end, and nothing is lost."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from laws.bad_places import lay_out
from laws.test_bad_inputs import SENTENCE
from reliability.processes import PROCESSES, CommandProcess, Ending, run_command
from reliability.test_kills import ENCODERS, assert_same, folder_files, run_files, settings

CLONE_NEWNS = 0x00020000
MS_REC, MS_PRIVATE, MS_REMOUNT = 0x4000, 0x40000, 0x20
SIZES = 20
"""Disks of a training, from nothing to the whole run."""
TRAIN = (
    *("train", "photos", "--class-noun", "dog", "--base", "base", "--out", "disk/out", "--token", "sks"),
    *settings("report.images=4"),
)


def mount(folder: Path, size: int, *, again: bool = False) -> None:
    """Make a folder a file system of its own of so many bytes, or change its size."""
    library = ctypes.CDLL(None, use_errno=True)
    if not again:
        if library.unshare(CLONE_NEWNS) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        library.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    options, flags = f"size={size}".encode(), MS_REMOUNT if again else 0
    if library.mount(b"tmpfs", str(folder).encode(), b"tmpfs", flags, options) != 0:
        raise OSError(ctypes.get_errno(), "mount")


def ended(words: tuple[str, ...], folder: Path, log: Path) -> int:
    """Run a command in this process and return its exit code."""
    log.mkdir(parents=True)
    try:
        run_command(list(words), str(folder), str(log), until_work=False, memory=None)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 1


def train_on_a_full_disk(places: Path, logs: Path, size: int, *, cached: bool) -> None:
    """Train on a small disk, enlarge it, go on, and copy what is there; the exit code tells."""
    disk = places / ("disk" if not cached else "temporary")
    mount(disk, size)
    (logs / "code").parent.mkdir(parents=True, exist_ok=True)
    code = ended(TRAIN, places, logs / "full")
    mount(disk, 1 << 30, again=True)
    if "could not be diagnosed" in (logs / "full" / "stdout").read_text(encoding="utf-8"):
        if ended(("diagnose", "disk/out", *ENCODERS), places, logs / "diagnosed") != 0:
            os._exit(91)
    elif code != 0:
        recipe = places / "disk" / "out" / "recipe.toml"
        words = ("train", "--resume", "--out", "disk/out") if recipe.exists() else TRAIN
        again = ended(words, places, logs / "again")
        if again != 0:
            os._exit(90)
    shutil.copytree(places / "disk" / "out", logs / "out")
    os._exit(code)


def try_mount(folder: Path) -> None:
    """Exit with 0 if this machine lets tests mount a file system."""
    try:
        mount(folder, 1 << 20)
    except OSError:
        os._exit(1)
    os._exit(0)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """The folder with what the commands name."""
    places = tmp_path_factory.mktemp("places")
    lay_out(places, tiny_base)
    for name in ("disk", "temporary"):
        (places / name).mkdir()
    return places


@pytest.fixture(scope="module")
def mountable(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip where file systems cannot be mounted."""
    process = PROCESSES.Process(target=try_mount, args=(tmp_path_factory.mktemp("mount"),))
    process.start()
    process.join()
    if sys.platform != "linux" or process.exitcode != 0:
        pytest.skip("a small disk needs the right to mount one")


@pytest.fixture(scope="module")
def whole(places: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on a disk with space enough."""
    ending = CommandProcess(words=TRAIN, folder=places, log=tmp_path_factory.mktemp("log")).start().end(600)
    assert ending.code == 0, ending.stderr
    kept = tmp_path_factory.mktemp("whole") / "out"
    (places / "disk" / "out").rename(kept)
    clean(places)
    return kept


def clean(places: Path) -> None:
    """Remove what commands made."""
    for name in ("disk", "temporary", "out"):
        shutil.rmtree(places / name, ignore_errors=True)
    for name in ("disk", "temporary"):
        (places / name).mkdir()


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
@pytest.mark.parametrize("number", range(SIZES))
@pytest.mark.parametrize("cached", [False, True], ids=["run", "cache"])
def test_a_full_disk_ends_in_a_sentence_and_the_run_goes_on_when_there_is_space(
    places: Path, whole: Path, mountable: None, tmp_path: Path, number: int, *, cached: bool
) -> None:
    del mountable
    size = max(4096, size_of(whole) * number // SIZES // (20 if cached else 1))
    process = PROCESSES.Process(
        target=train_on_a_full_disk, args=(places, tmp_path / "logs", size), kwargs={"cached": cached}
    )
    process.start()
    process.join(900)
    said = (tmp_path / "logs" / "full" / "stderr").read_text(encoding="utf-8")
    assert process.exitcode in {0, 2}, said[-2000:] + str(process.exitcode)
    if process.exitcode == 2:
        assert SENTENCE.fullmatch(said.splitlines(keepends=True)[-1]), said
        assert "Traceback" not in said
    assert_same(without_diagnosis(tmp_path / "logs" / "out"), without_diagnosis(whole))
    clean(places)


def without_diagnosis(folder: Path) -> dict[str, bytes]:
    """The files of a run that must be equal; a diagnosis names the run, and may be made later."""
    assert (folder / "diagnosis.json").exists()
    return {name: data for name, data in run_files(folder).items() if name != "diagnosis.json"}


MEMORY = tuple(range(100, 2100, 200))
"""Megabytes of address space beyond what the libraries take."""


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", MEMORY)
@pytest.mark.parametrize("command", ["train", "generate"])
def test_little_memory_ends_in_a_sentence(places: Path, tmp_path: Path, command: str, megabytes: int) -> None:
    words = (
        TRAIN
        if command == "train"
        else ("generate", "adapter.safetensors", "a {subject}", "--size", "512x512", "--steps", "1", "--out", "out")
    )
    process = CommandProcess(words=words, folder=places, log=tmp_path / "log", memory=megabytes << 20).start()
    ending = process.end(600)
    clean(places)
    assert ending.code in {0, 2}, ending.stderr[-3000:]
    assert "Traceback" not in ending.stderr
    if ending.code == 2:
        assert SENTENCE.fullmatch(ending.stderr.splitlines(keepends=True)[-1]), ending.stderr


def together(places: Path, logs: Path, commands: list[tuple[str, ...]]) -> list[Ending]:
    """Run commands at the same time."""
    processes = [
        CommandProcess(words=words, folder=places, log=logs / str(number)).start()
        for number, words in enumerate(commands)
    ]
    return [process.end(900) for process in processes]


@pytest.mark.slow
def test_three_trainings_at_once_make_what_each_makes_alone(places: Path, whole: Path, tmp_path: Path) -> None:
    commands = [tuple(word.replace("disk/out", f"disk/{number}") for word in TRAIN) for number in range(3)]
    for ending in together(places, tmp_path, commands):
        assert ending.code == 0, ending.stderr
    for number in range(3):
        assert_same(without_diagnosis(places / "disk" / str(number)), without_diagnosis(whole))
    clean(places)


@pytest.mark.slow
def test_three_trainings_in_one_folder_are_one_training_and_two_refusals(
    places: Path, whole: Path, tmp_path: Path
) -> None:
    endings = together(places, tmp_path, [TRAIN] * 3)
    assert sorted(ending.code or 0 for ending in endings) == [0, 2, 2], [ending.stderr for ending in endings]
    assert_same(run_files(places / "disk" / "out"), run_files(whole))
    clean(places)


@pytest.mark.slow
def test_four_generates_into_one_folder_lose_no_image(places: Path, tmp_path: Path) -> None:
    words = ("generate", "adapter.safetensors", "a {subject}", "--count", "12", "--steps", "1", "--out", "out")
    for ending in together(places, tmp_path, [words] * 4):
        assert ending.code == 0, ending.stderr
    images = sorted((places / "out").glob("*.png"))
    assert len(images) == 48
    assert len({image.stat().st_ino for image in images}) == 48
    assert len({Image.open(image).tobytes() for image in images}) == 12
    clean(places)


@pytest.mark.slow
def test_two_sweeps_at_once_make_what_each_makes_alone(places: Path, tmp_path: Path) -> None:
    options = ("--set", "class_noun=dog", "--set", "training.steps=2", "--set", "knobs.steps=1")
    options += ("--set", "selection.identity=seer", "--set", "selection.clip=reader")
    commands = [
        ("sweep", "sweep.toml", "--over", "method.rank=2,4", *options, "--out", f"disk/{name}") for name in "ab"
    ]
    for ending in together(places, tmp_path, commands):
        assert ending.code == 0, ending.stderr
    one, other = (folder_files(places / "disk" / name) for name in "ab")
    names = {name for name in one if not name.endswith(("scores.json", "effective.json"))}  # these hold paths
    assert_same({name: one[name] for name in names}, {name: other[name] for name in names})
    assert sorted(one) == sorted(other)
    clean(places)


@pytest.mark.slow
def test_two_evaluations_of_one_run_at_once_score_the_same(places: Path, tmp_path: Path) -> None:
    words = ("evaluate", "run", "--images", "1", *ENCODERS)
    endings = together(places, tmp_path, [words] * 2)
    assert sorted(ending.code or 0 for ending in endings) in ([0, 0], [0, 2]), [ending.stderr for ending in endings]
    assert (places / "run" / "scores.json").exists()
    clean(places)
