"""Laws of probe images: measured as generated, generated once, and shown with each finding."""

from __future__ import annotations

import html
import itertools
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mascot.api.diagnose import diagnose, plan_diagnosis
from mascot.api.train import diagnose_run, train
from mascot.errors import UserError
from mascot.evaluation.diagnosis.checks import FAILURE_MODES
from mascot.evaluation.diagnosis.example_images import EXAMPLES
from mascot.evaluation.diagnosis.findings import Diagnosis
from mascot.evaluation.diagnosis.measurements import RunMeasurements
from mascot.evaluation.diagnosis.probe_images import (
    PLAIN_BACKGROUNDS,
    TOKEN_IMAGES,
    ProbeImages,
    generate_probes,
    match_prompt,
)
from mascot.evaluation.evaluator import Scorers
from mascot.evaluation.metrics.default_encoders import EncoderPair
from mascot.evaluation.metrics.diversity import PatchDistance
from mascot.evaluation.metrics.foreground import NoSegmenter
from mascot.generation.generator import Generator
from mascot.generation.loading import open_generator, resolve_adapter
from mascot.progress import DiagnosisFinished, Event, GenerationStarted, ignore
from mascot.recipe.recipe import Recipe
from tiny.world import World, cosines, mean

PROMPTS = ("a {subject} in the rain", *PLAIN_BACKGROUNDS[:2])
IMAGES = 2 * len(PROMPTS) * 2 + 2 * 8 + TOKEN_IMAGES


def diagnose_tiny(world: World, where: Any = None, **options: Any) -> Diagnosis:
    """Diagnose with the tiny encoders."""
    given = {"prompts": PROMPTS, "identity": str(world.identity), "clip": str(world.clip), "device": "cpu"} | options
    return diagnose(where or world.run, **given)


@pytest.fixture(scope="module")
def diagnosis(world: World) -> Diagnosis:
    return diagnose_tiny(world)


@pytest.fixture(scope="module")
def probes(world: World, diagnosis: Diagnosis) -> ProbeImages:
    """The images that the diagnosis was made from."""
    del diagnosis
    adapter, path = resolve_adapter(world.run)
    [task] = plan_diagnosis(adapter, path, name="run", prompts=PROMPTS)
    identity, clip = world.encoders
    scorers = Scorers(
        encoders=EncoderPair(identity=identity, clip=clip),
        distance=PatchDistance(encoder=identity),
        segmenter=NoSegmenter("none in a test"),
    )
    generator, _, _ = open_generator(path, device="cpu")
    return generate_probes(task, generator, scorers, adapter=path, folder=world.run.evaluation, on_event=ignore)


@pytest.fixture(scope="module")
def measurements(probes: ProbeImages) -> RunMeasurements:
    return probes.measurements()


def test_it_says_what_was_generated_and_measured(world: World, diagnosis: Diagnosis) -> None:
    assert diagnosis.images == IMAGES
    assert Diagnosis.read(world.run.diagnosis) == diagnosis
    assert {check.failure_mode for check in diagnosis.checks} | {
        name.partition(":")[0] for name in diagnosis.unavailable
    } == set(FAILURE_MODES)
    page = html.unescape(world.run.diagnosis_page.read_text())
    shown = sum(len(strip.images) for finding in diagnosis.findings for strip in finding.example_strips)
    assert page.count("<img") == shown > 0
    for finding in diagnosis.findings:
        assert f"{finding.severity}: {finding.failure_mode}" in page
        assert all(remedy.why in page for remedy in finding.remedies)
        for strip in finding.example_strips:
            assert all((world.run.folder / image.file).is_file() for image in strip.images)


def test_nothing_is_generated_twice(world: World, diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Generator, "generate_batch", lambda *_: pytest.fail("everything is cached already"))
    assert diagnose_tiny(world) == diagnosis


def test_an_interrupted_diagnosis_goes_on(world: World, diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch) -> None:
    run, generate_batch = world.write("stopped"), Generator.generate_batch

    def generate_one_batch(*given: Any) -> Any:
        monkeypatch.setattr(Generator, "generate_batch", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        return generate_batch(*given)

    monkeypatch.setattr(Generator, "generate_batch", generate_one_batch)
    with pytest.raises(KeyboardInterrupt):
        diagnose_tiny(world, run)
    assert list(run.evaluation.glob("*.png"))
    assert not run.diagnosis.exists()
    monkeypatch.setattr(Generator, "generate_batch", generate_batch)
    assert diagnose_tiny(world, run).checks == diagnosis.checks


def test_an_evaluation_finds_the_class_images(world: World, diagnosis: Diagnosis) -> None:
    """The class images have the same prompt, seeds and knobs, so they are the same files."""
    del diagnosis
    before = set(world.run.evaluation.glob("a-photo-of-a-dog*.png"))
    world.evaluate(prompts=["a {subject} in the snow"])
    assert set(world.run.evaluation.glob("a-photo-of-a-dog*.png")) == before


def test_an_evaluation_s_page_shows_the_diagnosis_on_request(world: World) -> None:
    world.evaluate(prompts=["a {subject} in the snow"])
    assert 'id="diagnosis"' not in world.run.scores_page.read_text()
    world.evaluate(prompts=["a {subject} in the snow"], diagnosed=True)
    page = world.run.scores_page.read_text()
    assert 'id="diagnosis"' in page
    assert "checks: shares of the way" in page


def test_measurements_are_those_of_the_images(world: World, probes: ProbeImages, measurements: RunMeasurements) -> None:
    identity, clip = world.encoders
    photos, prompt = identity.embed(world.photos(2)), clip.embed_prompts(["a dog in the rain"])
    trained, base = (kind.embed(identity)[:2] for kind in (probes.samples.trained, probes.samples.base))
    first = measurements.prompts[0]
    assert first.likeness == pytest.approx(mean(cosines(trained, photos)), abs=1e-6)
    assert first.base_likeness == pytest.approx(mean(cosines(base, photos)), abs=1e-6)
    assert first.clip_t == pytest.approx(mean(cosines(probes.samples.trained.embed(clip)[:2], prompt)), abs=1e-6)
    assert first.clip_t_others == pytest.approx(mean(cosines(probes.samples.trained.embed(clip)[2:], prompt)), abs=1e-6)
    assert first.base_clip_t_others == pytest.approx(
        mean(cosines(probes.samples.base.embed(clip)[2:], prompt)), abs=1e-6
    )
    alone = probes.token_alone.embed(identity)
    assert measurements.token_likeness == pytest.approx([mean(cosines(row[None], photos)) for row in alone], abs=1e-6)
    assert len(measurements.class_likeness) == len(measurements.base_class_likeness) == 8
    assert len(measurements.leakage) == len(measurements.base_leakage) == 2


def test_a_match_compares_a_prompt_s_own_images_with_the_others() -> None:
    cosines_NIQ = torch.tensor([[[0.9, 0.1], [0.5, 0.2]], [[0.6, 0.8], [0.4, 0.9]]])
    own, others, wins = match_prompt(cosines_NIQ, 0)
    assert (own, others) == (pytest.approx(0.7), pytest.approx(0.5))
    assert wins == pytest.approx(3 / 4)
    assert match_prompt(cosines_NIQ, 1)[2] == 1.0
    assert match_prompt(torch.ones(3, 2, 3), 0)[2] == 0.5
    assert match_prompt(None, 0) == (None, None, None)
    assert match_prompt(torch.ones(1, 2, 1), 0)[1:] == (None, None)


@pytest.mark.parametrize("failure_mode", FAILURE_MODES)
def test_every_failure_mode_has_images_that_show_it(
    probes: ProbeImages, measurements: RunMeasurements, world: World, failure_mode: Any
) -> None:
    feasible = measurements.feasible_prompts
    if (failure_mode == "prompt ignored" and not feasible) or (
        failure_mode == "context not generated" and len(feasible) == len(measurements.prompts)
    ):
        pytest.skip("the tiny base's images do not show it")
    strips = EXAMPLES[failure_mode](probes, measurements, world.run.folder)
    images = list(itertools.chain.from_iterable(strip.images for strip in strips))
    assert images
    assert all((world.run.folder / image.file).is_file() and image.words for image in images)


def test_without_a_class_noun_or_with_one_photo_the_reason_is_given(world: World) -> None:
    nameless = diagnose_tiny(world, world.write("nameless", class_noun=None))
    assert {check.failure_mode for check in nameless.checks} <= {"memorization", "photos too similar"}
    assert any("class noun" in reason for reason in nameless.unavailable.values())
    single = diagnose_tiny(world, world.write("single", trained_on=1))
    assert any("one photo" in reason for reason in single.unavailable.values())
    for run in ("nameless", "single"):
        text = (world.folder / run / "diagnosis.json").read_text() + (world.folder / run / "diagnosis.html").read_text()
        assert not re.search(r"\bnan\b", text, re.IGNORECASE)


def test_an_adapter_far_from_its_photos_takes_others(world: World, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter.safetensors"
    adapter.write_bytes(world.run.adapter.read_bytes())
    alone = diagnose_tiny(world, adapter)
    assert any("--photos" in reason for reason in alone.unavailable.values())
    shown = diagnose_tiny(world, adapter, photos=[world.folder / "photos"])
    assert not any("--photos" in reason for reason in shown.unavailable.values())
    assert (tmp_path / "adapter_scores" / "diagnosis.json").is_file()


def test_what_cannot_be_diagnosed_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a mascot run"):
        diagnose_tiny(world, tmp_path)
    with pytest.raises(UserError, match="does not name the subject"):
        diagnose_tiny(world, prompts=["a dog"])


def test_training_reports_the_diagnosis(world: World, tmp_path: Path) -> None:
    small = [
        "training.steps=1",
        "prior.count=0",
        "knobs.steps=1",
        "previews.every=0",
        "selection.active=false",
        "method.rank=2",
    ]
    encoders = [f"selection.identity={world.identity}", f"selection.clip={world.clip}"]
    recipe = Recipe.preset(
        photos=[str(world.folder / "photos")], base=str(world.base), class_noun="dog", overrides=[*small, *encoders]
    )
    events: list[Event] = []
    run = train(recipe, out=tmp_path / "run", on_event=events.append)
    found, page = Diagnosis.read(run.diagnosis), html.unescape(run.report.read_text())
    started = [event.images for event in events if isinstance(event, GenerationStarted)]
    assert started[-1] == found.images
    [finished] = [event for event in events if isinstance(event, DiagnosisFinished)]
    assert (finished.verdict, finished.findings) == (found.verdict, found.summaries)
    assert 'id="diagnosis"' in page
    assert found.verdict in page
    for finding in found.findings:
        assert finding.message in page
        assert all(remedy.option in page and remedy.why in page for remedy in finding.remedies)


def test_training_goes_on_without_a_diagnosis(world: World) -> None:
    def diagnosed(*overrides: str) -> Diagnosis | str:
        recipe = Recipe.preset(
            photos=[str(world.folder / "photos")], base=str(world.base), class_noun="dog", overrides=overrides
        )
        run: Any = SimpleNamespace(recipe=recipe, files=world.run, on_event=ignore)
        no_generator: Any = None  # so that nothing can be generated
        return diagnose_run(run, no_generator)

    assert diagnosed("diagnosis.active=false") == ""
    assert str(diagnosed("selection.identity=./nowhere")).startswith("The run could not be diagnosed: ")
