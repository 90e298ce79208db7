"""Laws of the metrics: equal to a plain re-implementation, exact where the answer is known, refused where there is none."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mascot.metrics.frechet import frechet_distance
from mascot.metrics.prompt import prompt_fidelity
from mascot.metrics.subject import real_similarity, similarity

counts = st.integers(2, 7)
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


def test_one_picture_is_itself_and_has_no_pair() -> None:
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


@pytest.mark.parametrize(
    ("measure", "complaint"),
    [
        (lambda: similarity(rows(0), rows(2)), "pictures on both sides"),
        (lambda: similarity(rows(2), rows(0)), "pictures on both sides"),
        (lambda: similarity(rows(2, 4), rows(2, 6)), "4 and 6 wide"),
        (lambda: prompt_fidelity(rows(2), rows(3)), "its own prompt"),
        (lambda: prompt_fidelity(rows(0), rows(0)), "its own prompt"),
        (lambda: prompt_fidelity(rows(2, 4), rows(2, 6)), "its own prompt"),
        (lambda: frechet_distance(rows(9, 4), rows(9, 6)), "4 and 6 wide"),
        (lambda: frechet_distance(rows(7), rows(6)), "more than 6 pictures on both sides, not 7 and 6"),
        (lambda: frechet_distance(rows(6), rows(7)), "more than 6 pictures on both sides, not 6 and 7"),
    ],
)
def test_what_cannot_be_computed_is_no_number(measure: object, complaint: str) -> None:
    assert callable(measure)
    with pytest.raises(ValueError, match=complaint):
        measure()
