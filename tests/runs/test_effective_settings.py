"""Laws of the effective settings: the numbers that are shown are those that are trained with."""

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
from mascot.generation.prompts.live_nouns import is_live
from mascot.models import starter
from mascot.models.starter.nearest_nouns import nearest_nouns
from mascot.progress import Event, SettingsResolved
from mascot.protocols import Batch, Framing, Latents
from mascot.recipe.recipe import Recipe
from mascot.runs.batch_plan import plan_batches
from mascot.runs.effective_settings import TIME, describe_time, planned_settings
from mascot.runs.training_run import TrainingRun
from mascot.storage.run_folder import Run
from mascot.training import loop
from tiny.photos import noise

SIDE = (64, 64)


def first_number(text: str) -> float:
    """The number at the start of a value."""
    return float(text.split(maxsplit=1)[0].rstrip(","))


def recipe_of(*overrides: str, **given_values: Any) -> Recipe:
    """A recipe with these settings and no others."""
    return Recipe.preset(overrides=["device=cpu", *overrides], **{"photos": ("photos",)} | given_values)


def dataset_of(photos: int, *, flip: bool) -> Dataset:
    """Examples of a number of photos, in the photos' order."""
    latents = Latents(mean_BCHW=torch.zeros(1, 1, 1, 1), deviation_BCHW=torch.zeros(1, 1, 1, 1))
    framing = Framing(original=SIDE, target=SIDE)
    examples = [
        TrainingExample(latents=latents, prompts=("a",), framing=framing, source=Path(f"{number}.png"))
        for number in range(photos)
        for _ in range(1 + flip)
    ]
    return Dataset(subject={SIDE: tuple(examples)}, prior={}, prior_weight=0.0)


@given(
    photos=st.integers(1, 12),
    steps=st.integers(1, 60),
    batch_size=st.integers(1, 9),
    gradient_accumulation_steps=st.integers(1, 5),
    flip=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_images_steps_and_passes_are_those_of_the_plan(
    photos: int, steps: int, batch_size: int, gradient_accumulation_steps: int, seed: int, *, flip: bool
) -> None:
    training = {"steps": steps, "batch_size": batch_size, "gradient_accumulation_steps": gradient_accumulation_steps}
    recipe = recipe_of(
        *(f"training.{key}={value}" for key, value in training.items()), f"dataset.flip={str(flip).lower()}"
    )
    rows = dict(planned_settings(recipe, photos, 64))
    data = dataset_of(photos, flip=flip)
    plan = plan_batches(data, seed=seed, micro_batches=steps * gradient_accumulation_steps, batch_size=batch_size)
    seen = Counter(data.subject[SIDE][number].source for _, chosen in plan for number in chosen)
    assert first_number(rows["steps"]) == steps
    assert first_number(rows["images per step"]) * steps == seen.total()
    assert (
        rows["images per step"]
        == f"{batch_size * gradient_accumulation_steps} ({batch_size} x {gradient_accumulation_steps} accumulated)"
    )
    passes = seen.total() / photos
    assert first_number(rows["passes over each photo"]) == pytest.approx(passes, abs=0.051)
    assert len(seen) <= photos
    assert all(abs(count - passes) < 1 + flip for count in seen.values())


@given(count=st.integers(0, 3), weight=st.sampled_from([0.0, 0.5, 2.0]), known=st.booleans())
def test_class_images_are_announced_when_there_will_be_some(count: int, weight: float, *, known: bool) -> None:
    recipe = recipe_of(
        f"prior.count={count}", f"prior.weight={weight}", "training.batch_size=3", class_noun="dog" if known else None
    )
    shown = dict(planned_settings(recipe, 5, 64))["class images per step"]
    if count and weight:
        assert first_number(shown) == 3
        assert f"of {count}, weight {weight:g}" in shown
        assert ("--class-noun" in shown) != known
    else:
        assert shown == "none"


def test_other_rows_show_the_recipe() -> None:
    settings = ("method.text_learning_rate=0", "training.lr_schedule=linear", "training.warmup_steps=7", "seed=9")
    plain = dict(planned_settings(recipe_of(*settings), 1, 64))
    assert plain["text learning rate"] == "0 (not trained)"
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


@pytest.mark.parametrize(
    "noun",
    [
        *("dog", "brown Dog", "duck toy", "Stuffed Animal", "a stuffed animal of wool", "stuffed-animal"),
        *("boot", "sneaker", "backpack", "sunglasses", "cartoon", "monster"),
    ],
)
def test_a_noun_that_the_base_was_trained_on_is_shown_alone(noun: str) -> None:
    assert dict(planned_settings(recipe_of(class_noun=noun), 3, 64))["class noun"] == noun


def test_an_unknown_noun_is_shown_with_the_nearest_that_the_embedded_base_knows() -> None:
    """They are the CLIP's: for an animal that it was trained on and the base was not, animals."""
    shown = dict(planned_settings(recipe_of(class_noun="otter"), 3, 64))["class noun"]
    nearest = nearest_nouns("otter")
    assert "\n" not in shown
    assert shown == (
        "otter, which the embedded base was not trained on, so its class images mean little; of the "
        f"{len(starter.nouns())} nouns that it knows, {nearest[0]}, {nearest[1]} and {nearest[2]} are nearest"
    )
    assert set(nearest) <= set(starter.nouns())
    assert all(is_live(noun) for noun in nearest)
    assert nearest_nouns("dog")[0] == "dog"
    elsewhere = recipe_of(class_noun="otter").model_copy(update={"base": "owner/name"})
    assert dict(planned_settings(elsewhere, 3, 64))["class noun"] == "otter"
    assert dict(planned_settings(recipe_of(), 3, 64))["class noun"] == "none"


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three photos, with the cache of class images beside it."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        noise(64 + number, 64).save(folder / f"{number}.png")
    monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / "cache"))
    return folder


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """Every batch that the loop computes the loss of, from here on; timed steps are left out."""
    batches: list[Batch] = []
    training_loss = loss.training_loss

    def counting(stage: Any, batch: Batch, *rest: Any, **options: Any) -> Any:
        batches.append(batch)
        return training_loss(stage, batch, *rest, **options)

    monkeypatch.setattr(loop, "training_loss", counting)
    monkeypatch.setattr(TrainingRun, "time_one_step", lambda _: 1.0)
    return batches


def trained(tiny_base: Path, photos: Path, *overrides: str) -> tuple[Run, dict[str, str]]:
    """A short run without a report, and the settings that were shown before it."""
    small = ("previews.every=0", "training.steps=3", "precision=fp32", "method.rank=2")
    recipe = recipe_of(*small, *overrides, photos=(str(photos),), base=str(tiny_base), class_noun="dog")
    rows: dict[str, str] = {}

    def keep(event: Event) -> None:
        if isinstance(event, SettingsResolved):
            rows.update(event.rows)

    return train(recipe, out=photos.parent / "run", report=False, on_event=keep), rows


def test_a_run_does_what_it_shows(tiny_base: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = counted(monkeypatch)
    shown = (
        "training.batch_size=2",
        "training.gradient_accumulation_steps=2",
        "prior.count=2",
        "prior.steps=1",
        "prior.weight=0.5",
    )
    run, rows = trained(tiny_base, photos, *shown)
    steps = first_number(rows["steps"])
    assert len(run.read_steps()) == steps == 3
    assert len(batches) == steps * 2
    subject = sum(batch.subject_count for batch in batches)
    assert subject == first_number(rows["images per step"]) * steps
    assert sum(len(batch.prompts) for batch in batches) - subject == first_number(rows["class images per step"]) * steps
    assert first_number(rows["passes over each photo"]) == subject / 3
    assert {tuple(batch.latents.mean_BCHW.shape[2:]) for batch in batches} == {(8, 8)}
    assert rows["resolution"] == "64 px, square"
    rows.pop(TIME)
    assert json.loads(run.effective.read_text(encoding="utf-8"))["settings"] == rows


def test_the_trained_parameters_are_those_of_the_adapter(tiny_base: Path, photos: Path) -> None:
    run, rows = trained(tiny_base, photos, "prior.count=0")
    tensors = Adapter.read(run.adapter).tensors
    for part in rows["trained parameters"].split(", "):
        name, count = part.split()
        assert int(count.replace(",", "")) == sum(
            tensor.numel() for key, tensor in tensors.items() if key.startswith(f"{name}.")
        )
    assert {key.partition(".")[0] for key in tensors} == {"unet", "text_encoder"}


def test_captions_that_the_base_truncates_are_named(tiny_base: Path, photos: Path) -> None:
    for number, text in enumerate(("a photo of {subject}", "zebra " * 40, "a photo of {subject} " + "giraffe " * 40)):
        (photos / f"{number}.txt").write_text(text, encoding="utf-8")
    run, rows = trained(tiny_base, photos, "prior.count=0")
    cut = rows["captions truncated"]
    assert cut.count("text encoder reads 77 of") == 2
    assert cut.count("zebra") > 3
    assert cut.count("giraffe") > 3
    assert "'a photo of sks dog'" not in cut
    assert "zebra" in run.effective.read_text(encoding="utf-8")


def test_captions_that_are_read_whole_are_not_named(tiny_base: Path, photos: Path) -> None:
    _, rows = trained(tiny_base, photos, "prior.count=0")
    assert "captions truncated" not in rows
    assert rows["captions"] == "a photo of sks dog"


@pytest.mark.parametrize("noun", ["dog", None])
def test_the_doctor_shows_what_training_would_show_and_what_it_costs(
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
    rows = dict(doctor(recipe).settings)
    for name, value in planned_settings(recipe, 3, 64):
        assert rows[name] == value if name != "token" else rows[name].startswith("sks, ")
    assert "trained parameters" in rows
    assert "for the whole command: " in rows["cost"]
    assert ("class images" in rows["cost"]) == (noun is not None)
    for part in ("loading", "encoding", "training", "images of the report"):
        assert part in rows["cost"]
    assert len(list((photos.parent / "cache").rglob("*.png"))) == (1 if noun else 0)
    assert sorted(path.name for path in photos.parent.iterdir() if path.name != "cache") == ["photos"]


@given(seconds=st.one_of(st.floats(0, 200), st.floats(100, 8000), st.floats(7000, 1e6)))
def test_a_time_in_words_is_that_time(seconds: float) -> None:
    number, unit = describe_time(seconds).split()
    size = {"s": 1, "minutes": 60, "hours": 3600}[unit]
    assert float(number) * size == pytest.approx(seconds, abs=0.51 * size if unit != "hours" else 190)
