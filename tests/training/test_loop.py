"""Laws of the loop: the loss is the paper's, the step a plain loop's, a failure changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import compute_snr
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from mascot.adapters.peft_layers import lora_layers
from mascot.data.dataset import Dataset, TrainingExample
from mascot.diffusion.loss import training_loss
from mascot.diffusion.noise import gaussian, seeded
from mascot.errors import UserError
from mascot.methods.lora import LoraSettings
from mascot.models.families.registry import load_family
from mascot.protocols import AttachedMethod, Batch, Conditioning, Framing, Latents, Stage
from mascot.runs.batch_plan import plan_batches
from mascot.training import loop as module
from mascot.training.checkpoint import load_checkpoint, save_checkpoint
from mascot.training.loop import Loop, Step
from mascot.training.settings import TrainingSettings
from tiny.stable_diffusion import SUBJECT, Idle, tiny_stable_diffusion

FRAMING = Framing(original=(64, 64), target=(64, 64))
PROMPTS = ("a photo of sks dog", "a photo of a dog")


@pytest.fixture(scope="module")
def velocity_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_stable_diffusion(tmp_path_factory.mktemp("velocity"), prediction_type="v_prediction")


@pytest.fixture
def stage(tiny_base: Path) -> Stage:
    return load_family(str(tiny_base), device="cpu", precision="fp32").stages[0]


@pytest.fixture(scope="module")
def accelerator() -> Any:
    return Accelerator(cpu=True, mixed_precision="no")


def example(i: int, prompt: str) -> TrainingExample:
    mean = gaussian((4, 8, 8), [seeded("mean", i)])
    return TrainingExample(
        latents=Latents(mean_BCHW=mean, deviation_BCHW=mean.abs() / 10), prompts=(prompt,), framing=FRAMING, source=None
    )


def dataset(photos: int, *, classes: int = 0, weight: float = 0.5) -> Dataset:
    subject = tuple(example(i, PROMPTS[0]) for i in range(photos))
    prior = tuple(example(100 + i, PROMPTS[1]) for i in range(classes))
    return Dataset(
        subject={(64, 64): subject}, prior={(64, 64): prior} if classes else {}, prior_weight=weight if classes else 0.0
    )


def batches_of(made: Dataset, settings: TrainingSettings, seed: int = 0) -> Callable[[int], Sequence[Batch]]:
    """Make one micro-batch a step, as a run plans them."""
    plan = plan_batches(made, seed=seed, micro_batches=settings.steps, batch_size=settings.batch_size)
    return lambda step: [made.batch(plan[step], seed=seed, number=step, share=1.0)]


def loop_over(stage: Stage, settings: TrainingSettings, accelerator: Any, method: LoraSettings | None = None) -> Loop:
    attached: AttachedMethod = (method or LoraSettings(learning_rate=1e-3, text_learning_rate=1e-3)).attach(
        stage, SUBJECT, 0, None
    )
    return Loop(stage, attached, settings, stage.condition, accelerator)


def values(loop: Loop) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in loop.parameters()]


def same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def by_hand(base: Path, batch: Batch, limit: float | None) -> tuple[float, list[float]]:
    """Compute weighted loss and plain errors by diffusers' parts and the papers' formulas."""
    scheduler: Any = DDPMScheduler.from_pretrained(base, subfolder="scheduler")
    unet, text = (
        UNet2DConditionModel.from_pretrained(base, subfolder="unet"),
        CLIPTextModel.from_pretrained(base, subfolder="text_encoder"),
    )
    tokenizer = CLIPTokenizer.from_pretrained(base, subfolder="tokenizer")
    velocity = scheduler.config["prediction_type"] == "v_prediction"
    loss, errors = 0.0, list[float]()
    for i, prompt in enumerate(batch.prompts):
        mean, deviation, generator = batch.latents.mean_BCHW[i], batch.latents.deviation_BCHW[i], batch.generators[i]
        x0 = (mean + deviation * torch.randn(mean.shape, generator=generator))[None]
        timestep = torch.randint(0, 1000, (1,), generator=generator)
        eps = torch.randn(mean.shape, generator=generator)[None]
        ids = tokenizer(prompt, padding="max_length", truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            noisy = scheduler.add_noise(x0, eps, timestep)
            prediction = unet(noisy, timestep, text(ids).last_hidden_state).sample
        target = scheduler.get_velocity(x0, eps, timestep) if velocity else eps
        errors.append(float((prediction - target).square().mean()))
        snr = float(compute_snr(scheduler, timestep))
        weight = 1.0 if limit is None else min(snr, limit) / (snr + 1 if velocity else snr)
        loss += float(batch.weight_B[i]) * weight * errors[-1]
    return loss, errors


@pytest.mark.parametrize("limit", [None, 0.05, 5.0])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_loss_is_the_formula_with_class_images_at_their_own_timesteps(
    tiny_base: Path, velocity_base: Path, kind: str, limit: float | None
) -> None:
    base = velocity_base if kind == "v_prediction" else tiny_base
    stage = load_family(str(base), device="cpu", precision="fp32").stages[0]
    made, settings = dataset(3, classes=3), TrainingSettings(steps=2, batch_size=3)
    for step in range(2):
        with torch.no_grad():
            loss, error_B = training_loss(
                stage, batches_of(made, settings)(step)[0], stage.condition, Idle().base_only, min_snr=limit
            )
        expected, errors = by_hand(base, batches_of(made, settings)(step)[0], limit)
        assert float(loss) == pytest.approx(expected, rel=1e-5)
        assert error_B.tolist() == pytest.approx(errors, rel=1e-5)


def split(batch: Batch) -> list[Batch]:
    """Split a batch into micro-batches of one example."""
    return [
        Batch(
            latents=Latents(
                mean_BCHW=batch.latents.mean_BCHW[i : i + 1], deviation_BCHW=batch.latents.deviation_BCHW[i : i + 1]
            ),
            prompts=batch.prompts[i : i + 1],
            framings=batch.framings[i : i + 1],
            weight_B=batch.weight_B[i : i + 1],
            subject_count=1,
            generators=batch.generators[i : i + 1],
        )
        for i in range(len(batch.prompts))
    ]


def test_two_accumulated_are_one_batch_of_two(stage: Stage, accelerator: Any) -> None:
    settings = TrainingSettings(steps=1, batch_size=2, min_snr=5.0, max_grad_norm=0.5)
    loop = loop_over(stage, settings, accelerator)
    gradients: list[list[Tensor]] = []
    results: list[tuple[float, float, float]] = []
    for cut in (lambda batch: [batch], split):
        (batch,) = batches_of(dataset(4), settings)(0)
        results.append(loop.accumulate(cut(batch)))
        gradients.append([p.grad.clone() for p in loop.parameters() if p.grad is not None])
        loop.optimizer.zero_grad()
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    assert len(gradients[0]) == len(loop.parameters())
    assert max((one - other).abs().max() for one, other in zip(*gradients, strict=True)) <= 1e-6
    assert max(one.abs().max() for one in gradients[0]) > 1e-3


def test_a_planned_runs_micro_batches_share_the_weight_of_one() -> None:
    made = dataset(4, classes=2)
    plan = plan_batches(made, seed=0, micro_batches=4, batch_size=2)
    total = sum(
        float(made.batch(planned, seed=0, number=n, share=1 / 4).weight_B.sum()) for n, planned in enumerate(plan)
    )
    assert total == pytest.approx(1.5)


class PlainLoop:
    """The plain training loop, written with diffusers, peft and torch alone."""

    def __init__(self, base: Path, start: Stage, rank: int, alpha: float) -> None:
        self.scheduler: Any = DDPMScheduler.from_pretrained(base, subfolder="scheduler")
        self.unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet")
        text = CLIPTextModel.from_pretrained(base, subfolder="text_encoder").requires_grad_(requires_grad=False)
        ids = CLIPTokenizer.from_pretrained(base, subfolder="tokenizer")(
            PROMPTS[0], padding="max_length", return_tensors="pt"
        ).input_ids
        self.states = text(ids).last_hidden_state
        targets = ["to_q", "to_k", "to_v", "to_out.0"]
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=int(alpha), target_modules=targets), self.unet)
        ours = dict(start.parts["unet"].named_parameters())
        for name, parameter in self.unet.named_parameters():
            parameter.requires_grad_("lora_" in name)
            if "lora_" in name:
                parameter.data.copy_(ours[name].data)
        self.trained = [p for p in self.unet.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=2e-3, betas=(0.9, 0.99), weight_decay=0.01)

    def step(self, mean: Tensor, deviation: Tensor, generator: torch.Generator) -> float:
        x0 = mean + deviation * torch.randn(mean.shape[1:], generator=generator)
        timestep = torch.randint(0, 1000, (1,), generator=generator)
        eps = torch.randn(mean.shape[1:], generator=generator)[None]
        noisy = self.scheduler.add_noise(x0, eps, timestep)
        loss = torch.nn.functional.mse_loss(self.unet(noisy, timestep, self.states).sample, eps)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def test_twenty_steps_are_those_of_a_plain_loop(tiny_base: Path, stage: Stage, accelerator: Any) -> None:
    settings = TrainingSettings(steps=20)
    loop = loop_over(
        stage, settings, accelerator, LoraSettings(rank=4, alpha=8, learning_rate=2e-3, text_learning_rate=0)
    )
    plain = PlainLoop(tiny_base, stage, rank=4, alpha=8)
    made = dataset(3)
    ours = [step.loss for step in loop.steps(batches_of(made, settings))]
    again = [batches_of(made, settings)(n)[0] for n in range(20)]
    theirs = [plain.step(batch.latents.mean_BCHW, batch.latents.deviation_BCHW, batch.generators[0]) for batch in again]
    assert max(abs(one - other) for one, other in zip(ours, theirs, strict=True)) <= 1e-5
    untrained = load_family(str(tiny_base), device="cpu", precision="fp32").stages[0]
    with torch.no_grad():
        base_loss = float(
            training_loss(untrained, batches_of(made, settings)(19)[0], untrained.condition, Idle().base_only)[0]
        )
    assert abs(base_loss - ours[-1]) > 1e-3  # twenty steps changed the loss


def test_the_loss_on_one_photo_falls(stage: Stage, accelerator: Any) -> None:
    settings = TrainingSettings(steps=60, lr_schedule="cosine")
    loop = loop_over(
        stage, settings, accelerator, LoraSettings(learning_rate=0.02, text_learning_rate=0.002, layers="all")
    )
    made = dataset(1)

    def measured() -> float:
        """Compute the mean loss over noise that is not trained on."""
        with torch.no_grad():
            probes = [batches_of(made, TrainingSettings(steps=40), seed=99)(n)[0] for n in range(40)]
            return (
                sum(float(training_loss(stage, probe, stage.condition, Idle().base_only)[0]) for probe in probes) / 40
            )

    before = measured()
    assert [step.number for step in loop.steps(batches_of(made, settings))] == list(range(1, 61))
    assert measured() < 0.7 * before


def test_learning_rates_follow_warm_up_and_schedule_each_part_its_own(stage: Stage, accelerator: Any) -> None:
    settings = TrainingSettings(steps=8, warmup_steps=3, lr_schedule="linear")
    loop = loop_over(stage, settings, accelerator, LoraSettings(learning_rate=1e-3, text_learning_rate=2e-4))
    scales = [0.25, 0.5, 0.75, 1.0, 0.8, 0.6, 0.4, 0.2]
    for step, scale in zip(loop.steps(batches_of(dataset(1), settings)), scales, strict=True):
        assert dict(step.learning_rates) == pytest.approx({"unet": 1e-3 * scale, "text_encoder": 2e-4 * scale})
        assert [group["lr"] for group in loop.optimizer.param_groups] == pytest.approx([1e-3 * scale, 2e-4 * scale])


def test_a_part_at_learning_rate_nearly_zero_hardly_moves(stage: Stage, accelerator: Any) -> None:
    settings = TrainingSettings(steps=2)
    loop = loop_over(stage, settings, accelerator, LoraSettings(learning_rate=1e-2, text_learning_rate=1e-9))
    before = {group.part: [p.detach().clone() for p in group.parameters] for group in loop.attached.groups}
    list(loop.steps(batches_of(dataset(1), settings)))
    moved = {
        group.part: max(
            (p.detach() - old).abs().max().item() for p, old in zip(group.parameters, before[group.part], strict=True)
        )
        for group in loop.attached.groups
    }
    assert moved["unet"] > 1e-2
    assert moved["text_encoder"] < 1e-7


def test_gradients_are_clipped_to_the_limit(stage: Stage, accelerator: Any) -> None:
    settings = TrainingSettings(steps=1, max_grad_norm=1e-3)
    loop = loop_over(stage, settings, accelerator)
    _, _, norm = loop.accumulate(batches_of(dataset(1), settings)(0))
    clipped = math.sqrt(sum(float(p.grad.square().sum()) for p in loop.parameters() if p.grad is not None))
    assert norm > 1e-2  # the reported norm is the one before clipping
    assert clipped == pytest.approx(1e-3, rel=1e-3)


def test_the_subjects_loss_leaves_the_class_and_the_weights_out(stage: Stage, accelerator: Any) -> None:
    settings = TrainingSettings(steps=1, batch_size=2, min_snr=5.0)
    loop = loop_over(stage, settings, accelerator)
    with torch.no_grad():
        _, error_B = training_loss(
            stage, batches_of(dataset(2, classes=2), settings)(0)[0], stage.condition, Idle().base_only
        )
    (step,) = loop.steps(batches_of(dataset(2, classes=2), settings))
    assert step.subject_loss == pytest.approx(float(error_B[:2].mean()))


class Poisoned:
    """A stage whose predictions are NaN after some calls."""

    def __init__(self, stage: Stage, healthy: int) -> None:
        self.stage, self.healthy = stage, healthy

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stage, name)

    def predict(self, noisy_BCHW: Tensor, timestep_B: Tensor, conditioning: Conditioning) -> Tensor:
        self.healthy -= 1
        prediction = self.stage.predict(noisy_BCHW, timestep_B, conditioning)
        return prediction if self.healthy >= 0 else prediction * float("nan")


def test_a_loss_that_is_not_finite_names_the_step_and_changes_nothing(stage: Stage, accelerator: Any) -> None:
    settings = TrainingSettings(steps=5)
    loop = loop_over(stage, settings, accelerator)
    loop.stage = Poisoned(stage, healthy=2)  # pyright: ignore[reportAttributeAccessIssue]
    seen: list[tuple[Step, list[Tensor]]] = []
    with pytest.raises(UserError, match="step 3 ") as error:
        seen.extend((step, values(loop)) for step in loop.steps(batches_of(dataset(1), settings)))
    assert "lower the learning rates" in str(error.value)
    assert [step.number for step, _ in seen] == [1, 2]
    assert same(values(loop), seen[-1][1])
    assert loop.done == 2
    assert all(p.grad is None for p in loop.parameters())


def test_a_poisoned_weight_is_noticed_before_the_next_one_is(stage: Stage, accelerator: Any) -> None:
    settings = TrainingSettings(steps=3)
    loop = loop_over(stage, settings, accelerator)
    _, layer = lora_layers(stage.parts["unet"])[0]
    layer.lora_B["default"].weight.data.fill_(float("nan"))
    before = [value.isnan().any().item() for value in values(loop)]
    with pytest.raises(UserError, match="step 1 "):
        list(loop.steps(batches_of(dataset(1), settings)))
    assert [value.isnan().any().item() for value in values(loop)] == before


def fresh_loop(base: Path, settings: TrainingSettings, accelerator: Any) -> Loop:
    return loop_over(load_family(str(base), device="cpu", precision="fp32").stages[0], settings, accelerator)


def test_a_loop_goes_on_from_its_checkpoint_to_the_bit(tiny_base: Path, accelerator: Any, tmp_path: Path) -> None:
    settings, made = TrainingSettings(steps=6, lr_schedule="cosine", warmup_steps=2), dataset(2)
    whole, first, second = (fresh_loop(tiny_base, settings, accelerator) for _ in range(3))
    through = [(step.number, step.loss, step.gradient_norm) for step in whole.steps(batches_of(made, settings))]
    steps = first.steps(batches_of(made, settings))
    before = [(step.number, step.loss, step.gradient_norm) for step in islice(steps, 3)]
    save_checkpoint(first, tmp_path / "checkpoint")
    load_checkpoint(second, tmp_path / "checkpoint")
    assert second.done == 3
    after = [(step.number, step.loss, step.gradient_norm) for step in second.steps(batches_of(made, settings))]
    assert before + after == through
    assert same(values(second), values(whole))


def test_a_broken_checkpoint_is_refused_by_name(stage: Stage, accelerator: Any, tmp_path: Path) -> None:
    loop = loop_over(stage, TrainingSettings(steps=2), accelerator)
    folder = tmp_path / "checkpoint"
    save_checkpoint(loop, folder)
    state = next(folder.iterdir())
    state.write_bytes(state.read_bytes()[:-9])
    for broken in (folder, tmp_path / "missing"):
        with pytest.raises(UserError, match=broken.name):
            load_checkpoint(loop, broken)


def test_nothing_is_recorded_of_a_step_until_it_is_complete(
    stage: Stage, accelerator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TrainingSettings(steps=2)
    loop = loop_over(stage, settings, accelerator)
    before = values(loop)

    def interrupted(*_: object, **__: object) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "training_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(loop.steps(batches_of(dataset(1), settings)))
    assert loop.done == 0
    assert same(values(loop), before)
