"""Laws of the command line: frozen help, exit codes, what is printed, images with settings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

from laws.bad_places import fresh_adapter
from mascot import __version__
from mascot.adapters.adapter_file import Adapter
from mascot.api import train
from mascot.cli import app, generate
from mascot.recipe.recipe import Recipe
from mascot.runs.effective_settings import planned_settings
from mascot.storage import image_files
from mascot.storage.atomic_write import fresh_path
from mascot.storage.run_folder import Run
from mascot.training.loop import Loop
from tiny.commands import Command
from tiny.photos import noise

ROOT = Path(__file__).resolve().parents[2]
HELP = Path(__file__).parent / "help"
COMMANDS: dict[str, Any] = getattr(typer.main.get_command(app.app), "commands", {})
SMALL = (
    "precision=fp32",
    "device=cpu",
    "prior.count=0",
    "previews.every=0",
    "knobs.steps=1",
    "method.rank=2",
    "training.steps=4",
    "training.checkpoint_every=3",
)
INTERRUPTED = "mascot: interrupted; finished work is kept.\n"
HELP_AND_WHAT_IT_LOADED = """
import atexit, sys
heavy = {'accelerate', 'diffusers', 'numpy', 'peft', 'PIL', 'torch', 'transformers'}
atexit.register(lambda: print(*sorted(heavy & set(sys.modules)), file=sys.stderr))
from mascot.cli.app import main
main()
"""


@pytest.fixture
def mascot(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run a command of wide lines in this process."""
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    return Command(monkeypatch, capfd)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two photos, and a file that is no image."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(2):
        noise(64 + number, 64).save(folder / f"{number}.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture
def adapter(tiny_base: Path, tmp_path: Path) -> Path:
    """An adapter of the tiny base."""
    made = fresh_adapter(tiny_base)
    assert made.manifest is not None
    path = tmp_path / "made" / "adapter.safetensors"
    manifest = made.manifest.model_copy(
        update={"base": str(tiny_base), "recipe": {"knobs": {"guidance": 3.5, "steps": 2}}}
    )
    Adapter(tensors=made.tensors, metadata=made.metadata, manifest=manifest).write(path)
    return path


def settings(*overrides: str) -> list[str]:
    """Overrides as words of a command line."""
    return [word for override in (*SMALL, *overrides) for word in ("--set", override)]


def shown_help(command: str) -> tuple[str, str]:
    """A command's help at a width of 100 without colors, and which heavy libraries it loaded."""
    environment = {
        key: value for key, value in os.environ.items() if key not in {"FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS"}
    }
    environment |= {
        "COLUMNS": "100",
        "TERMINAL_WIDTH": "100",
        "NO_COLOR": "1",
        "TERM": "dumb",
        "PYTHONPATH": str(ROOT / "src"),
    }
    environment |= {"PYTHONIOENCODING": "utf-8"}
    words = [] if command == "mascot" else [command]
    done = subprocess.run(
        [sys.executable, "-c", HELP_AND_WHAT_IT_LOADED, *words, "--help"],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines()) + "\n", done.stderr.strip()


@pytest.mark.parametrize("command", ["mascot", *COMMANDS])
def test_help_is_what_it_was_and_loads_nothing_heavy(command: str) -> None:
    """A change of the command line is seen in review; MASCOT_UPDATE_HELP=1 writes the new text."""
    text, loaded = shown_help(command)
    path = HELP / f"{command}.txt"
    if os.environ.get("MASCOT_UPDATE_HELP"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
    assert loaded == ""


def test_there_is_one_help_for_each_command() -> None:
    assert sorted(path.stem for path in HELP.glob("*.txt")) == sorted(["mascot", *COMMANDS])


MOST_OPTIONS = {"doctor": 16, "generate": 19, "train": 16}
"""Command -> its most options and arguments, where it has more than others."""


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_a_dozen_options_at_most_and_each_says_what_it_does(command: str) -> None:
    options = [parameter for parameter in COMMANDS[command].params if parameter.name != "help"]
    assert len(options) <= MOST_OPTIONS.get(command, 15)
    assert [parameter.name for parameter in options if not parameter.help] == []


def test_the_version_is_printed(mascot: Command) -> None:
    assert mascot("--version") == (0, f"mascot {__version__}\n", "")


def test_without_a_command_there_is_help_and_a_remark(mascot: Command) -> None:
    code, printed, errors = mascot()
    assert (code, errors) == (2, "mascot: No command is given. See mascot --help.\n")
    assert "train" in printed


def test_a_remark_names_the_command_whose_help_is_meant(mascot: Command) -> None:
    code, _, errors = mascot("generate", "--giudance", "3")
    assert code == 2
    assert errors.startswith("mascot: No such option: --giudance")
    assert "--guidance" in errors
    assert errors.endswith(" See mascot generate --help.\n")


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, typer.Abort])
def test_an_interruption_is_reported_wherever_it_comes_from(
    mascot: Command, monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]
) -> None:
    def interrupt(**_: object) -> None:
        raise interruption

    monkeypatch.setattr(app, "app", interrupt)
    assert mascot() == (130, "", INTERRUPTED)


@pytest.mark.parametrize(
    ("fault", "remedy"),
    [
        (PermissionError(13, "Permission denied", "/a/file"), "choose a folder that you may write to"),
        (OSError(28, "No space left on device"), "choose another folder"),
    ],
)
def test_what_the_system_refuses_is_a_sentence(
    mascot: Command, monkeypatch: pytest.MonkeyPatch, adapter: Path, fault: OSError, remedy: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(generate, "write_images", fail)
    error = f"mascot: {fault.filename or 'a file'} cannot be used ({fault.strerror}); {remedy}.\n"
    assert mascot("generate", adapter, "a dog") == (2, "", error)


def test_a_bug_of_ours_is_not_hidden(mascot: Command, monkeypatch: pytest.MonkeyPatch, adapter: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("a library is at a loss")

    monkeypatch.setattr(generate, "write_images", fail)
    with pytest.raises(OSError, match="at a loss"):
        mascot("generate", adapter, "a dog")


def test_training_prints_its_photos_and_settings_before_it_begins(
    mascot: Command, monkeypatch: pytest.MonkeyPatch, tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "accumulate", interrupt)
    words = ["train", photos, "--base", tiny_base, "--token", "sks", "--out", tmp_path / "run"]
    code, printed, errors = mascot(*words, *settings("training.batch_size=3"))
    assert (code, errors) == (130, INTERRUPTED)
    assert "2 photos: 0.png, 1.png\n" in printed
    assert "not used: broken.jpg is not a" in printed
    recipe = Recipe.preset(
        photos=(str(photos),), base=str(tiny_base), overrides=[*SMALL, "training.batch_size=3", "token=sks"]
    )
    for name, value in planned_settings(recipe, 2, 64):
        assert [name, *value.split()] in [line.split() for line in printed.splitlines()] or f" {name} " in printed
        assert f"{value} " in printed
    assert "adapter: " not in printed
    assert Run(tmp_path / "run").last_checkpoint() == Run(tmp_path / "run").checkpoint(0)


@pytest.fixture
def _python_handles_interrupts() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, as it does in a program that was started from a terminal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_python_handles_interrupts")
@pytest.mark.parametrize("at", [1, 3])
def test_an_interruption_in_the_middle_of_a_step_keeps_the_whole_step_and_resuming_ends_in_the_same_bytes(
    mascot: Command, monkeypatch: pytest.MonkeyPatch, tiny_base: Path, photos: Path, tmp_path: Path, at: int
) -> None:
    monkeypatch.setattr(train, "write_training_report", lambda *_: None)
    words = ["train", photos, "--base", tiny_base, *settings("method.learning_rate=0.01")]
    assert mascot(*words, "--out", tmp_path / "whole")[0] == 0
    whole, run = Run(tmp_path / "whole"), Run(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "accumulate", interrupting(at))
        code, _, errors = mascot(*words, "--out", run.folder)
    assert (code, errors) == (130, INTERRUPTED)
    assert run.last_checkpoint() == run.checkpoint(at)
    assert [row["step"] for row in run.read_steps()] == list(range(1, at + 1))
    assert not run.adapter.exists()
    assert mascot("train", "--resume", "--out", run.folder)[0] == 0
    assert run.adapter.read_bytes() == whole.adapter.read_bytes()
    assert run.steps.read_bytes() == whole.steps.read_bytes()


def interrupting(at: int) -> Callable[[Loop, Any], Any]:
    """The loop's own work, with a Ctrl-C in the middle of a step."""
    accumulate = Loop.accumulate

    def work(loop: Loop, batches: Any) -> Any:
        if loop.done == at - 1:
            signal.raise_signal(signal.SIGINT)
        return accumulate(loop, batches)

    return work


def test_images_carry_what_made_them_and_are_where_the_command_says(
    mascot: Command, adapter: Path, tiny_base: Path
) -> None:
    options = ["--count", 2, "--seed", 5, "--negative", "fog", "--unet-scale", 0.5]
    code, printed, errors = mascot("generate", adapter, "a {subject} in the snow", "a plain cat", *options)
    assert (code, errors) == (0, "")
    names = ["a-sks-dog-in-the-snow_5.png", "a-sks-dog-in-the-snow_6.png", "a-plain-cat_5.png", "a-plain-cat_6.png"]
    assert printed.splitlines() == [str(adapter.parent / "images" / name) for name in names]
    with Image.open(adapter.parent / "images" / names[1]) as image:
        assert image.size == (64, 64)
        assert image.info["parameters"] == (
            "a sks dog in the snow\nNegative prompt: fog\nSteps: 2, Sampler: ddim, CFG scale: 3.5, Seed: 6, "
            f"Size: 64x64, Model: {tiny_base}, Adapter: adapter.safetensors, UNet scale: 0.5, Text encoder scale: 1.0"
        )


def test_a_scale_behind_a_path_is_that_of_the_option(mascot: Command, adapter: Path, tmp_path: Path) -> None:
    def image(*words: object) -> bytes:
        code, printed, errors = mascot("generate", *words, "--count", 1, "--steps", 1, "--out", tmp_path / "out")
        assert (code, errors) == (0, "")
        return Path(printed.strip()).read_bytes()

    both = image(adapter, "a {subject}", "--unet-scale", 0.5, "--text-scale", 0.5)
    assert image(f"{adapter}:0.5", "a {subject}") == both
    assert image("a {subject}", "--adapter", f"{adapter}:0.5:0.5") == both
    assert image(f"{adapter}:0.5:1", "a {subject}") == image(adapter, "a {subject}", "--unet-scale", 0.5) != both


def test_images_are_never_overwritten(mascot: Command, adapter: Path, tmp_path: Path) -> None:
    words = ("generate", adapter, "a cat", "--count", 1, "--steps", 1, "--out", tmp_path / "out")
    first, second = (Path(mascot(*words, "--guidance", guidance)[1].strip()) for guidance in (1, 9))
    assert [first.name, second.name] == ["a-cat_0.png", "a-cat_0-2.png"]
    assert first.read_bytes() != second.read_bytes()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a-cat_0-2.png", "a-cat_0.png"]


def test_an_interrupted_command_keeps_the_images_that_it_has_generated(
    mascot: Command, monkeypatch: pytest.MonkeyPatch, adapter: Path, tmp_path: Path
) -> None:
    write = image_files.write_new_image

    def write_one(*arguments: Any) -> Path:
        if (tmp_path / "out").exists():
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(image_files, "write_new_image", write_one)
    code, printed, errors = mascot("generate", adapter, "a cat", "--steps", 1, "--out", tmp_path / "out")
    assert (code, errors) == (130, INTERRUPTED)
    assert (
        [Path(line).name for line in printed.splitlines()]
        == [path.name for path in (tmp_path / "out").iterdir()]
        == ["a-cat_0.png"]
    )


@pytest.mark.parametrize(
    "prompt", ["", "!?", "../../x", "a" * 300, "狗" * 300, "\U00020000" * 300, "a/b\\c:d"], ids=range(7)
)
def test_any_prompt_makes_a_name_that_file_systems_take(tmp_path: Path, prompt: str) -> None:
    path = fresh_path(tmp_path, image_files.image_stem(prompt, 2**31), ".png")
    assert path.parent == tmp_path
    assert len(f".{path.name}.tmp".encode()) <= 255
    path.touch()
    assert fresh_path(tmp_path, image_files.image_stem(prompt, 2**31), ".png") != path


@pytest.mark.parametrize("measure", ["--measure", "--no-measure"])
def test_the_doctor_prints_what_would_be_done_and_which_files_are_refused(
    mascot: Command, tiny_base: Path, photos: Path, tmp_path: Path, measure: str
) -> None:
    (photos / "broken.jpg").rename(photos / "[red]broken[b].jpg")
    before = sorted(tmp_path.rglob("*"))
    chosen = settings(
        "training.steps=30", "training.batch_size=3", "training.gradient_accumulation_steps=2", "token=sks"
    )
    code, printed, errors = mascot("doctor", photos, "--base", tiny_base, "--class-noun", "dog", measure, *chosen)
    assert (code, errors) == (0, "")
    rows = [" ".join(line.split()) for line in printed.splitlines()]
    assert "images per step 6 (3 x 2 accumulated)" in rows
    assert "steps 30" in rows
    assert "passes over each photo 90.0" in rows
    assert "photos 2" in rows
    assert any(row.startswith("not used: [red]broken[b].jpg ") for row in rows)
    assert any("sks dog" in row for row in rows)
    assert any(row.startswith("cost about ") for row in rows) == (measure == "--measure")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_doctor_takes_what_training_takes(mascot: Command, tiny_base: Path, photos: Path) -> None:
    options = {
        command: {parameter.name for parameter in COMMANDS[command].params} - {"help"}
        for command in ("train", "doctor")
    }
    assert options["train"] - {"out", "resume", "events"} <= options["doctor"]
    words = ["--method", "textual-inversion", "--steps", 7, "--seed", 5, "--token", "zwx", "--no-measure"]
    code, printed, errors = mascot("doctor", photos, "--base", tiny_base, "--class-noun", "dog", *words)
    assert (code, errors) == (0, "")
    rows = [" ".join(line.split()) for line in printed.splitlines()]
    assert {"token zwx", "steps 7", "seed 5"} <= set(rows)
    assert any(row.startswith("method textual-inversion ") for row in rows)


@pytest.mark.parametrize("method", ["textual-inversion", "pivotal"])
def test_a_word_of_the_class_noun_cannot_be_trained_as_the_token(
    mascot: Command, tiny_base: Path, photos: Path, method: str
) -> None:
    words = ["doctor", photos, "--base", tiny_base, "--class-noun", "great horned owl", "--no-measure"]
    code, printed, errors = mascot(*words, "--method", method, "--token", "Owl")
    assert (code, printed) == (2, "")
    assert errors == (
        "mascot: the token 'Owl' is a word of the class noun 'great horned owl', and this method trains that word "
        "itself; give another --token, such as sks.\n"
    )
    assert mascot(*words, "--method", method, "--token", "sks")[0] == 0
    assert mascot(*words, "--token", "Owl")[0] == 0


@pytest.mark.parametrize("command", ["train", "doctor"])
def test_faults_of_captions_are_said_before_training(
    mascot: Command, monkeypatch: pytest.MonkeyPatch, tiny_base: Path, photos: Path, tmp_path: Path, command: str
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mascot.runs.opening.load_base", interrupt)
    for number in range(2):
        (photos / f"{number}.txt").write_text(f"a brown dog, scene {number}", encoding="utf-8")
    (photos / "0.caption").write_text("another", encoding="utf-8")
    words = [command, photos, "--base", tiny_base, "--token", "sks", "--class-noun", "dog"]
    words += ["--no-measure"] if command == "doctor" else ["--out", tmp_path / "run"]
    code, printed, _ = mascot(*words)
    assert code == (0 if command == "doctor" else 130)
    assert printed.count("None of the 2 captions names either {subject} or the token 'sks', ") == 1
    assert "give --set dataset.insert_token=true." in printed
    assert "0.png: 0.txt and 0.caption give different captions; that of 0.txt is used, " in printed
    _, printed, _ = mascot(*words, "--set", "dataset.insert_token=true")
    assert "2 photos: 0.png, 1.png" in printed
    assert "None of the 2 captions" not in printed
