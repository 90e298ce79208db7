"""Laws of the metrics on real embeddings: equal to slow loops, right on photos and on noise.

The definitions are written below in plain numpy, float64, pair by pair, to be read beside the
papers.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from mascot.evaluation.metrics.class_drift import drift, preservation
from mascot.evaluation.metrics.diversity import PatchDistance, measure_diversity, perceptual_distance
from mascot.evaluation.metrics.foreground import Cutouts, NoSegmenter, cut_all, cutout_similarity
from mascot.evaluation.metrics.image_encoders import ClipEncoder, IdentityEncoder, read_clip, read_identity_encoder
from mascot.evaluation.metrics.memorization import copy_score, held_out_share, nearest_excess, real_nearest
from mascot.evaluation.metrics.prompt_fidelity import prompt_fidelity
from mascot.evaluation.metrics.subject_fidelity import real_similarity, similarity
from mascot.models import starter

NAMES = sorted(starter.subjects())
NOISES = 6
CAPTIONS = {
    ("poodle", 1): "a dog in the desert",
    ("poodle", 3): "a dog in front of a brick wall",
    ("poodle", 6): "a dog on a purple background",
    ("taxi", 1): "a car in the jungle",
    ("taxi", 3): "a car in the city",
    ("taxi", 4): "a car on a pink background",
    ("hibiscus", 1): "a flower on a beach",
    ("hiking_boot", 1): "a shoe in the snow",
    ("hiking_boot", 5): "a shoe at night",
    ("parrot", 2): "a bird on a red background",
    ("t_rex", 4): "a dinosaur on a blue background",
    ("t_rex", 5): "a dinosaur in a cave",
}
"""Captions of some of the photos, as a person sees them; photos count from 1."""

MISTAKEN = {("boar", "mammoth")}
"""The one pair of 240 that CLIP confuses: the second is nearer to the first than its own photos."""

Rows = list[list[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The bundled subjects, embedded by the embedded encoders."""

    identity: IdentityEncoder
    clip: ClipEncoder
    images: dict[str, list[Image.Image]]
    noise: list[Image.Image]
    identity_rows: dict[str, Tensor]
    clip_rows: dict[str, Tensor]


@cache
def world() -> World:
    """Embed all photos once a process."""
    identity, clip = read_identity_encoder(starter.identity_folder()), read_clip(starter.clip_folder())
    images = {
        name: [Image.open(photo).convert("RGB") for photo in held.photos] for name, held in starter.subjects().items()
    }
    generator = np.random.default_rng(0)
    return World(
        identity=identity,
        clip=clip,
        images=images,
        noise=[Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(NOISES)],
        identity_rows={name: identity.embed(photos) for name, photos in images.items()},
        clip_rows={name: clip.embed(photos) for name, photos in images.items()},
    )


def embedded(encoder: str) -> tuple[dict[str, Tensor], Tensor]:
    """The photos of each subject, and noise, embedded by one encoder."""
    here = world()
    if encoder == "identity":
        return here.identity_rows, here.identity.embed(here.noise)
    return here.clip_rows, here.clip.embed(here.noise)


def number(value: float | None) -> float:
    """A value that must be there."""
    assert value is not None
    assert math.isfinite(value)
    return value


# The definitions.


def plain(rows_BD: Tensor) -> Rows:
    """Embeddings as numbers, in float64."""
    return [[float(value) for value in row] for row in rows_BD.numpy()]


def cosine(one: list[float], other: list[float]) -> float:
    a, b = np.array(one, dtype=np.float64), np.array(other, dtype=np.float64)
    return float((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def all_pairs(generated: Rows, real: Rows) -> float:
    """DINO and CLIP-I: every generated with every real image."""
    values: list[float] = []
    for one in generated:
        for other in real:
            values.append(cosine(one, other))  # noqa: PERF401 - plain on purpose
    return mean(values)


def distinct_pairs(real: Rows) -> float:
    """The row of real images: every photo with every other one."""
    values: list[float] = []
    for i, one in enumerate(real):
        for j, other in enumerate(real):
            if i != j:
                values.append(cosine(one, other))
    return mean(values)


def copies(generated: Rows, training: Rows, held_out: Rows) -> float:
    """The nearest of as many photos of either kind, over all choices of them."""
    count = min(len(training), len(held_out))
    values: list[float] = []
    for image in generated:
        trained, unseen = (
            mean([max(cosine(image, photo) for photo in some) for some in itertools.combinations(photos, count)])
            for photos in (training, held_out)
        )
        values.append(trained - unseen)
    return mean(values)


def nearest_neighbour(photos: Rows) -> float:
    values: list[float] = []
    for i, photo in enumerate(photos):
        values.append(max(cosine(photo, other) for j, other in enumerate(photos) if i != j))
    return mean(values)


def apart(one: Rows, other: Rows) -> float:
    """The perceptual distance: patch by patch."""
    return 1 - mean([cosine(a, b) for a, b in zip(one, other, strict=True)])


# The laws.


@pytest.mark.parametrize("encoder", ["identity", "clip"])
def test_subject_fidelity_is_its_definition(encoder: str) -> None:
    rows, noise_BD = embedded(encoder)
    for one, other in itertools.pairwise(NAMES):
        assert similarity(rows[one], rows[other][:4]) == pytest.approx(
            all_pairs(plain(rows[one]), plain(rows[other][:4])), abs=1e-6
        )
    for name in NAMES:
        assert real_similarity(rows[name]) == pytest.approx(distinct_pairs(plain(rows[name])), abs=1e-6)
    assert similarity(noise_BD, rows["taxi"]) == pytest.approx(
        all_pairs(plain(noise_BD), plain(rows["taxi"])), abs=1e-6
    )


def test_prompt_fidelity_is_its_definition() -> None:
    images_BD, prompts_BD = captioned()
    cosines = [cosine(image, prompt) for image, prompt in zip(plain(images_BD), plain(prompts_BD), strict=True)]
    assert prompt_fidelity(images_BD, prompts_BD) == pytest.approx(mean(cosines), abs=1e-6)


@pytest.mark.parametrize("name", ["poodle", "boar", "taxi"])
def test_the_copy_scores_are_their_definitions(name: str) -> None:
    rows = world().identity_rows
    training_TD, held_out_PD, generated_BD = rows[name][:4], rows[name][4:], rows["koala"]
    generated, training, held_out = plain(generated_BD), plain(training_TD), plain(held_out_PD)
    assert copy_score(generated_BD, training_TD, held_out_PD) == pytest.approx(
        copies(generated, training, held_out), abs=1e-6
    )
    unseen = [
        max(cosine(p, photo) for photo in held_out) >= max(cosine(p, photo) for photo in training) for p in generated
    ]
    assert held_out_share(generated_BD, training_TD, held_out_PD) == mean([float(one) for one in unseen])
    assert real_nearest(training_TD) == pytest.approx(nearest_neighbour(training), abs=1e-6)
    expected = mean([max(cosine(image, photo) for photo in training) for image in generated]) - nearest_neighbour(
        training
    )
    assert nearest_excess(generated_BD, training_TD) == pytest.approx(expected, abs=1e-6)


def test_preservation_and_drift_are_their_definitions() -> None:
    rows = world().identity_rows
    now, before, photos = rows["service_dog"], rows["eagle"], rows["poodle"]
    pres = all_pairs(plain(now), plain(photos))
    assert preservation(now, photos) == pytest.approx(pres, abs=1e-6)
    assert drift(now, before, photos) == pytest.approx(pres - all_pairs(plain(before), plain(photos)), abs=1e-6)


def test_diversity_is_its_definition() -> None:
    here = world()
    prompts = [here.images["poodle"][:3], here.images["taxi"][:2], here.noise[:1]]
    values: list[float] = []
    for images in prompts[:2]:
        patches = [plain(patches_ND) for patches_ND in here.identity.patches(images)]
        values.append(mean([apart(one, other) for one, other in itertools.combinations(patches, 2)]))
    found = measure_diversity(prompts, PatchDistance(encoder=here.identity))
    assert found.prompts == (pytest.approx(values[0], abs=1e-6), pytest.approx(values[1], abs=1e-6), None)
    assert found.value == pytest.approx(mean(values), abs=1e-6)


@pytest.mark.parametrize("encoder", ["identity", "clip"])
@pytest.mark.parametrize("name", NAMES)
def test_training_photos_give_the_real_row(name: str, encoder: str) -> None:
    rows_BD = embedded(encoder)[0][name]
    count = len(rows_BD)
    others = [list(set(range(count)) - {i}) for i in range(count)]
    left_out = [similarity(rows_BD[i : i + 1], rows_BD[others[i]]) for i in range(count)]
    real = number(real_similarity(rows_BD))
    assert mean(left_out) == pytest.approx(real, abs=1e-6)
    # With each photo against itself as well, which is 1: why the real row leaves those pairs out.
    assert similarity(rows_BD, rows_BD) == pytest.approx((1 + (count - 1) * real) / count, abs=1e-6)


@pytest.mark.parametrize(("encoder", "apart"), [("identity", 0.4), ("clip", 0.25)])
def test_noise_gives_the_floor(encoder: str, apart: float) -> None:
    """Noise is far below the photos among themselves, and on average below other subjects."""
    rows, noise_BD = embedded(encoder)
    floor = {name: similarity(noise_BD, rows[name]) for name in NAMES}
    assert all(floor[name] < number(real_similarity(rows[name])) - apart for name in NAMES)
    assert mean(list(floor.values())) < mean(
        [similarity(rows[other], rows[name]) for name, other in itertools.permutations(NAMES, 2)]
    )


def test_noise_in_place_of_the_class_is_under_every_subject() -> None:
    rows, noise_BD = embedded("identity")
    for name in NAMES:
        assert number(preservation(noise_BD, rows[name])) < number(preservation(rows[name], rows[name]))
        assert number(drift(noise_BD, rows[name], rows[name])) < 0 < number(drift(rows[name], noise_BD, rows[name]))


def test_prompts_of_other_images_and_noise_score_lower() -> None:
    images_BD, prompts_BD = captioned()
    matched = prompt_fidelity(images_BD, prompts_BD)
    for shift in range(1, len(CAPTIONS)):
        assert prompt_fidelity(images_BD, prompts_BD.roll(shift, dims=0)) < matched - 0.3
    noise_BD = embedded("clip")[1]  # it scores highest as a brick wall
    assert all(prompt_fidelity(noise_BD, prompt_D.expand(NOISES, -1)) < matched - 0.25 for prompt_D in prompts_BD)


def test_swapped_subjects_score_lower_than_matched_ones_always() -> None:
    rows = world().identity_rows
    assert len(NAMES) == 16
    for name, other in itertools.permutations(NAMES, 2):
        swapped = similarity(rows[other], rows[name])
        assert swapped < number(real_similarity(rows[name]))
        assert swapped < similarity(rows[name][:3], rows[name][3:])


def test_swapped_subjects_score_lower_by_clip_too_but_for_one_pair() -> None:
    rows = world().clip_rows
    wrong = {
        (name, other)
        for name, other in itertools.permutations(NAMES, 2)
        if similarity(rows[other], rows[name]) >= number(real_similarity(rows[name]))
    }
    assert wrong <= MISTAKEN


@pytest.mark.parametrize("name", NAMES)
def test_copies_of_training_photos_are_told_from_photos_held_out(name: str) -> None:
    rows_BD = world().identity_rows[name]
    training_TD, held_out_PD = rows_BD[:3], rows_BD[3:]
    assert (
        number(copy_score(held_out_PD, training_TD, held_out_PD))
        < 0
        < number(copy_score(training_TD, training_TD, held_out_PD))
    )
    honest, copied = nearest_excess(held_out_PD, training_TD), nearest_excess(training_TD, training_TD)
    assert number(honest) < number(copied) == pytest.approx(1 - number(real_nearest(training_TD)), abs=1e-6)


def test_images_of_many_subjects_are_more_diverse_than_of_one() -> None:
    here = world()
    distance = PatchDistance(encoder=here.identity)
    mixed = measure_diversity([[here.images[name][1] for name in NAMES[:6]]], distance)
    for name in NAMES:
        photos = measure_diversity([here.images[name]], distance)
        same = measure_diversity([here.images[name][:1] * 3], distance)
        assert number(same.value) == pytest.approx(0, abs=1e-6)
        assert 0.01 < number(photos.value) < number(mixed.value)


def test_similarity_of_cut_outs_is_its_definition() -> None:
    """All pairs of cut-out images, embedded by the identity encoder."""
    here = world()
    generated, photos = cut_outs(here.images["koala"][1::2]), cut_outs(here.images["poodle"][1::2])
    expected = all_pairs(plain(here.identity.embed(generated.images)), plain(here.identity.embed(photos.images)))
    assert cutout_similarity(generated, photos, here.identity.embed).value == pytest.approx(expected, abs=1e-6)


def test_cut_out_subjects_are_told_apart_more_clearly() -> None:
    here = world()
    # The second, fourth and sixth photo have a plain background, so a mask is what differs from it.
    plain_ones = {name: photos[1::2] for name, photos in here.images.items()}
    whole = {name: rows_BD[1::2] for name, rows_BD in here.identity_rows.items()}
    cut = {name: here.identity.embed(cut_outs(photos).images) for name, photos in plain_ones.items()}
    assert mean([number(real_similarity(cut[name])) for name in NAMES]) > mean(
        [number(real_similarity(whole[name])) for name in NAMES]
    )
    assert separation(cut) > separation(whole) + 0.02


def test_a_small_subject_is_as_similar_when_it_is_cut_out() -> None:
    here = world()
    for name in NAMES:
        photos = here.images[name][1::2]
        score = cutout_similarity(cut_outs([small(photo) for photo in photos]), cut_outs(photos), here.identity.embed)
        assert score.note == ""
        assert number(score.value) > similarity(
            here.identity.embed([small(photo) for photo in photos]), here.identity.embed(photos)
        )


def test_perceptual_distances_of_photos_are_distances() -> None:
    patches_BND = world().identity.patches(world().images["alien"])
    for i, j in itertools.product(range(len(patches_BND)), repeat=2):
        found = perceptual_distance(patches_BND[i], patches_BND[j])
        assert found == perceptual_distance(patches_BND[j], patches_BND[i])
        assert found == pytest.approx(apart(plain(patches_BND[i]), plain(patches_BND[j])), abs=1e-6)
        assert (found < 1e-6) == (i == j)


def captioned() -> tuple[Tensor, Tensor]:
    """The embeddings of the captioned photos, and of their captions."""
    here = world()
    images = [here.images[name][number - 1] for name, number in CAPTIONS]
    return here.clip.embed(images), here.clip.embed_prompts(list(CAPTIONS.values()))


def separation(rows: dict[str, Tensor]) -> float:
    """How much nearer photos of one subject are to each other than to other subjects."""
    own = mean([number(real_similarity(rows[name])) for name in NAMES])
    return own - mean([similarity(rows[name], rows[other]) for name, other in itertools.permutations(NAMES, 2)])


def cut_outs(photos: list[Image.Image]) -> Cutouts:
    """Cut the subjects out of photos with a plain background."""
    masks = [plain_background_mask(photo) for photo in photos]
    return cut_all(photos, masks, segmenter=NoSegmenter("none"), preprocessing=world().identity.preprocessing)


def small(photo: Image.Image) -> Image.Image:
    """The same at half the size, in a corner of its background."""
    canvas = Image.new("RGB", photo.size, photo.getpixel((0, 0)))
    canvas.paste(photo.resize((photo.width // 2, photo.height // 2)), (0, photo.height // 2))
    return canvas


def plain_background_mask(photo: Image.Image) -> Image.Image:
    """Mark what differs from the color of a corner."""
    values_HWC = np.asarray(photo, np.int16)
    return Image.fromarray((np.abs(values_HWC - values_HWC[0, 0]).sum(axis=2) > 60).astype(np.uint8) * 255)
