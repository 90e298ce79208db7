"""Campaigns of kill -9 at random moments: what is run again ends as if it had never stopped."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from laws.bad_places import lay_out
from reliability.processes import CommandProcess, Ending
from tiny.photos import noise

METHODS = ("lora", "dreambooth", "textual-inversion", "pivotal")
MOMENTS = 50
"""Moments of each training method."""
OTHERS = 10
"""Moments of each of the other commands."""
FACTS = ("recipe.toml", "effective.json", "steps.jsonl", "selection.json", "diagnosis.json", "scores.json")
"""Files of a run that must be equal byte by byte, beside the adapter and the previews."""
ENCODERS = ("--identity", "seer", "--clip", "reader", "--device", "cpu")
SETTINGS = (
    "device=cpu",
    "training.checkpoint_every=2",
    "training.steps=8",
    "previews.every=4",
    "prior.count=2",
    "prior.steps=1",
    "knobs.steps=1",
    "selection.identity=seer",
    "selection.clip=reader",
    "selection.checkpoints=2",
)
"""Everything is on: class images, previews, validation, knobs, diagnosis and report."""


PRIOR = {"textual-inversion": ("prior.weight=0.5",), "pivotal": ("prior.weight=0.5",)}
"""What turns class images on where a method's preset has none."""


def settings(*more: str) -> tuple[str, ...]:
    """Write settings as options."""
    return tuple(word for setting in (*SETTINGS, *more) for word in ("--set", setting))


@dataclass(kw_only=True)
class Campaign:
    """A folder in which commands are killed, and the whole result of each command."""

    places: Path
    logs: Path
    whole: dict[str, tuple[dict[str, bytes], float]] = field(default_factory=dict[str, tuple[dict[str, bytes], float]])
    """Command -> files of the run that never stopped, and its seconds."""
    number: int = 0

    def start(self, words: tuple[str, ...]) -> CommandProcess:
        """Start a command."""
        self.number += 1
        return CommandProcess(words=words, folder=self.places, log=self.logs / str(self.number)).start()

    def finish(self, words: tuple[str, ...]) -> Ending:
        """Run a command to its end."""
        return self.start(words).end(600)

    def finish_well(self, words: tuple[str, ...]) -> Ending:
        """Run a command to its end, which must be a good one."""
        ending = self.finish(words)
        assert ending.code == 0, ending.stderr[-3000:]
        return ending

    def uninterrupted(
        self, name: str, words: tuple[str, ...], read: Callable[[Ending], dict[str, bytes]]
    ) -> tuple[dict[str, bytes], float]:
        """Return what a command makes that never stops, and its seconds; run once."""
        if name not in self.whole:
            ending = self.finish_well(words)
            self.whole[name] = read(ending), ending.seconds
            self.clean()
        return self.whole[name]

    def kill_after(self, words: tuple[str, ...], seconds: float) -> None:
        """Start a command and kill it after so many seconds, if it has not ended."""
        process = self.start(words)
        time.sleep(seconds)
        process.kill(signal.SIGKILL)
        assert process.end(60).code in {0, -signal.SIGKILL}

    def clean(self) -> None:
        """Remove what a command made, and its caches."""
        for name in ("out", "temporary"):
            shutil.rmtree(self.places / name, ignore_errors=True)
        (self.places / "temporary").mkdir()


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Campaign:
    """The folder, with a trained run in it."""
    places = tmp_path_factory.mktemp("places")
    lay_out(places, tiny_base)
    made = Campaign(places=places, logs=tmp_path_factory.mktemp("logs"))
    made.clean()
    words = ("train", "photos", "--class-noun", "dog", "--base", "base", "--out", "out", *settings("report.images=0"))
    made.finish_well(words)
    (places / "out").rename(places / "trained")
    made.clean()
    return made


@pytest.fixture(autouse=True)
def _clean(campaign: Campaign) -> None:
    """Begin without what an earlier test has left."""
    campaign.clean()


def run_files(folder: Path) -> dict[str, bytes]:
    """The files of a run that must be equal."""
    assert not list(folder.rglob("*.tmp"))
    found = {name: (folder / name).read_bytes() for name in FACTS if (folder / name).exists()}
    weights = [path for path in folder.glob("*.safetensors") if path.is_file()]
    previews = list((folder / "previews").glob("*.png"))
    return found | {str(path.relative_to(folder)): path.read_bytes() for path in weights + previews}


def moment(name: str, number: int) -> float:
    """Return the moment at which a command is killed, as a share of its whole time."""
    return random.Random(f"{name} {number}").random()


def resume_or_start(campaign: Campaign, words: tuple[str, ...]) -> None:
    """Go on with a killed training; one that was killed before its folder was made starts again."""
    ending = campaign.finish(("train", "--resume", "--out", "out"))
    if ending.code == 2 and not (campaign.places / "out" / "recipe.toml").exists():
        ending = campaign.finish(words)
    assert ending.code == 0, ending.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(MOMENTS))
@pytest.mark.parametrize("method", METHODS)
def test_a_killed_training_ends_in_the_same_bytes(campaign: Campaign, method: str, number: int) -> None:
    words = ("train", "photos", "--class-noun", "dog", "--base", "base", "--method", method, "--out", "out")
    words += settings("report.images=4", *PRIOR.get(method, ()))
    out = campaign.places / "out"
    whole, seconds = campaign.uninterrupted(method, words, lambda _: run_files(out))
    campaign.kill_after(words, moment(method, number) * seconds)
    resume_or_start(campaign, words)
    assert (out / "report.html").stat().st_size > 1000
    assert_same(run_files(out), whole)
    campaign.clean()


def assert_same(files: dict[str, bytes], whole: dict[str, bytes]) -> None:
    """The same files with the same bytes."""
    assert sorted(files) == sorted(whole)
    different = [name for name in whole if files[name] != whole[name]]
    assert not different, ", ".join(different)


def folder_files(folder: Path) -> dict[str, bytes]:
    """All results below a folder, without pages, which show times, and measurements of a cache."""
    assert not list(folder.rglob("*.tmp"))
    suffixes = {".json", ".jsonl", ".safetensors", ".png", ".toml"}
    found = [path for path in folder.rglob("*") if path.suffix in suffixes and path.parent.name != "measured"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


RESTARTED = {
    "suite": (
        ("suite", "collection", "--base", "base", "--images", "1", "--prompts", "1", "--out", "out", *ENCODERS),
        ("--set", "training.steps=4", "--set", "prior.count=0", "--set", "knobs.steps=1"),
    ),
    "sweep": (
        ("sweep", "sweep.toml", "--over", "method.rank=2,4", "--out", "out"),
        settings("training.steps=4", "class_noun=dog", "report.images=0"),
    ),
}
"""Commands that go on where they stopped when they are given again."""


@pytest.mark.slow
@pytest.mark.parametrize("number", range(OTHERS))
@pytest.mark.parametrize("name", RESTARTED)
def test_a_killed_experiment_given_again_ends_in_the_same_results(campaign: Campaign, name: str, number: int) -> None:
    words = RESTARTED[name][0] + RESTARTED[name][1]
    out = campaign.places / "out"
    whole, seconds = campaign.uninterrupted(name, words, lambda _: folder_files(out))
    campaign.kill_after(words, moment(name, number) * seconds)
    campaign.finish_well(words)
    assert_same(folder_files(out), whole)
    campaign.clean()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(OTHERS))
def test_a_killed_generate_leaves_whole_images_and_can_be_given_again(campaign: Campaign, number: int) -> None:
    words = ("generate", "trained", "a {subject}", "a {subject} in the snow", "--count", "12", "--out", "out")
    out = campaign.places / "out"
    whole, seconds = campaign.uninterrupted("generate", words, lambda _: folder_files(out))
    campaign.kill_after(words, moment("generate", number) * seconds)
    left = {path.name: path.read_bytes() for path in out.glob("*.png")} if out.exists() else {}
    assert left == {name: whole[name] for name in left}
    campaign.finish_well(words)
    files = folder_files(out)  # no temporary file is left
    assert sorted(files) == sorted([*whole, *(name for name in files if "-2.png" in name)])
    assert {name: files[name] for name in whole} == whole
    assert len(files) == len(left) + len(whole)
    campaign.clean()


def printed(ending: Ending) -> dict[str, bytes]:
    """What a command printed, without its progress bars."""
    lines = [line for line in ending.stdout.splitlines() if "\N{BOX DRAWINGS HEAVY HORIZONTAL}" not in line]
    return {"stdout": "\n".join(lines).strip().encode()}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(OTHERS))
def test_a_killed_token_search_given_again_finds_the_same(campaign: Campaign, number: int) -> None:
    words = ("token", "--candidates", "2", "--count", "2")
    whole, seconds = campaign.uninterrupted("token", words, printed)
    campaign.kill_after(words, moment("token", number) * seconds)
    assert_same(printed(campaign.finish_well(words)), whole)
    campaign.clean()


@pytest.fixture(scope="module")
def scored(campaign: Campaign) -> Path:
    """A run with scores, and its copy with others."""
    campaign.finish_well(("evaluate", "trained", "--images", "1", *ENCODERS))
    folder = campaign.places / "scored"
    if not folder.exists():
        shutil.copytree(campaign.places / "trained", folder)
    return folder


def page_of(path: Path) -> Callable[[Ending], dict[str, bytes]]:
    """Read a page."""
    return lambda _: {path.name: path.read_bytes()}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(OTHERS))
def test_a_killed_comparison_given_again_writes_the_same_page(campaign: Campaign, scored: Path, number: int) -> None:
    (campaign.places / "out").mkdir(exist_ok=True)
    words, page = ("compare", "trained", scored.name, "--out", "out/page.html"), campaign.places / "out" / "page.html"
    whole, seconds = campaign.uninterrupted("compare", words, page_of(page))
    (campaign.places / "out").mkdir(exist_ok=True)
    campaign.kill_after(words, moment("compare", number) * seconds)
    assert not page.exists() or page.read_bytes() == whole[page.name]
    campaign.finish_well(words)
    assert_same({page.name: page.read_bytes()}, whole)
    campaign.clean()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(OTHERS))
def test_a_killed_cross_validation_given_again_scores_the_same(campaign: Campaign, number: int) -> None:
    run = campaign.places / "out"
    words = ("evaluate", "out", "--cross-validate", "all", "--images", "1", *ENCODERS)

    def scores(_: Ending) -> dict[str, bytes]:
        return {"scores.json": (run / "scores.json").read_bytes()}

    train_two_photos(campaign)
    whole, seconds = campaign.uninterrupted("cross-validation", words, scores)
    if not run.exists():
        train_two_photos(campaign)
    campaign.kill_after(words, moment("cross-validation", number) * seconds)
    ending = campaign.finish_well(words)
    assert json.loads(scores(ending)["scores.json"]) == json.loads(whole["scores.json"])
    campaign.clean()


QUICK = (
    "device=cpu",
    "training.steps=4",
    "training.checkpoint_every=2",
    "prior.weight=0",
    "previews.every=0",
    "knobs.steps=1",
    "selection.active=false",
    "diagnosis.active=false",
    "report.images=0",
)
"""The settings of a run that is only to be evaluated."""


def train_two_photos(campaign: Campaign) -> None:
    """Put the run of two photos, trained once, into `out`."""
    made = campaign.places / "two"
    if not made.exists():
        shutil.copytree(campaign.places / "photos", campaign.places / "pair", dirs_exist_ok=True)
        noise(80, 72).save(campaign.places / "pair" / "2.png")
        quick = tuple(word for setting in QUICK for word in ("--set", setting))
        campaign.finish_well(("train", "pair", "--class-noun", "dog", "--base", "base", "--out", "two", *quick))
    shutil.copytree(made, campaign.places / "out")
