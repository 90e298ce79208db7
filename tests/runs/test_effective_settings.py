"""Laws of the effective settings: the numbers that are said are those that are done."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mascot.adapters.adapter_file import Adapter
from mascot.api.doctor import doctor
from mascot.api.train import train
from mascot.data.dataset import Dataset, TrainingExample
from mascot.diffusion import loss
from mascot.models import starter
from mascot.protocols import Batch, Framing, Latents
from mascot.recipe.recipe import Recipe
from mascot.runs.effective_settings import TIME, describe_time, planned_settings
from mascot.storage.run_folder import Run
from mascot.training import loop
from tiny.photos import noise

SIDE = (64, 64)


def first_number(text: str) -> float:
    """The number that a value begins with."""
    return float(text.split(maxsplit=1)[0].rstrip(","))


def recipe_of(*overrides: str, **given_values: Any) -> Recipe:
    """A recipe with nothing in it but these settings."""
    return Recipe.preset(overrides=["device=cpu", *overrides], **{"photos": ("photos",)} | given_values)


def dataset_of(photos: int, *, flip: bool) -> Dataset:
    """Examples of so many photos, in the order in which they are made from them."""
    latents = Latents(mean_BCHW=torch.zeros(1, 1, 1, 1), deviation_BCHW=torch.zeros(1, 1, 1, 1))
    framing = Framing(original=SIDE, target=SIDE)
    examples = [
        TrainingExample(latents=latents, prompts=("a",), framing=framing, source=Path(f"{number}.png"))
        for number in range(photos)
        for _ in range(1 + flip)
    ]
    return Dataset(subject={SIDE: tuple(examples)}, prior={}, prior_weight=0.0)


@given(
    photos=st.integers(1, 12), steps=st.integers(1, 60), batch_size=st.integers(1, 9), gradient_accumulation_steps=st.integers(1, 5), flip=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_images_steps_and_passes_are_those_of_the_plan(
    photos: int, steps: int, batch_size: int, gradient_accumulation_steps: int, seed: int, *, flip: bool
) -> None:
    training = {"steps": steps, "batch_size": batch_size, "gradient_accumulation_steps": gradient_accumulation_steps}
    recipe = recipe_of(
        *(f"training.{key}={value}" for key, value in training.items()), f"dataset.flip={str(flip).lower()}"
    )
    said = dict(planned_settings(recipe, photos, 64))
    data = dataset_of(photos, flip=flip)
    plan = data.schedule(seed=seed, micro_batches=steps * gradient_accumulation_steps, batch_size=batch_size)
    seen = Counter(data.subject[SIDE][number].source for _, chosen in plan for number in chosen)
    assert first_number(said["steps"]) == steps
    assert first_number(said["images per step"]) * steps == seen.total()
    assert (
        said["images per step"]
        == f"{batch_size * gradient_accumulation_steps} ({batch_size} x {gradient_accumulation_steps} accumulated)"
    )
    passes = seen.total() / photos
    assert first_number(said["passes over each photo"]) == pytest.approx(passes, abs=0.051)
    assert len(seen) <= photos
    assert all(abs(count - passes) < 1 + flip for count in seen.values())


@given(count=st.integers(0, 3), weight=st.sampled_from([0.0, 0.5, 2.0]), known=st.booleans())
def test_class_pictures_are_announced_when_there_will_be_some(count: int, weight: float, *, known: bool) -> None:
    recipe = recipe_of(
        f"prior.count={count}", f"prior.weight={weight}", "training.batch_size=3", class_noun="dog" if known else None
    )
    said = dict(planned_settings(recipe, 5, 64))["class pictures per step"]
    if count and weight:
        assert first_number(said) == 3
        assert f"of {count}, weight {weight:g}" in said
        assert ("--class-noun" in said) != known
    else:
        assert said == "none"


def test_other_rows_say_the_recipe() -> None:
    plain = dict(
        planned_settings(
            recipe_of(
                "method.text_learning_rate=0", "training.lr_schedule=linear", "training.warmup_steps=7", "seed=9"
            ),
            1,
            64,
        )
    )
    assert plain["text rate"] == "0 (not trained)"
    assert plain["schedule"] == "linear, 7 steps of warm-up"
    assert (plain["loss"], plain["seed"], plain["resolution"], plain["photos"]) == (
        "plain MSE",
        "9",
        "64 px, square",
        "1",
    )
    changes = (
        "training.min_snr=5",
        "dataset.aspect_buckets=true",
        "dataset.flip=true",
        "method.learning_rate=0.25",
        "method.rank=3",
    )
    other = dict(planned_settings(recipe_of(*changes), 4, None))
    assert (other["loss"], other["photos"], other["learning rate"]) == (
        "min-SNR, limit 5",
        "4, each mirrored too",
        "0.25",
    )
    assert other["resolution"] == "about the base's own, aspect buckets"
    assert "rank 3" in other["method"]


@pytest.mark.parametrize("noun", ["dog", "brown Dog", "duck toy"])
def test_a_noun_that_the_base_was_shown_is_said_alone(noun: str) -> None:
    assert dict(planned_settings(recipe_of(class_noun=noun), 3, 64))["class noun"] == noun


def test_a_noun_that_the_embedded_base_was_never_shown_is_said_with_those_that_it_was() -> None:
    said = dict(planned_settings(recipe_of(class_noun="cartoon"), 3, 64))["class noun"]
    assert said.startswith("cartoon, which the embedded base was never shown")
    assert said.endswith(f"It was shown {', '.join(starter.nouns())}")
    elsewhere = recipe_of(class_noun="cartoon").model_copy(update={"base": "owner/name"})
    assert dict(planned_settings(elsewhere, 3, 64))["class noun"] == "cartoon"
    assert dict(planned_settings(recipe_of(), 3, 64))["class noun"] == "none"


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three photos, with the cache of class pictures beside it."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        noise(64 + number, 64).save(folder / f"{number}.png")
    monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / "cache"))
    return folder


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """Every batch that the loop's loss is computed of, from here on; steps that are not taken are left out."""
    batches: list[Batch] = []
    loss_of = loss.training_loss

    def counting(stage: Any, attached: Any, batch: Batch, *rest: Any) -> Any:
        batches.append(batch)
        return loss_of(stage, attached, batch, *rest)

    monkeypatch.setattr(loop, "loss_of", counting)
    monkeypatch.setattr(loop.Loop, "rehearse", lambda *_: 1.0)
    return batches


def trained(tiny_base: Path, photos: Path, *overrides: str) -> tuple[Run, dict[str, str]]:
    """A short run without a report, and the settings that were said before it."""
    small = ("previews.every=0", "training.steps=3", "precision=fp32", "method.rank=2")
    recipe = recipe_of(*small, *overrides, photos=(str(photos),), base=str(tiny_base), class_noun="dog")
    said: dict[str, str] = {}
    run = train(
        recipe,
        out=photos.parent / "run",
        report=False,
        progress=lambda phase, facts: said.update(facts) if phase == "effective" else None,
    )
    return run, said


def test_a_run_does_what_it_said(tiny_base: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = counted(monkeypatch)
    shown = (
        "training.batch_size=2",
        "training.gradient_accumulation_steps=2",
        "prior.count=2",
        "prior.steps=1",
        "prior.weight=0.5",
    )
    run, said = trained(tiny_base, photos, *shown)
    steps = first_number(said["steps"])
    assert len(run.read_steps()) == steps == 3
    assert len(batches) == steps * 2
    subject = sum(batch.subject_count for batch in batches)
    assert subject == first_number(said["images per step"]) * steps
    assert (
        sum(len(batch.prompts) for batch in batches) - subject == first_number(said["class pictures per step"]) * steps
    )
    assert first_number(said["passes over each photo"]) == subject / 3
    assert {tuple(batch.latents.mean_BCHW.shape[2:]) for batch in batches} == {(8, 8)}
    assert said["resolution"] == "64 px, square"
    said.pop(TIME)
    assert json.loads(run.effective.read_text(encoding="utf-8"))["settings"] == said


def test_the_learning_parameters_are_those_of_the_adapter(tiny_base: Path, photos: Path) -> None:
    run, said = trained(tiny_base, photos, "prior.count=0")
    tensors = Adapter.read(run.adapter).tensors
    for part in said["learning parameters"].split(", "):
        name, count = part.split()
        assert int(count.replace(",", "")) == sum(
            tensor.numel() for key, tensor in tensors.items() if key.startswith(f"{name}.")
        )
    assert {key.partition(".")[0] for key in tensors} == {"unet", "text_encoder"}


def test_captions_that_the_base_cannot_hear_to_the_end_are_named(tiny_base: Path, photos: Path) -> None:
    for number, text in enumerate(("a photo of {subject}", "zebra " * 40, "a photo of {subject} " + "giraffe " * 40)):
        (photos / f"{number}.txt").write_text(text, encoding="utf-8")
    run, said = trained(tiny_base, photos, "prior.count=0")
    cut = said["captions cut off"]
    assert cut.count("of which this base hears 77") == 2
    assert cut.count("zebra") == cut.count("giraffe") == 40
    assert "'a photo of sks dog'" not in cut
    assert "zebra" in run.effective.read_text(encoding="utf-8")


def test_captions_that_are_heard_whole_are_not_named(tiny_base: Path, photos: Path) -> None:
    _, said = trained(tiny_base, photos, "prior.count=0")
    assert "captions cut off" not in said
    assert said["captions"] == "a photo of sks dog"


@pytest.mark.parametrize("noun", ["dog", None])
def test_the_doctor_says_what_training_would_say_and_what_it_costs(
    tiny_base: Path, photos: Path, noun: str | None
) -> None:
    options = (
        "previews.every=0",
        "training.steps=1000",
        "precision=fp32",
        "method.rank=2",
        "prior.count=50",
        "prior.steps=1",
    )
    recipe = recipe_of(*options, photos=(str(photos),), base=str(tiny_base), class_noun=noun)
    checkup = doctor(recipe)
    said = dict(checkup.settings)
    for name, value in planned_settings(recipe, 3, 64):
        assert said[name] == value if name != "token" else said[name].startswith("sks, ")
    assert "learning parameters" in said
    assert "of training on this machine" in said["cost"]
    assert len(list((photos.parent / "cache").rglob("*.png"))) == (1 if noun else 0)
    assert sorted(path.name for path in photos.parent.iterdir() if path.name != "cache") == ["photos"]


@given(seconds=st.one_of(st.floats(0, 200), st.floats(100, 8000), st.floats(7000, 1e6)))
def test_a_time_in_words_is_that_time(seconds: float) -> None:
    number, unit = describe_time(seconds).split()
    size = {"s": 1, "minutes": 60, "hours": 3600}[unit]
    assert float(number) * size == pytest.approx(seconds, abs=0.51 * size if unit != "hours" else 190)
