"""Equality with the field: diffusers' numbers, and the losses of a plain training loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, UNet2DConditionModel
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3, compute_snr
from peft import LoraConfig, inject_adapter_in_model
from torch import Generator, Tensor
from torch.nn.functional import mse_loss
from transformers import CLIPTextModel, CLIPTokenizer

from mascot.data.dataset import Dataset, TrainingExample
from mascot.diffusion.loss import training_loss
from mascot.diffusion.noise import gaussian, seeded
from mascot.diffusion.objectives import DiffusionObjective, FlowObjective
from mascot.methods.lora import LoraSettings
from mascot.models.families.registry import load_family
from mascot.protocols import Batch, Conditioning, Framing, Latents, Subject
from mascot.runs.batch_plan import plan_batches
from mascot.training.loop import Loop
from mascot.training.settings import TrainingSettings

LEVELS: Any = torch.arange(1000)
"""Any: diffusers annotates levels as a type of tensor that its own code does not pass."""
Prediction = Literal["epsilon", "v_prediction"]
BOTH: tuple[Prediction, ...] = ("epsilon", "v_prediction")
SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "stable diffusion": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
    "zero terminal SNR": {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "rescale_betas_zero_snr": True,
    },
    "pixel cascade": {"beta_schedule": "squaredcos_cap_v2"},
}
FLOWS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "shifted": {"shift": 3.0},
    "dynamic": {"shift": 3.0, "use_dynamic_shifting": True},
}
FRAMING = Framing(original=(64, 64), target=(64, 64))


def theirs(schedule: str, prediction: Prediction) -> DDPMScheduler:
    return DDPMScheduler(prediction_type=prediction, **SCHEDULES[schedule])


def ours(scheduler: DDPMScheduler) -> DiffusionObjective:
    return DiffusionObjective(scheduler.alphas_cumprod, scheduler.config["prediction_type"])


def pictures_and_noise() -> tuple[Tensor, Tensor]:
    """One pair a level."""
    x0, eps = (gaussian((1000, 4, 2, 3), [seeded(name)])[0] for name in ("x0", "eps"))
    return x0, eps


@pytest.mark.parametrize("prediction", BOTH)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_noised_pictures_and_targets_are_diffusers_own_at_every_level(schedule: str, prediction: Prediction) -> None:
    scheduler = theirs(schedule, prediction)
    x0, eps = pictures_and_noise()
    noisy, target = ours(scheduler).noise(x0, eps, LEVELS), ours(scheduler).target(x0, eps, LEVELS)
    expected = scheduler.get_velocity(x0, eps, LEVELS) if prediction == "v_prediction" else eps
    assert (noisy - scheduler.add_noise(x0, eps, LEVELS)).abs().max() <= 1e-6
    assert (target - expected).abs().max() <= 1e-6


@pytest.mark.parametrize("limit", [0.5, 5.0, 20.0])
@pytest.mark.parametrize("prediction", BOTH)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_min_snr_weights_are_those_of_diffusers_at_every_level(
    schedule: str, prediction: Prediction, limit: float
) -> None:
    """Min-SNR as in the field: min(snr, limit) / snr, or / (snr + 1) for velocity; 0 / 0 is 1."""
    scheduler = theirs(schedule, prediction)
    snr = compute_snr(scheduler, LEVELS)
    expected = torch.minimum(snr, torch.full_like(snr, limit)) / (snr + 1 if prediction == "v_prediction" else snr)
    assert int(expected.isnan().sum()) == (schedule == "zero terminal SNR" and prediction == "epsilon")
    assert (ours(scheduler).weight(LEVELS, limit) - expected.nan_to_num(1.0)).abs().max() <= 1e-6


@pytest.mark.parametrize("prediction", BOTH)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_float32_loses_nothing_that_matters(schedule: str, prediction: Prediction) -> None:
    """The same in float64: differences are rounding, at the ends of the schedule too."""
    scheduler = theirs(schedule, prediction)
    objective, exact = ours(scheduler), DiffusionObjective(scheduler.alphas_cumprod.double(), prediction)
    x0, eps = pictures_and_noise()
    assert (objective.weight(LEVELS, 5.0) - exact.weight(LEVELS, 5.0)).abs().max() <= 1e-6
    assert (objective.noise(x0, eps, LEVELS) - exact.noise(x0.double(), eps.double(), LEVELS)).abs().max() <= 2e-6
    assert (objective.target(x0, eps, LEVELS) - exact.target(x0.double(), eps.double(), LEVELS)).abs().max() <= 2e-6


@pytest.mark.parametrize("flow", FLOWS)
def test_flows_mix_answer_and_count_as_diffusers_scripts_have_it_at_every_level(flow: str) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(**FLOWS[flow])
    objective, (x0, eps) = FlowObjective(scheduler.timesteps), pictures_and_noise()
    sample_timesteps: Any = scheduler.timesteps
    assert (
        objective.noise(x0, eps, sample_timesteps) - scheduler.scale_noise(x0, sample_timesteps, eps)
    ).abs().max() <= 1e-6
    assert torch.equal(objective.target(x0, eps, sample_timesteps), eps - x0)
    weighting = compute_loss_weighting_for_sd3("logit_normal", scheduler.sigmas)
    assert torch.equal(objective.weight(sample_timesteps, None), weighting)


@pytest.mark.parametrize("flow", FLOWS)
def test_the_same_draw_gives_the_same_level_of_a_flow(flow: str) -> None:
    scheduler: Any = FlowMatchEulerDiscreteScheduler(**FLOWS[flow])
    seeds = range(500)
    u = [
        compute_density_for_timestep_sampling("logit_normal", 1, logit_mean=0.0, logit_std=1.0, generator=seeded(seed))
        for seed in seeds
    ]
    expected = scheduler.timesteps[(torch.cat(u) * 1000).long()]
    assert torch.equal(FlowObjective(scheduler.timesteps).sample_timesteps([seeded(seed) for seed in seeds]), expected)


class Fake:
    """A stage that predicts zeros, so that an example's error is its target's mean square."""

    def __init__(self, prediction: Prediction) -> None:
        self.scheduler = theirs("stable diffusion", prediction)
        self.objective = ours(self.scheduler)

    @staticmethod
    def predict(noisy_BCHW: Tensor, timestep_B: Tensor, conditioning: Conditioning) -> Tensor:
        del timestep_B, conditioning
        return torch.zeros_like(noisy_BCHW)

    @staticmethod
    def image_conditioning(x0_BCHW: Tensor, generators: Sequence[Generator]) -> Conditioning:
        del x0_BCHW, generators
        return {}


def example(i: int, prompt: str, mask: Tensor | None = None) -> TrainingExample:
    mean = gaussian((4, 8, 8), [seeded("mean", i)])
    latents = Latents(mean_BCHW=mean, deviation_BCHW=mean.abs() / 10)
    return TrainingExample(latents=latents, prompts=(prompt,), framing=FRAMING, source=None, mask_11HW=mask)


def dataset(*, weight: float, mask: Tensor | None = None) -> Dataset:
    """Four photos and three class pictures."""
    subject = tuple(example(i, "a photo of sks dog", mask) for i in range(4))
    return Dataset(
        subject={(64, 64): subject},
        prior={(64, 64): tuple(example(9 + i, "a photo of a dog") for i in range(3))},
        prior_weight=weight,
    )


def batches(made: Dataset, *, count: int, batch_size: int) -> list[Batch]:
    plan = plan_batches(made, seed=0, micro_batches=count, batch_size=batch_size)
    return [made.batch(planned, seed=0, number=number, share=1.0) for number, planned in enumerate(plan)]


def drawn(batch: Batch) -> tuple[Tensor, Any, Tensor]:
    """Latents, levels and noise of a batch, drawn as any loop would from its generators."""
    shape = batch.latents.mean_BCHW.shape[1:]
    first = torch.stack([torch.randn(shape, generator=generator) for generator in batch.generators])
    level = torch.cat([torch.randint(0, 1000, (1,), generator=generator) for generator in batch.generators])
    eps = torch.stack([torch.randn(shape, generator=generator) for generator in batch.generators])
    return batch.latents.mean_BCHW + batch.latents.deviation_BCHW * first, level, eps


def faked_loss(fake: Fake, batch: Batch) -> float:
    stage: Any = fake
    return float(training_loss(stage, batch, lambda _prompts, _framings: {}, nullcontext, min_snr=5.0)[0])


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("prediction", BOTH)
def test_min_snr_weighs_the_priors_examples_at_their_own_levels(prediction: Prediction, batch_size: int) -> None:
    fake, made = Fake(prediction), dataset(weight=0.5)
    for batch, again in zip(*(batches(made, count=5, batch_size=batch_size) for _ in range(2)), strict=True):
        x0, level, eps = drawn(again)
        assert len(set(level.tolist())) > 1
        snr = compute_snr(fake.scheduler, level)
        weight = snr.clamp(max=5) / (snr + 1 if prediction == "v_prediction" else snr)
        target = fake.scheduler.get_velocity(x0, eps, level) if prediction == "v_prediction" else eps
        error = weight * target.square().mean((1, 2, 3))
        expected = error[:batch_size].mean() + 0.5 * error[batch_size:].mean()
        assert faked_loss(fake, batch) == pytest.approx(float(expected), rel=1e-5)


def test_an_all_white_mask_is_exactly_the_plain_loss_and_another_weighs_the_subjects_cells_alone() -> None:
    fake, half = Fake("epsilon"), torch.zeros(1, 1, 8, 8)
    half[..., :4] = 2
    plain, white, masked, again = (
        batches(dataset(weight=0.5, mask=mask), count=5, batch_size=2)
        for mask in (None, torch.ones(1, 1, 8, 8), half, None)
    )
    for one, other in zip(plain, white, strict=True):
        assert faked_loss(fake, one) == faked_loss(fake, other)
    for batch, same in zip(masked, again, strict=True):
        _, level, eps = drawn(same)
        weight = compute_snr(fake.scheduler, level).clamp(max=5) / compute_snr(fake.scheduler, level)
        subject = (weight[:2] * eps[:2, :, :, :4].square().mean((1, 2, 3))).mean()
        expected = subject + 0.5 * (weight[2:] * eps[2:].square().mean((1, 2, 3))).mean()
        assert faked_loss(fake, batch) == pytest.approx(float(expected), rel=1e-5)


STEPS = 20
RANK, ALPHA, RATES, DECAY, CLIP, WEIGHT, LIMIT = 4, 8, {"unet": 1e-3, "text_encoder": 1e-4}, 0.01, 1.0, 0.5, 5.0
PROJECTIONS = {"unet": ["to_q", "to_k", "to_v", "to_out.0"], "text_encoder": ["q_proj", "k_proj", "v_proj", "out_proj"]}


def adapted(base: Path, start: Mapping[str, Tensor]) -> tuple[Any, Any, dict[str, Tensor]]:
    """UNet and text encoder with a peft LoRA of given values, and their trained parameters."""
    models: dict[str, Any] = {
        "unet": UNet2DConditionModel.from_pretrained(base, subfolder="unet"),
        "text_encoder": CLIPTextModel.from_pretrained(base, subfolder="text_encoder"),
    }
    learning: dict[str, Tensor] = {}
    for part, model in models.items():
        model.requires_grad_(requires_grad=False)
        inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=PROJECTIONS[part]), model)
        named = {
            key.replace(".default", ""): parameter
            for key, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        learning |= {
            f"{part}.{'text_model.' if part == 'text_encoder' else ''}{key}": parameter
            for key, parameter in named.items()
        }
    assert learning.keys() == start.keys()
    for key, parameter in learning.items():
        parameter.data.copy_(start[key])
    return models["unet"], models["text_encoder"], learning


def plain_loop(
    base: Path, start: Mapping[str, Tensor], shown: Sequence[Batch]
) -> tuple[list[float], dict[str, Tensor]]:
    """DreamBooth with LoRA from diffusers, peft and torch alone; returns losses and weights."""
    scheduler: Any = DDPMScheduler.from_pretrained(base, subfolder="scheduler")
    tokenizer = CLIPTokenizer.from_pretrained(base, subfolder="tokenizer")
    unet, text, learning = adapted(base, start)
    parts = [
        {"params": [p for key, p in learning.items() if key.startswith(f"{part}.")], "lr": learning_rate}
        for part, learning_rate in RATES.items()
    ]
    optimizer = torch.optim.AdamW(parts, betas=(0.9, 0.99), weight_decay=DECAY)
    losses: list[float] = []
    for batch in shown:
        x0, level, eps = drawn(batch)
        ids = tokenizer(list(batch.prompts), padding="max_length", truncation=True, return_tensors="pt").input_ids
        answer = unet(scheduler.add_noise(x0, eps, level), level, text(ids).last_hidden_state).sample
        snr = compute_snr(scheduler, level)
        error = (
            mse_loss(answer, eps, reduction="none").mean((1, 2, 3))
            * torch.minimum(snr, torch.full_like(snr, LIMIT))
            / snr
        )
        subject, prior = error.chunk(2)
        loss = subject.mean() + WEIGHT * prior.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning.values(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, {key: parameter.detach() for key, parameter in learning.items()}


def test_our_steps_equal_a_plain_loop(tiny_base: Path) -> None:
    """Losses of 20 steps and the trained weights agree to 1e-5, from the same batches and seeds."""
    stage = load_family(str(tiny_base), device="cpu", precision="fp32").stages[0]
    method = LoraSettings(rank=RANK, alpha=ALPHA, learning_rate=RATES["unet"], text_learning_rate=RATES["text_encoder"])
    attached = method.attach(stage, Subject("sks", "dog"), 0, None)
    settings = TrainingSettings(steps=STEPS, batch_size=2, min_snr=LIMIT, weight_decay=DECAY, max_grad_norm=CLIP)
    start = {key: tensor.clone() for key, tensor in attached.export()[0].items()}
    shown, again = (batches(dataset(weight=WEIGHT), count=STEPS, batch_size=2) for _ in range(2))
    loop = Loop(stage, attached, settings, stage.condition, Accelerator(cpu=True, mixed_precision="no"))
    losses = [step.loss for step in loop.steps(lambda step: [shown[step]])]
    expected, learned = plain_loop(tiny_base, start, again)
    assert losses == pytest.approx(expected, abs=1e-5, rel=0)
    for key, tensor in attached.export()[0].items():
        moved = (learned[key] - start[key]).abs().max()
        assert moved > 0
        assert (tensor - learned[key]).abs().max() <= 1e-3 * moved, key
