"""Laws of what a notebook shows: the live view follows the events, and every result has a cell."""

from __future__ import annotations

import html
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

import mascot
from mascot.api.experiments.compare import compare
from mascot.api.notebook import live_progress
from mascot.api.notebook.bundle import FORMATS, bundle, offer_download
from mascot.api.notebook.live_progress import RECORDERS, LiveProgress, clock
from mascot.api.notebook.notebook_photos import example_photos, save_uploads, upload_photos
from mascot.api.notebook.shown import show
from mascot.errors import UserError
from mascot.progress import (
    CheckpointChosen,
    CheckpointValidated,
    DiagnosisFinished,
    Event,
    FileWritten,
    FindingSummary,
    GenerationStarted,
    ImageGenerated,
    PhotosRead,
    PreviewsWritten,
    SettingsResolved,
    StepTrained,
)
from mascot.reports.notebook.live_view import PLOT
from mascot.storage.image_files import write_image
from mascot.storage.run_folder import Run
from tiny.photos import noise
from tiny.world import World

SCRIPT = "<script>alert(1)</script>"
STEPS = 8


def validated(step: int, likeness: float) -> CheckpointValidated:
    return CheckpointValidated(
        step=step,
        likeness=0.4,
        prompt_fidelity=0.3,
        likeness_gain=likeness,
        prompt_kept=0.9,
        copying=0.1,
        score=0.5,
    )


def training(preview: Path) -> Iterator[Event]:
    """The events of a short training whose texts would run a script."""
    yield PhotosRead(used=(f"{SCRIPT}.png", "b.png"), refused=("c.txt is a text.",), notes=())
    yield SettingsResolved(rows=(("token", SCRIPT), ("steps", str(STEPS))), steps=STEPS, selection_images=4)
    yield PreviewsWritten(step=0, paths=(preview,), prompts=(SCRIPT,))
    for step in range(1, STEPS + 1):
        yield StepTrained(step=step, loss=1 / step, subject_loss=1 / step)
        if step in {4, 8}:
            yield validated(step, step / 10)
    yield CheckpointChosen(reason="step 8 is kept: 80% of the way.")
    yield DiagnosisFinished(
        verdict="Found: underfitting.",
        findings=(FindingSummary(severity="serious", failure_mode="underfitting", remedy="Train longer."),),
    )
    yield FileWritten(kind="report", path=Path("report.html"))


@pytest.fixture
def preview(tmp_path: Path) -> Path:
    """A preview as training writes it."""
    path = tmp_path / "step000000_0.png"
    write_image(noise(64, 64), path, "a photo\nSteps: 1")
    return path


def seen(view: LiveProgress, events: Sequence[Event]) -> str:
    """The view after some events."""
    for event in events:
        view(event)
    return view.html


def test_a_live_view_shows_the_loss_and_the_curves_of_validation(preview: Path) -> None:
    events = list(training(preview))
    steps = [number for number, event in enumerate(events) if isinstance(event, StepTrained)]
    early = seen(LiveProgress(), events[: steps[2] + 1])
    assert "Step 3 of 8" in early
    assert "Loss over steps. 3 losses" in early
    assert "Validation over steps" not in early
    view = LiveProgress()
    late = seen(view, events)
    assert "likeness 80 %" in late
    assert "prompt 90 %" in late
    assert "copying 10 %" in late
    assert f'd="M{(PLOT[0] + PLOT[2]) / 2} ' in late  # step 4 of 8 stands in the middle
    for words in ("step 8 is kept", "c.txt is a text.", "Found: underfitting.", "Train longer.", "report.html"):
        assert words in late


def test_a_live_view_escapes_every_text(preview: Path) -> None:
    view, shown = LiveProgress(), list[str]()
    view.put = lambda _, html: shown.append(html)
    seen(view, list(training(preview)))
    assert any(html.escape(SCRIPT) in text for text in shown)
    assert not any("<script" in text for text in shown)
    assert any("data:image/png" in text for text in shown)


def test_images_of_a_measurement_fill_a_bar() -> None:
    done = [GenerationStarted(images=4), *[ImageGenerated(path=Path("x.png"))] * 3]
    assert 'aria-valuenow="3"' in seen(LiveProgress(), done)


def test_every_event_of_training_is_recorded(world: World, tmp_path: Path) -> None:
    """What `train` emits: none of it may be missing in a notebook."""
    events: list[Event] = []
    recipe = mascot.Recipe.preset(
        base=str(world.base),
        photos=world.folder / "photos",
        class_noun="dog",
        token="sks",  # noqa: S106 - a word of prompts
        training={"steps": 4, "warmup_steps": 0, "checkpoint_every": 4},
        prior={"weight": 0.0},
        previews={"every": 2, "prompts": ["a {subject}"]},
        knobs={"steps": 1},
        precision="fp32",
        device="cpu",
        method={"rank": 2, "learning_rate": 1e-2},
        selection={"identity": str(world.identity), "clip": str(world.clip), "checkpoints": 2, "cost": 20},
        diagnosis={"active": False},
        report={"images": 0},
    )
    run = mascot.train(recipe, out=tmp_path / "run", on_event=events.append)
    assert {type(event) for event in events} <= set(RECORDERS)
    found = [event for event in events if isinstance(event, PreviewsWritten)]
    assert [event.step for event in found] == [0, 2, 4]
    assert all(path.is_file() for event in found for path in event.paths)
    assert {event.prompts for event in found} == {("a sks dog",)}
    measured = [event for event in events if isinstance(event, CheckpointValidated)]
    assert [event.step for event in measured] == [2, 4]
    assert all(0 <= share <= 1 for e in measured for share in (e.likeness_gain, e.prompt_kept, e.copying, e.score))
    previews = show(run).html
    assert previews.count("<img") == 3
    assert "a sks dog" in previews
    again: list[Event] = []
    extended = recipe.model_copy(update={"training": recipe.training.model_copy(update={"steps": 6})})
    mascot.train(extended, out=run.folder, resume=True, on_event=again.append)
    assert [event.step for event in again if isinstance(event, CheckpointValidated)][:2] == [2, 4]


class Shell:
    """IPython as a kernel has it: it keeps what was displayed."""

    def __init__(self) -> None:
        self.outputs: list[list[Any]] = []

    def display(self, shown: object, *, display_id: bool) -> SimpleNamespace:
        """Show something, and return the handle that replaces it."""
        assert display_id
        self.outputs.append([shown])
        return SimpleNamespace(update=self.outputs[-1].append)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A kernel around the test."""
    shell, package, module = Shell(), ModuleType("IPython"), ModuleType("IPython.display")
    package.get_ipython = lambda: SimpleNamespace(kernel=1)  # pyright: ignore[reportAttributeAccessIssue]
    module.display = shell.display  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return shell


def test_in_a_notebook_one_output_changes_and_previews_have_another(shell: Shell, preview: Path) -> None:
    seen(LiveProgress(every=3600), list(training(preview)))
    view, previews = shell.outputs
    assert "Reading the photos" in view[0]._repr_html_()
    assert "Done" in view[-1]._repr_html_()
    assert len(previews) == 1
    assert len(view) < len(list(training(preview)))  # single steps wait for their time


def test_outside_a_notebook_nothing_is_displayed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", None)  # as where it is not installed
    assert live_progress.find_display() is None


@pytest.mark.parametrize(("seconds", "said"), [(3.4, "3 s"), (125, "2 min 5 s"), (7500, "2 h 5 min")])
def test_times_are_written_as_people_say_them(seconds: float, said: str) -> None:
    assert clock(seconds) == said


def test_every_result_has_a_cell(world: World, tmp_path: Path) -> None:
    scores = world.evaluate()
    other = world.write("other", seed=1)
    both = [scores, world.evaluate(other)]
    options = {"identity": str(world.identity), "clip": str(world.clip), "device": "cpu", "images": 1}
    diagnosis = mascot.diagnose(world.run, **options)
    recipe = mascot.Recipe.read(world.run.recipe)
    write_image(noise(32, 32), tmp_path / "grid.png", "a grid")
    assert "prompt by prompt" in show(scores).html
    assert "mean" in show(both).html
    assert html.escape(diagnosis.verdict) in show(diagnosis).html
    assert "difference" in show(compare(world.run, other)).html
    assert "effective settings" in show(mascot.doctor(recipe, measure=False)).html
    assert "grid.png" in show(tmp_path / "grid.png").html
    assert show([noise(8, 8), noise(8, 8)], captions=["one", "two"]).html.count("<figcaption>") == 2
    assert show([noise(8, 8)] * 4, captions=[SCRIPT, "two"]).html.count(html.escape(SCRIPT)) == 4  # alt and caption
    assert show(noise(8, 8))._repr_html_().count("<img") == 1


@pytest.mark.parametrize(
    ("shown", "captions", "remedy"),
    [
        ([Image.new("RGB", (8, 8))] * 3, ["a", "b"], "give one for each image"),
        (3, [], "give images, a run"),
        (Run(Path("nowhere")), [], "train with previews.every"),
    ],
)
def test_what_cannot_be_shown_is_refused(shown: Any, captions: list[str], remedy: str) -> None:
    with pytest.raises(UserError, match=remedy):
        show(shown, captions=captions)


def test_an_error_of_the_user_is_one_sentence_in_a_notebook() -> None:
    assert UserError("Give a folder.")._render_traceback_() == ["UserError: Give a folder."]


def test_a_bundle_holds_the_adapter_in_every_format(world: World) -> None:
    path = bundle(world.run)
    assert path == world.run.folder / "run.zip"
    names = set(zipfile.ZipFile(path).namelist())
    files = {f"run_{to}.safetensors" for to in FORMATS if to != "peft"}
    assert {"run.safetensors", "recipe.toml", "run_peft/unet/adapter_model.safetensors", *files} <= names
    alone = bundle(world.run, world.folder / "alone.zip", formats=())
    assert set(zipfile.ZipFile(alone).namelist()) >= {"run.safetensors"}
    assert not {name for name in zipfile.ZipFile(alone).namelist() if "kohya" in name}


def test_a_bundle_of_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a mascot run"):
        bundle(tmp_path)


class Colab(ModuleType):
    """`google.colab.files`, as far as it is used."""

    def __init__(self, uploaded: dict[str, bytes]) -> None:
        super().__init__("google.colab.files")
        self.uploaded, self.downloaded = uploaded, list[str]()

    def upload(self) -> dict[str, bytes]:
        """Return what a person chose."""
        return self.uploaded

    def download(self, path: str) -> None:
        """Hand a file to the browser."""
        self.downloaded.append(path)


def test_colab_uploads_into_a_folder_and_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    colab = Colab({"../../1.png": b"one", "C:\\photos\\2.png": b"two"})
    monkeypatch.setitem(sys.modules, "google.colab.files", colab)
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    folder = upload_photos(tmp_path / "photos")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"1.png": b"one", "2.png": b"two"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]
    link = offer_download(tmp_path / "a b<.zip")
    assert colab.downloaded == [str(tmp_path / "a b<.zip")]
    assert "a%20b%3C.zip" in link.html
    assert "<.zip" not in link.html


def test_without_colab_there_is_no_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.colab.files", None)
    with pytest.raises(UserError, match="give the folder"):
        upload_photos()


@pytest.mark.parametrize("uploaded", [{}, {"..": b""}, {"a/..": b""}])
def test_uploads_without_a_name_are_refused(uploaded: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(UserError):
        save_uploads(uploaded, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_owl_comes_along_as_it_is_among_the_examples() -> None:
    kept = Path(__file__).resolve().parents[2] / "examples" / "mascot" / "photos"
    packaged, examples = ({path.name: path.read_bytes() for path in f.iterdir()} for f in (example_photos(), kept))
    assert packaged == examples


def test_single_knobs_change_those_that_training_recommends(world: World) -> None:
    opened = mascot.open_adapter(world.run)
    usual = opened.generate("a {subject}", count=1)[0]
    assert opened.generate("a {subject}", {}, count=1)[0].tobytes() == usual.tobytes()
    other = opened.generate(["a {subject}"], {"guidance": 2}, count=1)[0]
    assert other.tobytes() != usual.tobytes()
    assert mascot.generate(world.run, "a {subject}", {"guidance": 2}, count=1)[0].tobytes() == other.tobytes()
    with pytest.raises(UserError, match="did you mean 'guidance'"):
        opened.generate("a {subject}", {"guidence": 2})
    with pytest.raises(UserError, match=r"guidance=-1: .* greater than or equal to 0"):
        opened.generate("a {subject}", {"guidance": -1})
