"""Laws of the dataset: photos are used equally often; the seed alone decides order and noise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mascot.data.crops import Size, crop
from mascot.data.dataset import Dataset, DatasetSettings, TrainingExample, image_to_pixels, make_dataset, with_loss_mask
from mascot.data.encoding_cache import CachedConditioning, CachedEncoders
from mascot.data.photos import Photo
from mascot.diffusion.noise import gaussian, sample_latents, seeded
from mascot.errors import UserError
from mascot.models.families.registry import load_family
from mascot.protocols import Batch, Conditioning, Framing, Latents, Stage, Subject
from mascot.runs.batch_plan import plan_batches

SQUARE: Size = (64, 64)
WIDE: Size = (48, 80)
FORMER_PLAN = [
    (SQUARE, (0, 1)),
    (SQUARE, (2, 2)),
    (WIDE, (1, 0)),
    (WIDE, (1, 0)),
    (SQUARE, (0, 1)),
    (WIDE, (0, 1)),
]
"""The plan of 3 square and 2 wide photos at seed 4 before runs had several subjects."""


def example(name: str, size: Size = SQUARE) -> TrainingExample:
    """Make an example whose latents depend on its name."""
    mean = gaussian((4, size[0] // 8, size[1] // 8), [seeded(name)])
    latents = Latents(mean_BCHW=mean, deviation_BCHW=torch.full_like(mean, 0.1))
    return TrainingExample(
        latents=latents, prompts=(name,), framing=Framing(original=size, target=size), source=Path(name)
    )


def dataset(photos: int, *, wide: int = 0, prior: int = 0, weight: float = 0.0) -> Dataset:
    subject = {
        SQUARE: tuple(example(f"photo {i}") for i in range(photos)),
        WIDE: tuple(example(f"wide {i}", WIDE) for i in range(wide)),
    }
    classes = {size: tuple(example(f"class {i}", size) for i in range(prior)) for size in (SQUARE, WIDE)}
    return Dataset(
        subject={size: group for size, group in subject.items() if group}, prior=classes, prior_weight=weight
    )


def batches(made: Dataset, *, count: int, batch_size: int = 1, seed: int = 0) -> list[Batch]:
    plan = plan_batches(made, seed=seed, micro_batches=count, batch_size=batch_size)
    return [made.batch(planned, seed=seed, number=number, share=1.0) for number, planned in enumerate(plan)]


@given(photos=st.integers(1, 12), batch_size=st.integers(1, 5), count=st.integers(1, 60), seed=st.integers(0, 5))
def test_every_photo_is_used_equally_often_give_or_take_one(
    photos: int, batch_size: int, count: int, seed: int
) -> None:
    plan = plan_batches(dataset(photos), seed=seed, micro_batches=count, batch_size=batch_size)
    used = Counter(dict.fromkeys(range(photos), 0))
    used.update(i for _, chosen in plan for i in chosen)
    assert len(plan) == count
    assert all(len(chosen) == batch_size for _, chosen in plan)
    assert max(used.values()) - min(used.values()) <= 1
    assert set(used) == set(range(photos))


@given(wide=st.integers(1, 5), batch_size=st.integers(1, 3), seed=st.integers(0, 5))
def test_photos_of_one_size_are_used_equally_often(wide: int, batch_size: int, seed: int) -> None:
    plan = plan_batches(dataset(4, wide=wide), seed=seed, micro_batches=60, batch_size=batch_size)
    for size, group in ((SQUARE, 4), (WIDE, wide)):
        used = Counter(dict.fromkeys(range(group), 0))
        used.update(i for planned, chosen in plan if planned == size for i in chosen)
        assert max(used.values()) - min(used.values()) <= 1


def family_of(*photos: int, wide: int = 0, prior: int = 0) -> Dataset:
    """Make a dataset of several subjects with so many photos each; the first has wide ones too."""
    square = [replace(example(f"{s} {i}"), subject=s) for s, count in enumerate(photos) for i in range(count)]
    classes = [replace(example(f"class {s} {i}"), subject=s) for s in range(len(photos)) for i in range(prior)]
    subject = {SQUARE: tuple(square), WIDE: tuple(example(f"wide {i}", WIDE) for i in range(wide))}
    return Dataset(
        subject={size: group for size, group in subject.items() if group},
        prior={SQUARE: tuple(classes)},
        prior_weight=float(prior > 0),
        class_of=tuple(range(len(photos))),
    )


@given(
    photos=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    wide=st.integers(0, 3),
    batch_size=st.integers(1, 5),
    seed=st.integers(0, 5),
)
def test_subjects_are_used_equally_often_whatever_their_photos(
    photos: list[int], wide: int, batch_size: int, seed: int
) -> None:
    made = family_of(*photos, wide=wide)
    plan = plan_batches(made, seed=seed, micro_batches=60, batch_size=batch_size)
    used = Counter(dict.fromkeys(range(len(photos)), 0))
    used.update(made.subject[size][i].subject for size, chosen in plan for i in chosen)
    assert max(used.values()) - min(used.values()) <= batch_size
    assert all(len(chosen) == batch_size for _, chosen in plan)
    for number in range(len(photos)):
        own = Counter(i for size, chosen in plan for i in chosen if size == SQUARE)
        counts = [own[i] for i, e in enumerate(made.subject[SQUARE]) if e.subject == number]
        assert max(counts) - min(counts) <= 1


def test_one_subject_is_planned_as_it_always_was() -> None:
    plan = plan_batches(dataset(3, wide=2), seed=4, micro_batches=6, batch_size=2)
    assert plan == FORMER_PLAN


def test_class_images_are_of_the_class_of_the_subject_beside_them() -> None:
    for batch in batches(family_of(2, 5, prior=3), count=20, batch_size=2):
        shown = [prompt.split()[0] for prompt in batch.prompts[:2]]
        assert [prompt.split()[1] for prompt in batch.prompts[2:]] == shown
    shared = replace(family_of(2, 5), class_of=(0, 0), prior={SQUARE: (example("class dog"),)}, prior_weight=1.0)
    assert {batch.prompts[1] for batch in batches(shared, count=6)} == {"class dog"}


def test_sizes_are_mixed_by_how_many_photos_have_them() -> None:
    plan = plan_batches(dataset(6, wide=2), seed=0, micro_batches=2000, batch_size=1)
    assert sum(size == WIDE for size, _ in plan) / 2000 == pytest.approx(0.25, abs=0.04)


def test_the_seed_alone_decides_the_order() -> None:
    made = dataset(5, wide=3)
    plans = [plan_batches(made, seed=seed, micro_batches=40, batch_size=2) for seed in (0, 0, 1)]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]


def test_a_batch_is_a_pure_function_of_seed_and_number() -> None:
    made = dataset(3, prior=4, weight=1.0)
    planned = plan_batches(made, seed=0, micro_batches=1, batch_size=2)[0]

    def sampled(*, seed: int, number: int) -> tuple[tuple[str, ...], bytes]:
        batch = made.batch(planned, seed=seed, number=number, share=1.0)
        return batch.prompts, sample_latents(batch.latents, batch.generators).numpy().tobytes()

    first = sampled(seed=0, number=5)
    _ = sampled(seed=0, number=4)  # earlier batches do not matter
    assert sampled(seed=0, number=5) == first
    assert sampled(seed=0, number=6)[1] != first[1]
    assert sampled(seed=1, number=5)[1] != first[1]


def test_latents_of_a_photo_are_sampled_anew_at_each_step_and_alike_at_the_same() -> None:
    made = dataset(1)
    first, second = (
        [sample_latents(batch.latents, batch.generators) for batch in batches(made, count=3)] for _ in range(2)
    )
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[1], first[2])


def test_no_two_examples_of_a_batch_share_their_noise() -> None:
    (batch,) = batches(dataset(1, prior=1, weight=1.0), count=1, batch_size=3)
    assert len({gaussian((8,), [generator]).numpy().tobytes() for generator in batch.generators}) == 6


@given(
    batch_size=st.integers(1, 5), share=st.sampled_from([1.0, 0.5, 0.25]), weight=st.sampled_from([0.0, 0.5, 1.0, 3.0])
)
def test_weights_of_the_subject_add_up_to_the_share_and_those_of_the_class_to_share_times_weight(
    batch_size: int, share: float, weight: float
) -> None:
    made = dataset(3, prior=2, weight=weight)
    planned = plan_batches(made, seed=0, micro_batches=1, batch_size=batch_size)[0]
    batch = made.batch(planned, seed=0, number=0, share=share)
    subject, classes = batch.weight_B[: batch.subject_count], batch.weight_B[batch.subject_count :]
    assert float(subject.sum()) == pytest.approx(share)
    assert float(classes.sum()) == pytest.approx(share * weight)
    assert len(classes) == (batch_size if weight else 0)
    assert all(prompt.startswith("photo") for prompt in batch.prompts[: batch.subject_count])
    assert all(prompt.startswith("class") for prompt in batch.prompts[batch.subject_count :])
    assert len(batch.framings) == len(batch.generators) == len(batch.weight_B) == len(batch.latents.mean_BCHW)


def test_every_class_image_is_used() -> None:
    seen = {
        prompt
        for batch in batches(dataset(1, prior=5, weight=1.0), count=100)
        for prompt in batch.prompts
        if prompt.startswith("class")
    }
    assert seen == {f"class {i}" for i in range(5)}


def test_each_of_a_photos_captions_is_as_likely_and_none_changes_the_noise() -> None:
    one = example("photo")
    plain, captioned = (
        Dataset(subject={SQUARE: (replace(one, prompts=prompts),)}, prior={}, prior_weight=0.0)
        for prompts in (("a",), ("a", "b", "c"))
    )
    first, again, single = (batches(made, count=300) for made in (captioned, captioned, plain))
    counts = Counter(prompt for batch in first for prompt in batch.prompts)
    assert set(counts) == {"a", "b", "c"}
    assert max(counts.values()) - min(counts.values()) < 60  # over four standard deviations
    assert [batch.prompts for batch in first] == [batch.prompts for batch in again]
    for batch, other in zip(first[:5], single[:5], strict=True):
        assert torch.equal(
            sample_latents(batch.latents, batch.generators), sample_latents(other.latents, other.generators)
        )
    assert captioned.prompts == ("a", "b", "c")


@given(wide=st.integers(1, 4), batch_size=st.integers(1, 4))
def test_a_batch_has_one_shape_class_images_included(wide: int, batch_size: int) -> None:
    for batch in batches(dataset(2, wide=wide, prior=2, weight=1.0), count=20, batch_size=batch_size):
        height, width = batch.framings[0].target
        assert {framing.target for framing in batch.framings} == {(height, width)}
        assert batch.latents.mean_BCHW.shape == (2 * batch_size, 4, height // 8, width // 8)


@pytest.fixture(scope="module")
def stage(tiny_base: Path) -> Stage:
    return load_family(str(tiny_base), device="cpu", precision="fp32").stages[0]


def photo(name: str, size: Size = (100, 100), caption: str = "a photo of {subject}") -> Photo:
    """Make a photo whose left and right halves differ."""
    values = np.random.default_rng(len(name)).integers(0, 256, (*size, 3), dtype=np.uint8)
    values[:, : size[1] // 2] //= 4
    return Photo(path=Path(name), image=Image.fromarray(values), captions=(caption,))


def made_from(
    stage: Stage,
    photos: Sequence[Photo],
    settings: DatasetSettings,
    *,
    classes: int = 0,
    weight: float = 1.0,
    preserve: bool = False,
) -> Dataset:
    images = [photo("class").image] * classes
    subject = Subject("sks", "dog")
    return make_dataset(
        photos,
        {"dog": images} if images else {},
        encoders=CachedEncoders(stage),
        subject=subject,
        settings=settings,
        prior_weight=weight,
        preserve=preserve,
    )


def test_captions_are_filled_and_class_images_have_the_class_prompt(stage: Stage) -> None:
    trained = [
        photo("a", caption="a sketch of {subject}"),
        photo("b", caption="{token} the {class} at night"),
        photo("c", caption="no name"),
    ]
    made = made_from(stage, trained, DatasetSettings(), classes=1)
    assert [e.prompts for e in made.subject[SQUARE]] == [
        ("a sketch of sks dog",),
        ("sks the dog at night",),
        ("no name",),
    ]
    assert [e.prompts for e in made.prior[SQUARE]] == [("a photo of a dog",)]
    assert made.prompts == ("a sketch of sks dog", "sks the dog at night", "no name", "a photo of a dog")
    assert [e.source for e in made.subject[SQUARE]] == [Path("a"), Path("b"), Path("c")]
    assert made.prior[SQUARE][0].source is None


def test_an_example_is_the_photo_cropped_and_encoded(stage: Stage) -> None:
    one = photo("a", (120, 90))
    example = made_from(stage, [one], DatasetSettings()).subject[SQUARE][0]
    cut = crop(one, SQUARE)
    expected = stage.encode(image_to_pixels(cut.image))
    assert torch.equal(example.latents.mean_BCHW, expected.mean_BCHW)
    assert torch.equal(example.latents.deviation_BCHW, expected.deviation_BCHW)
    assert example.framing == cut.framing


def test_flipping_adds_each_photo_mirrored(stage: Stage) -> None:
    one = photo("a")
    plain, mirrored = made_from(stage, [one], DatasetSettings(flip=True)).subject[SQUARE]
    mirror_image = photo("a").image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    expected = made_from(stage, [Photo(path=Path("t"), image=mirror_image)], DatasetSettings()).subject[SQUARE][0]
    assert made_from(stage, [one], DatasetSettings(flip=True)).subject_count == 2
    assert (
        mirrored.latents.mean_BCHW - expected.latents.mean_BCHW
    ).abs().max() < 1e-2  # resampling is not exactly symmetric
    assert (mirrored.latents.mean_BCHW - plain.latents.mean_BCHW).abs().max() > 0.1


def test_aspect_buckets_keep_photos_wide_and_tall_at_about_the_same_area(stage: Stage) -> None:
    photos = [photo("square"), photo("wide", (100, 200)), photo("tall", (200, 100)), photo("also wide", (90, 190))]
    made = made_from(stage, photos, DatasetSettings(aspect_buckets=True), classes=2)
    assert {size: len(group) for size, group in made.subject.items()} == {(64, 64): 1, (48, 80): 2, (80, 48): 1}
    assert {size: len(group) for size, group in made.prior.items()} == {(64, 64): 2, (48, 80): 2, (80, 48): 2}
    for batch in batches(made, count=12, batch_size=2):
        assert batch.latents.mean_BCHW.shape[2:] == tuple(side // 8 for side in batch.framings[0].target)
    assert set(made_from(stage, photos, DatasetSettings()).subject) == {SQUARE}


@pytest.mark.parametrize(("resolution", "side"), [(None, 64), (32, 32), (50, 48), (96, 96)])
def test_the_resolution_is_the_base_models_or_the_given_one_rounded_down(
    stage: Stage, resolution: int | None, side: int
) -> None:
    assert set(made_from(stage, [photo("a")], DatasetSettings(resolution=resolution)).subject) == {(side, side)}


def test_without_a_prior_weight_no_class_image_is_encoded(stage: Stage) -> None:
    assert made_from(stage, [photo("a")], DatasetSettings(), classes=2, weight=0.0).prior == {}


def test_pixels_go_from_minus_one_to_one_row_by_row_red_first() -> None:
    image = Image.new("RGB", (3, 2), "black")
    image.putpixel((2, 0), (255, 0, 51))
    pixels = image_to_pixels(image)
    assert pixels.shape == (1, 3, 2, 3)
    assert pixels[0, :, 0, 2].tolist() == pytest.approx([1, -1, -0.6])
    assert (pixels[0, :, 1] == -1).all()


class RecordingStage:
    """A stage that records the prompts of its conditioning."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.encoded = stage, list[str]()

    def condition(self, prompts: Sequence[str], framings: Sequence[Framing]) -> Conditioning:
        self.encoded += prompts
        return self.stage.condition(prompts, framings)


def test_cached_conditioning_is_the_stages_own_and_computed_once(stage: Stage) -> None:
    framing = Framing(original=SQUARE, target=SQUARE)
    recording = RecordingStage(stage)
    conditioning = CachedConditioning(CachedEncoders(recording))  # pyright: ignore[reportArgumentType] - only its conditioning is used
    prompts = ["a dog", "a cat", "a dog"]
    for _ in range(2):
        rows = conditioning(prompts, [framing] * 3)["encoder_hidden_states"]
        for row, prompt in zip(rows, prompts, strict=True):
            assert torch.equal(row, stage.condition([prompt], [framing])["encoder_hidden_states"][0])
    assert recording.encoded == ["a dog", "a cat"]


@given(dropout=st.sampled_from([0.0, 0.25, 1.0]), batch_size=st.integers(1, 3))
def test_captions_are_dropped_at_random_and_only_the_subjects(dropout: float, batch_size: int) -> None:
    plain = dataset(4, prior=2, weight=1.0)
    made = replace(plain, caption_dropout=dropout)
    with_dropout, without = (batches(data, count=600 // batch_size, batch_size=batch_size) for data in (made, plain))
    dropped = [prompt == "" for batch in with_dropout for prompt in batch.prompts[: batch.subject_count]]
    assert abs(sum(dropped) / len(dropped) - dropout) < 0.08  # over four standard deviations
    for batch, other in zip(with_dropout, without, strict=True):
        assert all(mine in {"", yours} for mine, yours in zip(batch.prompts, other.prompts, strict=True))
        assert batch.prompts[batch.subject_count :] == other.prompts[batch.subject_count :]
        assert [g.initial_seed() for g in batch.generators] == [g.initial_seed() for g in other.generators]
    used = {pair for batch in with_dropout for pair in zip(batch.prompts, batch.framings, strict=True)}
    assert used <= set(made.framed_prompts)
    assert ("" in made.prompts) == (dropout > 0)


def preserving(weight: float = 0.5) -> Dataset:
    examples = [
        replace(example(f"photo {i}"), prompts=(f"sks {i}", f"my sks {i}"), class_prompts=(f"dog {i}", f"my dog {i}"))
        for i in range(3)
    ]
    return Dataset(subject={SQUARE: tuple(examples)}, prior={}, prior_weight=weight, preserve=True)


@given(batch_size=st.integers(1, 4), dropout=st.sampled_from([0.0, 0.5]))
def test_the_prior_examples_are_the_same_photos_with_class_captions(batch_size: int, dropout: float) -> None:
    made = preserving()
    made_batches = batches(replace(made, caption_dropout=dropout), count=20, batch_size=batch_size)
    for batch, without in zip(made_batches, batches(made, count=20, batch_size=batch_size), strict=True):
        assert batch.base_target_B is not None
        assert batch.base_target_B.tolist() == [False] * batch_size + [True] * batch_size
        mean = batch.latents.mean_BCHW
        assert torch.equal(mean[:batch_size], mean[batch_size:])
        assert batch.prompts[batch_size:] == tuple(
            prompt.replace("sks", "dog") for prompt in without.prompts[:batch_size]
        )
        assert float(batch.weight_B[batch_size:].sum()) == pytest.approx(0.5)
        assert len({generator.initial_seed() for generator in batch.generators}) == 2 * batch_size
        assert set(zip(batch.prompts, batch.framings, strict=True)) <= set(
            replace(made, caption_dropout=dropout).framed_prompts
        )


def test_preserving_outputs_changes_nothing_about_the_subject() -> None:
    alone = replace(preserving(0.0), preserve=False)
    for batch, other in zip(
        batches(preserving(), count=10, batch_size=2), batches(alone, count=10, batch_size=2), strict=True
    ):
        assert batch.prompts[:2] == other.prompts
        assert torch.equal(batch.weight_B[:2], other.weight_B)
        first, second = sample_latents(batch.latents, batch.generators), sample_latents(other.latents, other.generators)
        assert torch.equal(first[:2], second)
        assert not torch.equal(first[:2], first[2:])


def test_no_outputs_are_preserved_without_a_weight_or_the_setting() -> None:
    for made in (preserving(0.0), dataset(2, prior=2, weight=1.0), dataset(2)):
        assert all(batch.base_target_B is None and batch.mask_B1HW is None for batch in batches(made, count=3))
    assert len(batches(preserving(0.0), count=1)[0].prompts) == 1


def test_class_captions_are_made_if_outputs_are_preserved(stage: Stage) -> None:
    trained = [
        photo("a", caption="a sketch of {subject}"),
        photo("b", caption="a sks dog at night"),
        photo("c", caption="no name"),
    ]
    made = made_from(stage, trained, DatasetSettings(), preserve=True)
    assert [e.class_prompts for e in made.subject[SQUARE]] == [("a sketch of dog",), ("a dog at night",), ("no name",)]
    assert made.prior == {SQUARE: ()}
    assert {"a sketch of dog", "a dog at night"} <= set(made.prompts)
    for plain in (
        made_from(stage, trained, DatasetSettings()),
        made_from(stage, trained, DatasetSettings(), preserve=True, weight=0.0),
    ):
        assert not plain.preserve
        assert plain.prompts == ("a sketch of sks dog", "a sks dog at night", "no name")
    with pytest.raises(AssertionError, match="either"):
        made_from(stage, trained, DatasetSettings(), preserve=True, classes=1)


def test_the_token_is_inserted_into_photos_own_captions_and_never_into_templates(stage: Stage) -> None:
    trained = [
        photo("a", caption="a dog at night"),
        photo("b", caption="a  template"),
        photo("c", caption="a template"),
    ]
    settings = DatasetSettings(templates=("a  template",), insert_token=True)
    made = made_from(stage, trained, settings)
    assert [e.prompts[0] for e in made.subject[SQUARE]] == ["a sks dog at night", "sks dog, a template", "a template"]
    off = made_from(stage, trained, settings.model_copy(update={"insert_token": False}))
    assert [e.prompts[0] for e in off.subject[SQUARE]] == ["a dog at night", "a template", "a template"]


def masked_photo(name: str, box: tuple[int, int, int, int], size: Size = (64, 64)) -> Photo:
    """Make a photo whose mask marks a box (left, top, right, bottom)."""
    mask = Image.new("L", (size[1], size[0]))
    mask.paste(255, box)
    return replace(photo(name, size), mask=mask)


@pytest.mark.parametrize("outside", [0.0, 0.25, 1.0])
def test_a_mask_is_averaged_over_each_cell_and_is_one_on_average(stage: Stage, outside: float) -> None:
    made = made_from(stage, [masked_photo("a", (0, 0, 12, 16))], DatasetSettings(masked=outside, flip=True), classes=1)
    plain, mirrored = (e.mask_11HW for e in made.subject[SQUARE])
    assert plain is not None
    assert mirrored is not None
    expected = torch.full((8, 8), outside)
    expected[:2, 0], expected[:2, 1] = 1.0, (1 + outside) / 2
    torch.testing.assert_close(plain, (expected / expected.mean())[None, None])
    assert torch.equal(mirrored, plain.flip(3))
    assert float(plain.mean()) == pytest.approx(1)
    assert made.prior[SQUARE][0].mask_11HW is None


@pytest.mark.parametrize("options", [{"classes": 2}, {"preserve": True}, {"weight": 0.0}])
def test_masks_weight_the_subject_alone(stage: Stage, options: dict[str, Any]) -> None:
    made = made_from(
        stage,
        [masked_photo("a", (0, 0, 8, 8)), masked_photo("bc", (0, 0, 64, 64))],
        DatasetSettings(masked=0.0),
        **options,
    )
    for batch in batches(made, count=12, batch_size=2):
        assert batch.mask_B1HW is not None
        assert batch.mask_B1HW.shape == (len(batch.prompts), 1, 8, 8)
        ones = [bool((row == 1).all()) for row in batch.mask_B1HW]  # exactly: an all-white mask changes nothing
        assert sorted(ones[:2]) == [False, True]
        assert all(ones[2:])


@given(outside=st.floats(0, 1))
def test_an_all_white_mask_is_exactly_one(outside: float) -> None:
    cut = crop(masked_photo("a", (0, 0, 90, 70), (70, 90)), SQUARE)
    weights = with_loss_mask(example("a"), cut, outside).mask_11HW
    assert weights is not None
    assert torch.equal(weights, torch.ones(1, 1, 8, 8))


def test_a_missing_mask_is_named_before_anything_is_encoded(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(stage), "encode", None)
    with pytest.raises(UserError, match=r"mask of two\.png; .*two\.mask\.png.*dataset\.masked=none"):
        made_from(stage, [masked_photo("one", (0, 0, 8, 8)), photo("two.png")], DatasetSettings(masked=0.5))


def test_a_photo_whose_mask_vanishes_is_named(stage: Stage) -> None:
    faint = masked_photo("faint", (101, 101, 102, 102), (2048, 2048))
    with pytest.raises(UserError, match="nothing of the mask of faint is left in an image of 64x64"):
        made_from(stage, [faint], DatasetSettings(masked=0.0))
    made_from(stage, [faint], DatasetSettings(masked=0.1))
