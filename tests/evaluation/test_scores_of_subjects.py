"""Scores and diagnoses of several subjects: each by itself, leakage between them, and together."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from laws.bad_places import fresh_adapter
from laws.test_several_subjects import command, options
from mascot.adapters.adapter_file import Adapter, SubjectRecord
from mascot.api.experiments.compare import compare
from mascot.errors import UserError
from mascot.evaluation.diagnosis.findings import Diagnosis
from mascot.evaluation.evaluation_task import prompts_about
from mascot.evaluation.metrics.subject_leakage import all_present, cut_strips, measure_leak, presence_scale
from mascot.evaluation.scores import Scores
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest
from mascot.models import starter
from mascot.protocols import Subject
from mascot.recipe.recipe import Recipe
from mascot.storage.run_folder import Run, scores_folder
from tiny.encoders import tiny_clip, tiny_identity
from tiny.photos import noise
from tiny.world import World

OWL = sorted((Path(__file__).parents[2] / "examples" / "mascot" / "photos").glob("*.png"))
BEAR = [Path(photo) for photo in starter.subjects()["teddy_bear"].photos]
OTHERS = [Path(photo) for name in ("boar", "koala") for photo in starter.subjects()[name].photos]
"""Photos that stand for the base model's images."""
STARTER = ("--identity", "starter", "--clip", "starter", "--device", "cpu")
TOGETHER = "a {owl} next to a {bear}"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a cache of its own, and a wide terminal."""
    monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "250")


@pytest.fixture
def run(tmp_path: Path, tiny_base: Path) -> Run:
    """Write the folder of a run of an owl and a bear, which has learned nothing."""
    subjects = [
        {"photos": [str(photo) for photo in OWL], "class_noun": "owl", "token": "sks"},
        {"photos": [str(photo) for photo in BEAR], "class_noun": "bear", "token": "zwx"},
    ]
    recipe = Recipe.preset(base=str(tiny_base), subject=subjects, overrides=["knobs.steps=1", "training.steps=100"])
    written, adapter = Run(tmp_path / "run"), fresh_adapter(tiny_base)
    written.write_text(written.recipe, recipe.to_toml())
    assert adapter.manifest is not None
    facts: dict[str, Any] = {"base": str(tiny_base), "class_noun": "owl", "recipe": recipe.model_dump(mode="json")}
    records = [
        SubjectRecord(name=noun, token=token, class_noun=noun) for noun, token in (("owl", "sks"), ("bear", "zwx"))
    ]
    manifest = adapter.manifest.model_copy(update={**facts, "subjects": tuple(records)})
    Adapter(tensors=adapter.tensors, metadata=adapter.metadata, manifest=manifest).write(written.adapter)
    return written


def opened(photos: Sequence[Path]) -> list[Image.Image]:
    """Open photos at the size of images."""
    return [Image.open(photo).convert("RGB").resize((64, 64)) for photo in photos]


def beside(left: Image.Image, right: Image.Image) -> Image.Image:
    """Put the middles of two images side by side."""
    joined = Image.new("RGB", (64, 64))
    joined.paste(left.crop((16, 0, 48, 64)), (0, 0))
    joined.paste(right.crop((16, 0, 48, 64)), (32, 0))
    return joined


def plant(monkeypatch: pytest.MonkeyPatch, owl: Sequence[Path], bear: Sequence[Path]) -> None:
    """Let the model generate photos instead, by the tokens of a prompt."""
    owls, bears, others = opened(owl), opened(bear), opened(OTHERS)

    def generate(_: Generator, requests: Sequence[ImageRequest], *_given: object) -> list[Image.Image]:
        images: list[Image.Image] = []
        for request in requests:
            number = request.seed + len(request.prompt)
            shown = {"sks": owls[number % len(owls)], "zwx": bears[number % len(bears)]}
            named = [image for token, image in shown.items() if token in request.prompt]
            images.append(beside(*named) if len(named) > 1 else [*named, others[number % len(others)]][0])
        return images

    monkeypatch.setattr(Generator, "generate_batch", generate)


def test_a_planted_leak_is_scored_and_found(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What should be the owl are photos of the bear."""
    plant(monkeypatch, BEAR, BEAR)
    prompts = ("--prompt", "a {subject} in the snow", "--prompt", "a {owl} at night", "--prompt", TOGETHER)
    assert command(monkeypatch, "evaluate", run.folder, *prompts, "--images", "2", *STARTER) == 0
    printed = capsys.readouterr().out
    scores = Scores.read(run.scores)
    assert [(one.name, one.prompts) for one in scores.subjects] == [("owl", 2), ("bear", 1)]
    into_owl, into_bear = scores.leakage
    assert (into_owl.subject, into_owl.other) == ("owl", "bear")
    assert into_owl.value.value == pytest.approx(1, abs=0.1)
    assert into_owl.nearer == 1
    assert into_bear.value.value is not None
    assert into_bear.value.value < 0.1
    assert into_bear.nearer == 0
    assert scores.together is not None
    assert scores.together.values["shown"].value == 0  # two bears are not an owl and a bear
    assert "leakage between subjects" in printed
    assert "owl: subject leakage" in printed
    diagnosis = Diagnosis.read(run.diagnosis)
    [finding] = [one for one in diagnosis.findings if one.failure_mode == "subject leakage"]
    assert finding.subject == "owl"
    assert "100% of the images look like bear rather than" in finding.message
    assert [remedy.option for remedy in finding.remedies][:2] == ["--steps 200", "--set prior.weight=2"]
    assert [strip.title for strip in finding.example_strips][1:] == ["photos", "photos of bear"]
    assert all((run.folder / image.file).is_file() for strip in finding.example_strips for image in strip.images)
    page = html.unescape(run.scores_page.read_text(encoding="utf-8"))
    assert "serious: owl: subject leakage" in page
    assert "All subjects in one image" in page


def test_subjects_that_are_themselves_do_not_leak(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(monkeypatch, OWL, BEAR)
    assert command(monkeypatch, "diagnose", run.folder, *STARTER) == 0
    printed = capsys.readouterr().out
    diagnosis = Diagnosis.read(run.diagnosis)
    assert not [finding for finding in diagnosis.findings if finding.failure_mode == "subject leakage"]
    checks = [check for check in diagnosis.checks if check.failure_mode == "subject leakage"]
    assert [check.subject for check in checks] == ["owl", "bear"]
    assert all(check.value < 0.1 for check in checks)
    assert "owl: subject leakage" in printed
    assert diagnosis.subjects == ("owl", "bear")
    prompts = ("--prompt", "a {subject} in the snow", "--prompt", TOGETHER)
    assert command(monkeypatch, "evaluate", run.folder, *prompts, "--images", "2", *STARTER) == 0
    together = Scores.read(run.scores).together
    assert together is not None
    assert together.values["shown"].value == 1
    assert together.values["base_shown"].value == 0


@pytest.mark.parametrize("method", ["lora", pytest.param("textual-inversion", marks=pytest.mark.slow)])
def test_a_trained_run_of_two_subjects_is_scored_and_diagnosed(
    method: str, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training diagnoses both subjects at its end; all is scored by the command, without stubs."""
    encoders = {"identity": tiny_identity(tmp_path / "identity"), "clip": tiny_clip(tmp_path / "clip")}
    for name in ("owl", "cat"):
        (tmp_path / name).mkdir()
        for number in range(3):
            noise(64, 64 + 8 * number + (name == "cat")).save(tmp_path / name / f"{number}.png")
    chosen = [f"selection.{name}={path}" for name, path in encoders.items()]
    settings = options(method, *chosen, "diagnosis.active=true", "report.images=4")
    given = [tmp_path / "owl", tmp_path / "cat", "--class-noun", "owl,cat", "--token", "sks,zwx", "--base", tiny_base]
    run = Run(tmp_path / "run")
    assert command(monkeypatch, "train", *given, "--out", run.folder, *settings) == 0
    report = html.unescape(run.report.read_text(encoding="utf-8"))
    trained = Diagnosis.read(run.diagnosis)
    assert trained.verdict in report
    assert {check.subject for check in trained.checks} == {"owl", "cat"}
    prompts = ("--prompt", "a {subject} in the snow", "--prompt", "a {owl} and a {cat}")
    assert command(monkeypatch, "evaluate", run.folder, *prompts, "--images", "2", "--device", "cpu") == 0
    printed = capsys.readouterr().out
    assert f"{run.folder}: owl" in printed
    assert f"{run.folder}: mean" in printed
    scores = Scores.read(run.scores)
    for name, score in scores.values.items():
        each = [one.values[name].value for one in scores.subjects]
        if None not in each:
            assert score.value == pytest.approx(sum(float(value or 0) for value in each) / 2)
    assert [prompt.prompt for prompt in scores.prompts] == ["a sks owl in the snow", "a zwx cat in the snow"]
    assert all((run.folder / image.file).is_file() for prompt in scores.prompts for image in prompt.images)
    assert {row["version"] for row in [json.loads(run.scores.read_text(encoding="utf-8"))]} == {1}
    assert set(compare(run, run, out=tmp_path / "page.html").differences) >= {"identity"}
    assert command(monkeypatch, "diagnose", run.folder, "--device", "cpu") == 0
    if method == "textual-inversion":  # its file of one word is compared with that word's photos
        word = run.folder / "token_cat.safetensors"
        assert command(monkeypatch, "evaluate", word, *prompts[:2], "--images", "1", "--device", "cpu") == 0
        assert Scores.read(scores_folder(word).scores).photos == scores.subjects[1].photos


REFUSED: dict[str, tuple[list[str], str]] = {
    "some of three kinds": (["--prompt", "a {owl} next to a {subject}"], "is about some of several subjects"),
    "none of the bear": (["--prompt", "a {owl} at night"], "no prompt is about bear alone; add one with {bear}"),
    "no name": (["--prompt", "a bird at night"], "does not name the subject; write {subject}"),
    "a wrong name": (["--prompt", "a {owll} and {subject}"], "did you mean 'owl'?"),
    "photos of one": (["--photos", str(OWL[0])], "--photos are needed once for each subject, in this order: owl, bear"),
    "held out": (["--cross-validate", "all"], "give --photos once for each subject"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_scored_is_refused_before_a_base_is_loaded(
    case: str, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, sentence = REFUSED[case]
    monkeypatch.setattr("mascot.api.evaluate.open_generator", lambda *_, **__: pytest.fail("a base was loaded"))
    assert command(monkeypatch, "evaluate", run.folder, *arguments) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not run.scores.exists()


def test_photos_are_given_for_each_subject(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An adapter file elsewhere has no photos of its own; held-out photos give a copy score."""
    plant(monkeypatch, OWL, BEAR)
    prompts = ("--prompt", "a {subject} in the snow", "--images", "1", *STARTER)
    alone = tmp_path / "alone" / "adapter.safetensors"
    alone.parent.mkdir()
    alone.write_bytes(run.adapter.read_bytes())
    assert command(monkeypatch, "evaluate", alone, *prompts) == 0
    scores = Scores.read(scores_folder(alone).scores)
    assert scores.leakage[0].value.reason.endswith("give --photos once for each of them")
    for name, photos in (("owl", OWL), ("bear", BEAR)):
        (tmp_path / name).mkdir()
        for photo in photos:
            (tmp_path / name / photo.name).write_bytes(photo.read_bytes())
    given = ("--photos", tmp_path / "owl", "--photos", tmp_path / "bear")
    assert command(monkeypatch, "evaluate", alone, *given, *prompts) == 0
    assert Scores.read(scores_folder(alone).scores).leakage[0].value.value is not None


def test_a_prompt_of_both_is_no_diagnosis(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--prompt", "a {subject} at night", "--prompt", TOGETHER)
    assert command(monkeypatch, "diagnose", run.folder, *asked) == 2
    assert "score it with `mascot evaluate --prompt`" in " ".join(capsys.readouterr().err.split())


def row(angle: float) -> torch.Tensor:
    """A unit vector in the plane."""
    return torch.tensor([[torch.cos(torch.tensor(angle)), torch.sin(torch.tensor(angle))]])


def rows(*angles: float) -> torch.Tensor:
    """Unit vectors in the plane."""
    return torch.cat([row(angle) for angle in angles])


def test_leakage_is_zero_as_expected_and_one_at_the_other_s_photos() -> None:
    own, other, nothing = rows(0.0, 0.2), rows(1.4, 1.6), torch.empty(0, 0)
    as_photos = measure_leak(own, nothing, own, other, each=1)
    assert sum(as_photos.values) / 2 == pytest.approx(0, abs=1e-6)
    leaked = measure_leak(rows(1.5), nothing, own, other, each=1)
    assert leaked.values[0] > 0.99
    assert leaked.nearer == 1
    as_base = measure_leak(rows(0.9, 0.9), rows(0.9, 0.9), own, other, each=2)
    assert as_base.values == pytest.approx((0,), abs=1e-6)
    assert measure_leak(own, nothing, own, rows(1.4), each=1).reason.startswith("one photo alone")
    assert measure_leak(own, nothing, rows(1.4, 1.6), other, each=1).reason.endswith("to tell them apart")


def test_each_subject_needs_a_strip_of_its_own() -> None:
    assert all_present({"owl": [0.9, 0.1], "cat": [0.0, 0.8]}) == 0.8
    assert all_present({"owl": [0.1, 0.9], "cat": [0.8, 0.0]}) == 0.8
    assert all_present({"owl": [0.9, 0.9], "cat": [0.1, 0.0]}) == 0.1
    assert [strip.size for strip in cut_strips(Image.new("RGB", (60, 40)), 3)] == [(40, 40)] * 3
    assert isinstance(presence_scale(rows(0.0), rows(0.0), [rows(1.0)]), str)
    scale = presence_scale(rows(0.0, 0.1), rows(0.0, 0.1), [rows(1.5)])
    assert not isinstance(scale, str)
    assert scale.presence(rows(0.05))[0] == pytest.approx(1, abs=0.01)
    assert scale.presence(rows(1.5))[0] == pytest.approx(0, abs=0.01)


def test_files_of_one_subject_say_nothing_of_several(world: World) -> None:
    """They are as they were before there were several, and so are still read."""
    world.evaluate(prompts=["a {subject} in the snow"], images=1, diagnosed=True)
    scores = json.loads(world.run.scores.read_text(encoding="utf-8"))
    assert not {"subjects", "leakage", "together"} & set(scores)
    diagnosis = json.loads(world.run.diagnosis.read_text(encoding="utf-8"))
    assert "subjects" not in diagnosis
    assert all("subject" not in part for part in (*diagnosis["findings"], *diagnosis["checks"]))
    assert "of 10 failure modes" not in Diagnosis.read(world.run.diagnosis).verdict


def test_prompts_of_three_subjects_are_about_one_or_all() -> None:
    three = [Subject(token, noun, noun) for token, noun in (("sks", "owl"), ("zwx", "cat"), ("fel", "dog"))]
    owl = replace(three[0], others=(three[1], three[2]))
    prompts = ("a {subject} at night", "a {cat} in space", "a zwx cat in a garden", "{owl}, {cat} and {dog}")
    assert prompts_about(prompts, owl) == prompts[:1]
    assert prompts_about(prompts, owl.all[1]) == prompts[:3]
    with pytest.raises(UserError, match=r"one of the names \(\{owl\}, \{cat\}, \{dog\}\) or all of them"):
        prompts_about(("a {owl} and a {cat}",), owl)
