"""Laws of the metrics: equal to plain re-implementations, exact for known values, else refused."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mascot.evaluation.metrics.class_drift import drift, preservation
from mascot.evaluation.metrics.diversity import diversity, diversity_over, patch_distances, perceptual_distance
from mascot.evaluation.metrics.frechet import frechet_distance
from mascot.evaluation.metrics.memorization import (
    copy_score,
    copy_scores,
    held_out_share,
    nearest_excess,
    nearest_excesses,
    real_nearest,
)
from mascot.evaluation.metrics.prompt_fidelity import prompt_fidelity
from mascot.evaluation.metrics.subject_fidelity import real_similarity, similarity

counts = st.integers(2, 7)
few = st.integers(1, 4)
seeds = st.integers(0, 999)


def rows(count: int, width: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a.double() @ b.double() / (a.double().norm() * b.double().norm()))


def gaussian(mean: Tensor, covariance: Tensor, count: int = 40, seed: int = 0) -> Tensor:
    """A sample whose own mean and covariance are exactly these."""
    white = rows(count, len(mean), seed).double()
    white = white - white.mean(0)
    white = white @ torch.linalg.inv(torch.linalg.cholesky(white.T.cov().contiguous())).T
    return white @ torch.linalg.cholesky(covariance).T + mean


@given(generated=counts, real=counts, seed=seeds)
def test_similarity_is_the_mean_over_all_pairs(generated: int, real: int, seed: int) -> None:
    a, b = rows(generated, seed=seed), rows(real, seed=seed + 1)
    cosines = [cosine(x, y) for x in a for y in b]
    assert similarity(a, b) == pytest.approx(sum(cosines) / len(cosines), abs=1e-6)
    assert similarity(a, b) == pytest.approx(similarity(b, a), abs=1e-12)
    assert similarity(3 * a, b) == pytest.approx(similarity(a, b), abs=1e-6)


@given(count=counts, seed=seeds)
def test_real_similarity_is_the_mean_over_distinct_pairs(count: int, seed: int) -> None:
    a = rows(count, seed=seed)
    cosines = [cosine(x, y) for x, y in itertools.combinations(a, 2)]
    assert real_similarity(a) == pytest.approx(sum(cosines) / len(cosines), abs=1e-6)


def test_one_image_equals_itself_and_has_no_pair() -> None:
    one = rows(1)
    assert similarity(one, one) == pytest.approx(1, abs=1e-12)
    assert similarity(one, -one) == pytest.approx(-1, abs=1e-12)
    assert real_similarity(one) is None
    assert real_similarity(one[:0]) is None
    assert real_similarity(one.repeat(3, 1)) == pytest.approx(1, abs=1e-12)


@given(count=counts, seed=seeds)
def test_prompt_fidelity_is_the_mean_over_paired_rows(count: int, seed: int) -> None:
    images, prompts = rows(count, seed=seed), rows(count, seed=seed + 1)
    expected = sum(cosine(x, y) for x, y in zip(images, prompts, strict=True)) / count
    assert prompt_fidelity(images, prompts) == pytest.approx(expected, abs=1e-6)
    assert prompt_fidelity(images, images) == pytest.approx(1, abs=1e-6)


def test_frechet_distance_of_known_gaussians() -> None:
    mean = torch.tensor([1.0, -2.0, 0.5]).double()
    here, there = torch.tensor([4.0, 1.0, 0.25]).double(), torch.tensor([1.0, 9.0, 0.25]).double()
    a, b = gaussian(mean, here.diag()), gaussian(torch.zeros(3).double(), there.diag(), count=25, seed=1)
    expected = mean.square().sum() + (here.sqrt() - there.sqrt()).square().sum()
    assert frechet_distance(a, b) == pytest.approx(float(expected), abs=1e-6)
    assert frechet_distance(a, a + 2) == pytest.approx(12, abs=1e-6)


@given(seed=seeds)
def test_frechet_distance_is_the_formulas(seed: int) -> None:
    a, b = rows(20, seed=seed).double(), (rows(15, seed=seed + 1) @ rows(6, seed=seed + 2)).double() + 1
    overlap = torch.linalg.eigvals(a.T.cov() @ b.T.cov()).sqrt().real.sum()
    expected = (a.mean(0) - b.mean(0)).square().sum() + a.T.cov().trace() + b.T.cov().trace() - 2 * overlap
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_frechet_distance_is_computed_in_double_precision() -> None:
    a, b = rows(20) + 1000, rows(15, seed=1) + 1000
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(a.double(), b.double()), rel=1e-12)


def test_equal_sets_are_no_distance_apart() -> None:
    a = rows(90, 64)
    flat = torch.cat([a, a[:, :1], torch.ones(90, 1)], dim=1)  # a covariance without an inverse
    for rows_BD in (a, flat, 100 * flat):
        assert frechet_distance(rows_BD, rows_BD.flip(0)) <= 1e-6


@given(seed=seeds)
def test_a_copy_score_tells_training_photos_from_held_out_ones(seed: int) -> None:
    training, held_out = rows(4, seed=seed), rows(2, seed=seed + 1)
    copied, honest = copy_score(training, training, held_out), copy_score(held_out, training, held_out)
    assert copied is not None
    assert honest is not None
    assert honest < 0 < copied
    assert copy_score(training, held_out, training) == pytest.approx(-copied, abs=1e-9)
    assert copy_score(rows(5, seed=seed + 2), training, training) == 0


@given(generated=counts, seed=seeds)
def test_each_image_has_its_own_copy_score(generated: int, seed: int) -> None:
    generated_BD, training, held_out = rows(generated, seed=seed), rows(3, seed=seed + 1), rows(2, seed=seed + 2)
    scores, excesses = copy_scores(generated_BD, training, held_out), nearest_excesses(generated_BD, training)
    assert scores == pytest.approx([copy_score(one[None], training, held_out) for one in generated_BD], abs=1e-9)
    assert excesses == pytest.approx([nearest_excess(one[None], training) for one in generated_BD], abs=1e-9)
    assert copy_score(generated_BD, training, held_out) == pytest.approx(sum(scores or ()) / generated, abs=1e-9)
    assert nearest_excess(generated_BD, training) == pytest.approx(sum(excesses or ()) / generated, abs=1e-9)


def plain_nearest(image: Tensor, photos: Tensor, count: int) -> float:
    """The nearest of so many photos, averaged over all choices."""
    chosen = [max(cosine(image, photo) for photo in some) for some in itertools.combinations(photos, count)]
    return sum(chosen) / len(chosen)


@given(training=few, held_out=few, seed=seeds)
def test_a_copy_score_is_of_equal_numbers_of_photos(training: int, held_out: int, seed: int) -> None:
    generated_BD, training_TD, others = rows(2, seed=seed), rows(training, seed=seed + 1), rows(held_out, seed=seed + 2)
    count = min(training, held_out)
    expected = [
        plain_nearest(image, training_TD, count) - plain_nearest(image, others, count) for image in generated_BD
    ]
    assert copy_scores(generated_BD, training_TD, others) == pytest.approx(expected, abs=1e-9)
    if training == held_out:
        plain = [
            max(cosine(image, photo) for photo in training_TD) - max(cosine(image, photo) for photo in others)
            for image in generated_BD
        ]
        assert expected == pytest.approx(plain, abs=1e-9)


@given(training=few, held_out=few, seed=seeds)
def test_images_made_without_knowing_the_split_copy_nothing(training: int, held_out: int, seed: int) -> None:
    """Over all splits of the photos, the score of fixed images is 0 and the share is chance."""
    photos, generated_BD = rows(training + held_out, seed=seed), rows(3, seed=seed + 1)
    scores: list[float] = []
    shares: list[float] = []
    for some in itertools.combinations(range(len(photos)), held_out):
        others, training_TD = photos[list(some)], photos[[i for i in range(len(photos)) if i not in some]]
        scores += copy_scores(generated_BD, training_TD, others) or ()
        shares.append(held_out_share(generated_BD, training_TD, others))
    assert sum(scores) / len(scores) == pytest.approx(0, abs=1e-9)
    assert sum(shares) / len(shares) == pytest.approx(held_out / (training + held_out), abs=1e-9)


def test_a_share_detects_copies_of_many_photos() -> None:
    photos = rows(4, seed=3)
    assert held_out_share(photos[:3], photos[:3], photos[3:]) == 0
    assert held_out_share(photos[3:], photos[:3], photos[3:]) == 1
    assert held_out_share(photos, photos[:3], photos[3:]) == 0.25


def test_an_excess_is_above_what_the_photos_have_among_themselves() -> None:
    photos = torch.eye(4)[:3] + 0.5  # every two of them have the same cosine
    between = cosine(photos[0], photos[1])
    assert real_nearest(photos) == pytest.approx(between, abs=1e-9)
    assert nearest_excess(photos, photos) == pytest.approx(1 - between, abs=1e-9)
    assert nearest_excess(-photos, photos) == pytest.approx(-2 * between, abs=1e-9)
    assert real_nearest(-torch.eye(2) + 0.5) == pytest.approx(
        -1, abs=1e-9
    )  # no photo is its own neighbor, however far the others


@given(seed=seeds)
def test_drift_is_what_training_did_to_the_class(seed: int) -> None:
    photos, base, now = rows(3, seed=seed), rows(4, seed=seed + 1), rows(5, seed=seed + 2)
    assert preservation(now, photos) == similarity(now, photos)
    assert drift(base, base, photos) == 0
    assert drift(now, base, photos) == pytest.approx(similarity(now, photos) - similarity(base, photos), abs=1e-12)


@given(seed=seeds)
def test_a_perceptual_distance_is_one(seed: int) -> None:
    one, other = rows(5, seed=seed), rows(5, seed=seed + 1)
    assert perceptual_distance(one, one) == pytest.approx(0, abs=1e-12)
    assert perceptual_distance(one, -one) == pytest.approx(2, abs=1e-12)
    assert perceptual_distance(one, other) == perceptual_distance(other, one) >= 0
    assert perceptual_distance(one, one.flip(0)) > 0.01  # positions matter


def test_diversity_counts_every_prompt_alike() -> None:
    assert diversity([0.1, 0.2, 0.6]) == pytest.approx(0.3)
    assert diversity_over([[0.1, 0.2, 0.6], [], [0.7]]) == pytest.approx(0.5)
    patches_BND = torch.stack([rows(5, seed=n) for n in range(3)])
    expected = [perceptual_distance(patches_BND[i], patches_BND[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert patch_distances(patches_BND) == expected


def test_what_cannot_be_computed_is_none() -> None:
    none, one, some = rows(0), rows(1), rows(3)
    assert [
        copy_score(*sides) for sides in ((some, some, None), (some, some, none), (some, none, some), (none, some, some))
    ] == [None] * 4
    assert [nearest_excess(some, one), nearest_excess(none, some), nearest_excess(some, none)] == [None] * 3
    assert [real_nearest(one), real_nearest(none)] == [None] * 2
    assert [preservation(none, some), preservation(some, none)] == [None] * 2
    assert [drift(none, some, some), drift(some, none, some), drift(some, some, none)] == [None] * 3
    assert [diversity([]), diversity_over([]), diversity_over([[], []])] == [None] * 3
    assert patch_distances(rows(4)[None]) == []


def test_embeddings_of_no_length_give_numbers() -> None:
    zero, some = torch.zeros(2, 6), rows(3)
    values = (
        similarity(zero, some),
        real_similarity(zero),
        prompt_fidelity(zero, zero),
        copy_score(zero, some, zero),
        nearest_excess(some, zero),
        preservation(zero, some),
        drift(some, zero, some),
        perceptual_distance(zero, zero),
    )
    assert all(value is not None and math.isfinite(value) for value in values)


@pytest.mark.parametrize(
    ("measure", "complaint"),
    [
        (lambda: similarity(rows(0), rows(2)), "images on both sides"),
        (lambda: similarity(rows(2), rows(0)), "images on both sides"),
        (lambda: similarity(rows(2, 4), rows(2, 6)), "4 and 6 wide"),
        (lambda: prompt_fidelity(rows(2), rows(3)), "its own prompt"),
        (lambda: prompt_fidelity(rows(0), rows(0)), "its own prompt"),
        (lambda: prompt_fidelity(rows(2, 4), rows(2, 6)), "its own prompt"),
        (lambda: copy_score(rows(2, 4), rows(2, 6), rows(2, 4)), "4 and 6 wide"),
        (lambda: copy_score(rows(2, 4), rows(2, 4), rows(2, 6)), "4 and 6 wide"),
        (lambda: held_out_share(rows(0), rows(2), rows(2)), "needs images"),
        (lambda: nearest_excess(rows(2, 4), rows(2, 6)), "4 and 6 wide"),
        (lambda: copy_score(rows(2) * math.nan, rows(2), rows(2)), "not finite"),
        (lambda: real_nearest(rows(2) * math.inf), "not finite"),
        (lambda: perceptual_distance(rows(2) * math.nan, rows(2)), "not finite"),
        (lambda: preservation(rows(2, 4), rows(2, 6)), "4 and 6 wide"),
        (lambda: perceptual_distance(rows(2), rows(3)), "its own counterpart"),
        (lambda: perceptual_distance(rows(0), rows(0)), "its own counterpart"),
        (lambda: frechet_distance(rows(9, 4), rows(9, 6)), "4 and 6 wide"),
        (lambda: frechet_distance(rows(7), rows(6)), "more than 6 images on both sides, not 7 and 6"),
        (lambda: frechet_distance(rows(6), rows(7)), "more than 6 images on both sides, not 6 and 7"),
    ],
)
def test_what_cannot_be_computed_is_refused(measure: object, complaint: str) -> None:
    assert callable(measure)
    with pytest.raises(ValueError, match=complaint):
        measure()
