"""Laws of suites: every subject with every variant, nothing is done twice, means are fair."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from experiments.test_subject_collection import FILE
from mascot.api.experiments import evaluate_suite as suite_api
from mascot.api.experiments.evaluate_suite import evaluate_suite
from mascot.cli import app
from mascot.errors import UserError
from mascot.evaluation.scores import METRICS, Scores
from mascot.experiments.subject_collection import CollectionSubject, read_collection
from mascot.experiments.suite import (
    EvaluationRequest,
    SuiteFolder,
    SuiteJob,
    SuiteRun,
    SuiteScores,
    SuiteSummary,
    Variant,
    plan_runs,
    run_suite,
)
from mascot.experiments.suite_page import (
    PAPER,
    difference_tables,
    markdown,
    other_table,
    paper_table,
    subjects_table,
    suite_page,
)
from mascot.progress import Event, RunFinished, RunsPlanned
from mascot.recipe.recipe import Recipe
from mascot.storage.run_folder import Run
from tiny.encoders import tiny_clip, tiny_identity
from tiny.photos import noise

QUICK = (
    "training.steps=2",
    "training.warmup_steps=0",
    "prior.count=2",
    "knobs.steps=1",
    "selection.active=false",
    "device=cpu",
)


class Killed(BaseException):
    """What kills a test's suite like a signal: nothing may catch it."""


def encoders_named(name: str = "fake") -> dict[str, str]:
    """Descriptions of encoders."""
    return {"identity": name, "clip": name}


@dataclass
class Fake:
    """Trains and scores in no time, counts calls, and gives each run scores of its own."""

    scores: Scores
    fatal: int = 0
    """Number of the call that kills."""
    failing: tuple[str, ...] = ()
    calls: list[str] = field(default_factory=list[str])

    def count(self, what: str, folder: Path) -> None:
        self.calls.append(f"{what} {folder.parent.name} {folder.name}")
        if self.fatal == len(self.calls):
            raise Killed

    def train_run(self, recipe: Recipe, folder: Path) -> Run:
        run = Run(folder)
        run.write_text(run.recipe, recipe.to_toml())
        self.count("train", folder)
        if folder.name in self.failing:
            raise UserError("this subject fails.")
        run.adapter.write_bytes(b"an adapter")
        return run

    def score_run(self, run: Run, request: EvaluationRequest) -> Scores:
        self.count("score", run.folder)
        value = (len(run.folder.name) + 3 * len(run.folder.parent.name)) / 100
        values = {
            **self.scores.values,
            "identity": self.scores.values["identity"].model_copy(update={"value": value, "reason": ""}),
        }
        asked = {"prompts": self.prompts(request), "images": request.images, "seed": request.seed, "live": request.live}
        encoders = {"identity": "fake", "clip": "fake", "distance": "fake"}
        found = self.scores.model_copy(
            update={"name": run.folder.name, "values": values, "encoders": encoders, **asked}
        )
        found.write(run.scores)
        return found

    def prompts(self, request: EvaluationRequest) -> tuple[Any, ...]:
        return tuple(self.scores.prompts[0].model_copy(update={"template": template}) for template in request.templates)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection of three subjects with two photos each."""
    folder = tmp_path_factory.mktemp("collection")
    (folder / "prompts_and_classes.txt").write_text(FILE, encoding="utf-8")
    for number, name in enumerate(("cat9", "mug", "robot")):
        (folder / name).mkdir()
        for k in range(2):
            noise(64 + number, 64 + k).save(folder / name / f"{k}.png")
    return folder


@pytest.fixture(scope="module")
def real(
    world: Path, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[SuiteScores, Path, dict[str, Any]]]:
    """A suite that was really trained, generated and scored, on a tiny base."""
    home = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASCOT_CACHE", str(home / "cache"))
        options: dict[str, Any] = {
            "base": str(tiny_base),
            "subjects": ["cat9", "mug"],
            "methods": ["lora", "textual-inversion"],
            "prompts": 2,
            "images": 2,
            "identity": str(tiny_identity(home / "identity")),
            "clip": str(tiny_clip(home / "clip")),
            "device": "cpu",
            "overrides": QUICK,
        }
        yield evaluate_suite(world, out=home / "out", **options), home, options


@cache
def sample(real_home: Path) -> Scores:
    return Scores.read(real_home / "out" / "lora" / "cat9" / "scores.json")


def suite_runs(world: Path, names: tuple[str, ...] = ("one", "second")) -> tuple[SuiteRun, ...]:
    """Three subjects with two variants."""

    def recipe(subject: CollectionSubject) -> Recipe:
        return Recipe.preset(photos=(str(subject.photos),), class_noun=subject.class_noun)

    collection = read_collection(world)
    lists = {live: collection.prompts.for_subject(live=live) for live in (False, True)}
    return plan_runs(
        collection.subjects, [Variant(name=name, recipe=recipe) for name in names], prompts=lists, images=2, seed=0
    )


def job_of(out: Path, fake: Fake, encoders: str = "fake", **changes: Any) -> SuiteJob:
    calls = {"train_run": fake.train_run, "score_run": fake.score_run, **changes}
    return SuiteJob(files=SuiteFolder(out), encoders=encoders_named(encoders), **calls)


def evaluated(world: Path, out: Path, fake: Fake, *, encoders: str = "fake", **more: Any) -> SuiteScores:
    return run_suite(suite_runs(world), job_of(out, fake, encoders), **more)


def test_a_suite_trains_generates_and_scores_everything(real: tuple[SuiteScores, Path, dict[str, Any]]) -> None:
    """Each subject by its own list of the collection's prompts, and on its own photos."""
    suite, home, _ = real
    assert set(suite.scores) == {
        (variant, name) for variant in ("lora", "textual-inversion") for name in ("cat9", "mug")
    }
    assert [prompt.template for prompt in suite.scores["lora", "cat9"].prompts] == [
        "a {subject} wearing a dog's hat",
        "a wet {subject}",
    ]
    assert [prompt.template for prompt in suite.scores["lora", "mug"].prompts] == [
        "a {subject} in the snow",
        "a red {subject}",
    ]
    assert suite.scores["lora", "cat9"].photos != suite.scores["lora", "mug"].photos
    assert all(scores.values["identity"].value is not None for scores in suite.scores.values())
    assert (
        Recipe.read(home / "out" / "textual-inversion" / "mug" / "recipe.toml").method.model_dump()["name"]
        == "textual-inversion"
    )
    page = (home / "out" / "suite.html").read_text("utf-8")
    assert "cat9" in page
    # For each of two subjects, two photos and two images by each of two methods.
    assert page.count("<img") == 2 * (2 + 2 * 2)


def test_a_second_call_does_nothing_again(
    real: tuple[SuiteScores, Path, dict[str, Any]], world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, home, options = real

    def fail(*_: Any, **__: Any) -> None:
        pytest.fail("this was done before")

    monkeypatch.setattr(suite_api, "train_on_pooled_base", fail)
    monkeypatch.setattr(suite_api, "evaluate", fail)
    assert evaluate_suite(world, out=home / "out", **options).scores == suite.scores


def test_another_setting_of_a_finished_run_is_refused_and_nothing_is_lost(
    real: tuple[SuiteScores, Path, dict[str, Any]], world: Path
) -> None:
    _, home, options = real
    before = (home / "out" / "lora" / "mug" / "adapter.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"nothing could be scored: .* was trained with other settings"):
        evaluate_suite(
            world, out=home / "out", **{**options, "overrides": [*QUICK, "method.rank=2"], "methods": ["lora"]}
        )
    assert (home / "out" / "lora" / "mug" / "adapter.safetensors").read_bytes() == before


@pytest.mark.parametrize("fatal", range(1, 13))
def test_a_killed_suite_ends_as_one_that_was_not_killed(
    real: tuple[SuiteScores, Path, dict[str, Any]], world: Path, tmp_path: Path, fatal: int
) -> None:
    """Killed at any of its twelve calls, it ends with the same file, and redoes nothing."""
    scores = sample(real[1])
    whole = evaluated(world, tmp_path / "whole", Fake(scores))
    first, second = Fake(scores, fatal=fatal), Fake(scores)
    with pytest.raises(Killed):
        evaluated(world, tmp_path / "killed", first)
    again = evaluated(world, tmp_path / "killed", second)
    assert again.scores == whole.scores
    assert SuiteFolder(tmp_path / "killed").summary.read_bytes() == SuiteFolder(tmp_path / "whole").summary.read_bytes()
    assert len(first.calls) - 1 + len(second.calls) == 12


def test_scores_by_other_encoders_are_redone(
    real: tuple[SuiteScores, Path, dict[str, Any]], world: Path, tmp_path: Path
) -> None:
    """Nothing is trained again, everything is scored again."""
    fake = Fake(sample(real[1]))
    evaluated(world, tmp_path, fake)
    fake.calls.clear()
    evaluated(world, tmp_path, fake, encoders="another")
    assert {call.split()[0] for call in fake.calls} == {"score"}
    assert len(fake.calls) == 6


def test_a_subject_that_fails_is_shown_and_left_out_of_every_mean(
    real: tuple[SuiteScores, Path, dict[str, Any]], world: Path, tmp_path: Path
) -> None:
    events: list[Event] = []
    fake = Fake(sample(real[1]), failing=("mug",))
    suite = evaluated(world, tmp_path, fake, on_event=events.append)
    assert suite.subjects == ("cat9", "robot")
    assert [failure.reason for failure in suite.failures] == ["this subject fails."] * 2
    assert events[0] == RunsPlanned(runs=6)
    failures = [event.failure for event in events[1:] if isinstance(event, RunFinished)]
    assert sorted(failures) == [*[""] * 4, *["this subject fails."] * 2]
    expected = sum(suite.scores["one", name].values["identity"].value or 0 for name in ("cat9", "robot")) / 2
    found = suite.mean("one", "identity")
    assert found is not None
    assert found.mean == pytest.approx(expected)
    notes = "\n".join(other_table(suite).notes)
    assert "mug: this subject fails." in notes
    assert "left out of the means, as not every row has them: mug" in notes
    kept = SuiteSummary.read(SuiteFolder(tmp_path).summary)
    assert kept.failures == {"one/mug": "this subject fails.", "second/mug": "this subject fails."}
    assert kept.variants["one"]["identity"].subjects == 2


def test_the_table_has_the_papers_rows_and_says_that_they_are_the_papers(
    real: tuple[SuiteScores, Path, dict[str, Any]],
) -> None:
    suite, _, _ = real
    table = paper_table(suite)
    rows = {row[0]: row for row in table.rows}
    assert all(len(row) == len(table.head) == 4 for row in table.rows)
    assert rows["paper: DreamBooth, Stable Diffusion"][1] == "0.668"
    assert set(rows) == {"real photos", "base model", *suite.variants, *(f"paper: {name}" for name in PAPER)}
    assert any("encoders" in note and "others" in note for note in table.notes)
    assert "nan" not in markdown(table).lower()
    assert markdown(table).count("\n") == len(table.rows) + 1
    besides = other_table(suite)
    assert set(besides.head[1:]) >= {METRICS[name].title for name in ("diversity", "preservation", "drift")}
    assert {row[0] for row in besides.rows} == {"base model", *suite.variants}
    assert any(note.startswith("copy: no photo was held out") for note in besides.notes)


def test_variants_are_compared_subject_by_subject(real: tuple[SuiteScores, Path, dict[str, Any]]) -> None:
    suite, home, _ = real
    [table] = difference_tables(suite)
    identity = next(row for row in table.rows if row[0] == "identity")
    values = [[scores.values["identity"].value or 0 for scores in suite.of(variant)] for variant in suite.variants]
    assert identity[3].startswith(f"{sum(values[0]) / 2 - sum(values[1]) / 2:.3f}")
    assert [row[0] for row in subjects_table(suite, "identity").rows] == ["cat9", "mug"]
    assert len(suite_page(suite, SuiteFolder(home / "out")).sections) == 4


def test_a_suite_without_any_score_leaves_nothing_behind(
    real: tuple[SuiteScores, Path, dict[str, Any]], world: Path, tmp_path: Path
) -> None:
    def refuse(*_: Any) -> Run:
        raise UserError("no photo can be used.")

    with pytest.raises(UserError, match=r"nothing could be scored: no photo can be used"):
        run_suite(suite_runs(world), job_of(tmp_path / "out", Fake(sample(real[1])), train_run=refuse))
    assert list(tmp_path.iterdir()) == []


def test_two_variants_of_one_name_are_refused(world: Path) -> None:
    with pytest.raises(UserError, match="named twice"):
        suite_runs(world, ("one", "one"))


def test_a_summary_is_read_back_and_a_damaged_one_refused(tmp_path: Path) -> None:
    kept = SuiteSummary(images=1, seed=0, prompts=2, encoders={}, subjects=("a",), variants={}, failures={})
    kept.write(tmp_path / "suite.json")
    assert SuiteSummary.read(tmp_path / "suite.json") == kept
    (tmp_path / "suite.json").write_text(json.dumps({"version": 2}), encoding="utf-8")
    with pytest.raises(UserError, match="damaged or was written by another version"):
        SuiteSummary.read(tmp_path / "suite.json")
    with pytest.raises(UserError, match="does not exist"):
        SuiteSummary.read(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["suite", "{world}", "some_run"], "unexpected extra argument(s) (some_run)"),
        (["suite", "{world}", "--prompt", "a {subject}"], "No such option: --prompt"),
        (["suite", "{world}", "--subjects", "cat"], "no subject 'cat'"),
        (["suite", "{world}", "--methods", "lorra"], "unknown method 'lorra'; did you mean 'lora'"),
        (["suite", "{world}", "--methods", "lora,lora"], "named twice"),
        (["suite", "{world}", "--set", "method.rnk=2"], "rnk"),
        (["suite", "{world}/mug"], "is no collection"),
        (["suite"], "Missing argument 'folder'"),
        (["evaluate", "--methods", "lora", "some_run"], "No such option: --methods"),
        (["evaluate"], "Missing argument 'runs'"),
    ],
)
def test_the_command_refuses_in_one_sentence(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["mascot", *(part.replace("{world}", str(world)) for part in arguments)])
    with pytest.raises(SystemExit) as caught:
        app.main()
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_images_of_a_page_are_small(real: tuple[SuiteScores, Path, dict[str, Any]]) -> None:
    """The page holds every subject; photos of any size are reduced."""
    suite, home, _ = real
    page = suite_page(suite, SuiteFolder(home / "out"))
    tiles = [tile for section in page.sections for row in section.rows for strip in row.strips for tile in strip.tiles]
    assert max(max(tile.image.size) for tile in tiles) <= 256
    assert all(isinstance(tile.image, Image.Image) for tile in tiles)
