"""Laws of noising, targets and weights: diffusers' own numbers, at every level."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from mascot.latents import gaussian, seeded
from mascot.objectives import Diffusion

LEVELS: Any = torch.arange(1000)
"""Any: diffusers annotates levels as a type of tensor that its own code does not pass."""
Prediction = Literal["epsilon", "v_prediction"]
BOTH: tuple[Prediction, ...] = ("epsilon", "v_prediction")


def reference(prediction: Prediction, *, zero_snr: bool = False) -> DDPMScheduler:
    return DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction, rescale_betas_zero_snr=zero_snr
    )


def ours(scheduler: DDPMScheduler) -> Diffusion:
    return Diffusion(scheduler.alphas_cumprod, scheduler.config["prediction_type"])


def pictures_and_noise() -> tuple[torch.Tensor, torch.Tensor]:
    """One pair a level."""
    x0, eps = (gaussian((1000, 4, 2, 3), [seeded(name)])[0] for name in ("x0", "eps"))
    return x0, eps


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("prediction", BOTH)
def test_noised_pictures_and_targets_are_diffusers_own_at_every_level(prediction: Prediction, zero_snr: bool) -> None:  # noqa: FBT001
    scheduler = reference(prediction, zero_snr=zero_snr)
    x0, eps = pictures_and_noise()
    noisy, target = ours(scheduler).noise(x0, eps, LEVELS), ours(scheduler).target(x0, eps, LEVELS)
    expected = scheduler.get_velocity(x0, eps, LEVELS) if prediction == "v_prediction" else eps
    assert (noisy - scheduler.add_noise(x0, eps, LEVELS)).abs().max() <= 1e-6
    assert (target - expected).abs().max() <= 1e-6


@pytest.mark.parametrize("limit", [0.5, 5.0, 20.0])
@pytest.mark.parametrize("prediction", BOTH)
def test_min_snr_weights_are_those_of_diffusers_at_every_level(prediction: Prediction, limit: float) -> None:
    scheduler = reference(prediction)
    snr = compute_snr(scheduler, LEVELS)
    expected = torch.minimum(snr, torch.full_like(snr, limit)) / (snr if prediction == "epsilon" else snr + 1)
    assert (ours(scheduler).weight(LEVELS, limit) - expected).abs().max() <= 1e-6


@pytest.mark.parametrize("prediction", BOTH)
def test_nothing_is_infinite_at_zero_terminal_snr(prediction: Prediction) -> None:
    objective = ours(reference(prediction, zero_snr=True))
    x0, eps = pictures_and_noise()
    assert objective.alphas_cumprod_T[-1] == 0
    for values in (objective.noise(x0, eps, LEVELS), objective.target(x0, eps, LEVELS), objective.weight(LEVELS, 5.0)):
        assert values.isfinite().all()
    assert torch.equal(objective.noise(x0, eps, LEVELS)[-1], eps[-1])
    if prediction == "v_prediction":
        assert torch.equal(objective.target(x0, eps, LEVELS)[-1], -x0[-1])


@pytest.mark.parametrize("prediction", BOTH)
def test_without_a_limit_every_level_counts_the_same(prediction: Prediction) -> None:
    weights = ours(reference(prediction)).weight(LEVELS, None)
    assert torch.equal(weights, torch.ones(1000))


def test_levels_are_even_whole_and_each_from_its_own_generator() -> None:
    objective = ours(reference("epsilon"))
    generator = seeded("levels")
    drawn = objective.levels([generator] * 20_000)
    tenths = torch.bincount(drawn // 100, minlength=10)
    assert drawn.dtype == torch.int64
    assert len(tenths) == 10
    assert (tenths - 2000).abs().max() < 200  # under five deviations
    assert drawn.min() < 5
    assert drawn.max() >= 995
    together = objective.levels([seeded(seed) for seed in range(5)])
    assert together.tolist() == [int(objective.levels([seeded(seed)])) for seed in range(5)]
