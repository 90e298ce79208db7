"""Laws of targets and weights at the ends of a schedule, and of the timesteps that are drawn.

tests/laws/test_field_equality.py has the rest.
"""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from diffusers import DDPMScheduler

from mascot.diffusion.noise import gaussian, seeded
from mascot.diffusion.objectives import DiffusionObjective

TIMESTEPS: Any = torch.arange(1000)
"""Any: diffusers annotates timesteps as a type of tensor that its own code does not pass."""
Prediction = Literal["epsilon", "v_prediction"]
BOTH: tuple[Prediction, ...] = ("epsilon", "v_prediction")


def reference(prediction: Prediction, *, zero_snr: bool = False) -> DDPMScheduler:
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        rescale_betas_zero_snr=zero_snr,
    )


def ours(scheduler: DDPMScheduler) -> DiffusionObjective:
    return DiffusionObjective(scheduler.alphas_cumprod, scheduler.config["prediction_type"])


def images_and_noise() -> tuple[torch.Tensor, torch.Tensor]:
    """One pair per timestep."""
    x0, eps = (gaussian((1000, 4, 2, 3), [seeded(name)])[0] for name in ("x0", "eps"))
    return x0, eps


@pytest.mark.parametrize("prediction", BOTH)
def test_nothing_is_infinite_at_zero_terminal_snr(prediction: Prediction) -> None:
    objective = ours(reference(prediction, zero_snr=True))
    x0, eps = images_and_noise()
    assert objective.alphas_cumprod_T[-1] == 0
    for values in (
        objective.noise(x0, eps, TIMESTEPS),
        objective.target(x0, eps, TIMESTEPS),
        objective.weight(TIMESTEPS, 5.0),
    ):
        assert values.isfinite().all()
    assert torch.equal(objective.noise(x0, eps, TIMESTEPS)[-1], eps[-1])
    if prediction == "v_prediction":
        assert torch.equal(objective.target(x0, eps, TIMESTEPS)[-1], -x0[-1])
    assert float(objective.weight(TIMESTEPS, 5.0)[-1]) == (prediction == "epsilon")


def test_noise_with_hardly_any_signal_counts_in_full() -> None:
    """The min-SNR weight of an epsilon prediction is 1 up to the limit, and falls above it."""
    alphas_cumprod = torch.tensor([1.0, 0.99, 5 / 6, 0.1, 1e-6, 1e-10, 1e-40, 0.0])
    weights = DiffusionObjective(alphas_cumprod, "epsilon").weight(torch.arange(8), 5.0)
    assert weights.tolist() == pytest.approx([0, 5 / 99, 1, 1, 1, 1, 1, 1], rel=1e-4)


@pytest.mark.parametrize("prediction", BOTH)
def test_without_a_limit_every_timestep_counts_the_same(prediction: Prediction) -> None:
    weights = ours(reference(prediction)).weight(TIMESTEPS, None)
    assert torch.equal(weights, torch.ones(1000))


def test_timesteps_are_uniform_integers_and_each_from_its_own_generator() -> None:
    objective = ours(reference("epsilon"))
    generator = seeded("levels")
    drawn = objective.sample_timesteps([generator] * 20_000)
    tenths = torch.bincount(drawn // 100, minlength=10)
    assert drawn.dtype == torch.int64
    assert len(tenths) == 10
    assert (tenths - 2000).abs().max() < 200  # under five deviations
    assert drawn.min() < 5
    assert drawn.max() >= 995
    together = objective.sample_timesteps([seeded(seed) for seed in range(5)])
    assert together.tolist() == [int(objective.sample_timesteps([seeded(seed)])) for seed in range(5)]
