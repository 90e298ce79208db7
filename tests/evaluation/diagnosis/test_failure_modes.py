"""Runs on the embedded base that were given each failure mode on purpose, and a healthy run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from mascot.adapters.adapter_file import Adapter
from mascot.api.diagnose import diagnose
from mascot.api.train import train
from mascot.evaluation.diagnosis.findings import CheckResult, Diagnosis
from mascot.generation.loading import recommended_knobs
from mascot.models import starter
from mascot.recipe.recipe import Recipe
from mascot.storage.run_folder import Run

ROOT = Path(__file__).resolve().parents[3]
OWL = ROOT / "examples" / "mascot" / "photos"
ONE_CAPTION = 'dataset.templates=["a photo of {token} {class}"]'
MEMORIZING = (
    'method.name="dreambooth"',
    "method.learning_rate=1e-3",
    "method.text_learning_rate=1e-3",
    "prior.weight=0",
    ONE_CAPTION,
)
"""All weights and the text encoder at far too high a learning rate, without class images."""
QUICK = ("selection.active=false", "previews.every=0", "training.checkpoint_every=1000")

pytestmark = pytest.mark.slow


class OwlRuns:
    """Trains runs on the owl, healthy and faulty, each once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.train = cache(self._train)
        self.diagnose = cache(self._diagnose)

    def _train(self, name: str, photos: Path, *overrides: str) -> Run:
        recipe = Recipe.preset(photos=[str(photos)], class_noun="owl", overrides=[*QUICK, *overrides])
        return train(recipe, out=self.folder / name, report=False)

    def _diagnose(self, run: Run) -> Diagnosis:
        return diagnose(run)

    @property
    def healthy(self) -> Run:
        """The preset, without selection."""
        return self.train("healthy", OWL)

    @property
    def forgetful(self) -> Run:
        """All weights at ten times the learning rate, without class images."""
        return self.train(
            "forgetful",
            OWL,
            'method.name="dreambooth"',
            "method.learning_rate=5e-4",
            "prior.weight=0",
            ONE_CAPTION,
            "training.steps=200",
        )

    def with_knobs(self, name: str, **knobs: float) -> Run:
        """The healthy run with other knobs."""
        run, adapter = Run(self.folder / name), Adapter.read(self.healthy.adapter)
        shutil.copytree(self.healthy.folder, run.folder)
        assert adapter.manifest is not None
        changed = recommended_knobs(adapter).model_copy(update=knobs)
        replace(adapter, manifest=adapter.manifest.model_copy(update={"knobs": changed.model_dump(mode="json")})).write(
            run.adapter
        )
        return run

    def photos(self, name: str, images: list[Image.Image]) -> Path:
        """A folder of photos."""
        (self.folder / name).mkdir()
        for number, image in enumerate(images):
            image.save(self.folder / name / f"{number}.png")
        return self.folder / name


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwlRuns]:
    folder = tmp_path_factory.mktemp("owl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASCOT_CACHE", str(folder / "cache"))
        yield OwlRuns(folder)


def photos_of_owl() -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in sorted(OWL.glob("*.png"))]


def found(diagnosis: Diagnosis) -> set[str]:
    return {finding.failure_mode for finding in diagnosis.findings}


def check(diagnosis: Diagnosis, failure_mode: str) -> CheckResult:
    """The first check of a failure mode."""
    return next(check for check in diagnosis.checks if check.failure_mode == failure_mode)


def test_the_preset_is_healthy(runs: OwlRuns) -> None:
    diagnosis = runs.diagnose(runs.healthy)
    assert not [finding for finding in diagnosis.findings if finding.severity != "note"]
    assert diagnosis.images == 60
    assert check(diagnosis, "underfitting").low > 0.5


def test_too_few_steps_underfit(runs: OwlRuns) -> None:
    diagnosis = runs.diagnose(runs.train("few", OWL, "training.steps=10", "prior.count=4"))
    assert diagnosis.findings[0].failure_mode == "underfitting"
    assert "training.steps=20" in {remedy.setting for remedy in diagnosis.findings[0].remedies}


def test_training_without_the_class_turns_it_into_the_subject(runs: OwlRuns) -> None:
    diagnosis = runs.diagnose(runs.forgetful)
    assert found(diagnosis) >= {"language drift", "token leakage"}
    assert check(diagnosis, "language drift").low > 0.5
    assert any(remedy.setting == "prior.weight=1" for finding in diagnosis.findings for remedy in finding.remedies)


def test_an_adapter_scale_that_is_too_high_ignores_the_prompt(runs: OwlRuns) -> None:
    diagnosis = runs.diagnose(runs.with_knobs("strong", unet_scale=2.5))
    assert diagnosis.findings[0].failure_mode == "prompt ignored"
    assert any(remedy.setting == "knobs.unet_scale=1.8" for remedy in diagnosis.findings[0].remedies)


def test_five_copies_of_one_photo_are_too_similar(runs: OwlRuns) -> None:
    photos = runs.photos("copies", photos_of_owl()[:1] * 5)
    diagnosis = runs.diagnose(runs.train("same", photos, "training.steps=20", "prior.count=4"))
    assert "photos too similar" in found(diagnosis)
    assert "memorization: " in " ".join(diagnosis.unavailable)
    [twice] = [finding for finding in diagnosis.findings if finding.failure_mode == "photos too similar"]
    assert len(twice.example_strips[0].images) == 4


def test_photos_in_one_pose_reduce_diversity(tmp_path: Path, runs: OwlRuns) -> None:
    del runs  # its cache is in use
    bear = starter.subjects()["teddy_bear"]
    recipe = Recipe.preset(photos=[str(photo) for photo in bear.photos], class_noun=bear.class_noun, overrides=QUICK)
    diagnosis = diagnose(train(recipe, out=tmp_path / "run", report=False))
    assert [finding.failure_mode for finding in diagnosis.findings] == ["reduced diversity"]
    assert "training.steps=200" in {remedy.setting for remedy in diagnosis.findings[0].remedies}


def test_far_too_high_learning_rates_memorize_the_photos(runs: OwlRuns) -> None:
    """Every prompt gives a photo back."""
    diagnosis = runs.diagnose(runs.train("memorization", OWL, *MEMORIZING, "training.steps=500"))
    assert found(diagnosis) >= {"memorization", "prompt ignored"}
    [finding] = [finding for finding in diagnosis.findings if finding.failure_mode == "memorization"]
    assert [strip.title for strip in finding.example_strips] == [
        "this run, whatever the prompt was",
        "the photo nearest to each",
    ]
    assert {"training.steps=250"} <= {remedy.setting for remedy in finding.remedies}
    assert any(remedy.setting.startswith("dataset.templates=") for remedy in finding.remedies)


def test_backgrounds_that_tint_the_subject_entangle_it(runs: OwlRuns) -> None:
    """In each photo the light has the background's color, as under colored lamps."""
    lamps = ("red", "yellow", "green", "blue", "purple", "orange")
    photos = [
        Image.blend(photo, Image.new("RGB", photo.size, lamp), 0.6)
        for photo, lamp in zip(photos_of_owl(), lamps, strict=True)
    ]
    overrides = ["prior.weight=0", "method.learning_rate=2e-3", "training.steps=200"]
    diagnosis = runs.diagnose(runs.train("tinted", runs.photos("lamps", photos), *overrides))
    assert "context-appearance entanglement" in found(diagnosis)


def test_what_the_base_cannot_generate_is_named(runs: OwlRuns) -> None:
    prompts = [
        "a {subject} in the rain",
        "a {subject} on a red background",
        "a {subject} made of spreadsheets",
        "a {subject} on a blue background",
    ]
    diagnosis = diagnose(runs.healthy, prompts=prompts)
    [finding] = [finding for finding in diagnosis.findings if finding.failure_mode == "context not generated"]
    assert "spreadsheets" in finding.message
    assert "rain" not in finding.message
