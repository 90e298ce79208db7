"""The loop. It knows no family and no method by name, and yields every step to its caller."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mascot.diffusion.loss import training_loss
from mascot.errors import UserError
from mascot.protocols import AttachedMethod, Batch, Condition, Stage
from mascot.training.checkpoint import STATE, parameters_of, under
from mascot.training.ema import WeightAverage, averaged
from mascot.training.lr_schedule import rate_scale
from mascot.training.memory_estimate import REMEDIES, MemoryEstimate, activations_of, estimate
from mascot.training.optimizers import build, restore_state, state_of
from mascot.training.settings import TrainingSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one step was."""

    number: int
    """Steps done, from 1."""
    loss: float
    subject_loss: float
    """Mean squared error on the subject's examples alone, before any weight."""
    norm: float
    """Global norm of the gradients before clipping."""
    rates: Mapping[str, float]
    seconds: float


class Loop:
    """One phase of training: an optimizer over what a learner lets learn, and the step it has come to.

    The phase is the steps from `first` to before `last` of a run.
    """

    def __init__(
        self, stage: Stage, attached: AttachedMethod, settings: TrainingSettings, condition: Condition, accelerator: Any, *, first: int = 0, last: int = -1
    ) -> None:  # fmt: skip
        self.stage, self.attached, self.settings, self.condition = stage, attached, settings, condition
        self.accelerator = accelerator
        self.first, self.last = first, settings.steps if last < 0 else last
        self.optimizer = accelerator.prepare(build(settings.optimizer, attached.groups, weight_decay=settings.weight_decay))
        self.average = WeightAverage(self.parameters(), settings.ema_decay) if settings.ema_decay is not None else None
        self.done = first
        prepare_denoiser(stage.parts[stage.denoiser], settings)

    def steps(self, batches: Callable[[int], Sequence[Batch]]) -> Iterator[Step]:
        """Train to the end, yielding after each step; `batches(n)` gives the micro-batches of step n, from 0.

        Raises:
            UserError: the loss or the gradients are not finite; nothing was changed by that step.
        """
        while self.done < self.last:
            started = time.perf_counter()
            rates = self.turn_rates(self.done)
            loss, subject_loss, norm = self.accumulate(batches(self.done))
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.attached.after_step()
            if self.average is not None:
                self.average.update()
            self.done += 1
            seconds = time.perf_counter() - started
            yield Step(number=self.done, loss=loss, subject_loss=subject_loss, norm=norm, rates=rates, seconds=seconds)

    def turn_rates(self, step: int) -> dict[str, float]:
        """Set the rates of a step, from 0; what has learned for long enough is frozen."""
        steps, along = self.last - self.first, step - self.first
        scale = rate_scale(self.settings.lr_schedule, along, steps, self.settings.warmup_steps)
        rates: dict[str, float] = {}
        for place, group in zip(self.optimizer.param_groups, self.attached.groups, strict=True):
            learns = along < group.until * steps
            for parameter in group.parameters:
                parameter.requires_grad = learns
            place["lr"] = place["initial_lr"] * scale * learns
            rates[group.called] = group.learning_rate * scale * learns
        return rates

    def time_one_step(self, batches: Sequence[Batch]) -> float:
        """Go through a step without taking it; returns its seconds.

        Raises:
            UserError: the accelerator's memory does not hold it.
        """
        started = time.perf_counter()
        self.turn_rates(self.first)
        try:
            self.backward(batches)
        except torch.OutOfMemoryError as error:
            raise UserError(f"a training step does not fit the accelerator's memory; make it smaller, {REMEDIES}.") from error
        finally:
            self.optimizer.zero_grad()
        return time.perf_counter() - started

    def needs(self, batch: Batch) -> MemoryEstimate:
        """The memory that this phase needs at its fullest moment, for micro-batches like this one; nothing is computed for it."""
        stage, attached = self.stage, self.attached
        x0, level = batch.latents.mean_BCHW, stage.objective.sample_timesteps(batch.generators).to(batch.latents.mean_BCHW.device)

        def ask() -> Tensor:
            told = {**self.condition(batch.prompts, batch.framings), **stage.image_conditioning(x0, batch.generators)}
            return stage.predict(x0, level, told)

        self.turn_rates(self.first)
        with self.accelerator.autocast():
            activations = activations_of(stage.parts[stage.denoiser], ask, [p for p in self.parameters() if p.requires_grad])
        parts = {name: stage.parts[name] for name in (stage.denoiser, *(group.part for group in attached.groups))}
        with attached.base_only():  # a method that exchanges weights keeps both
            return estimate(parts, attached.groups, activations, self.settings.optimizer, average=self.average is not None)

    def backward(self, batches: Sequence[Batch]) -> tuple[float, list[float]]:
        """Add up the gradients of a step's micro-batches; returns the loss and the subject's plain errors."""
        total, errors = 0.0, list[float]()
        for batch in batches:
            with self.accelerator.autocast():
                loss, error_B = training_loss(self.stage, self.attached, batch, self.condition, self.settings)
            self.accelerator.backward(loss)
            total += loss.item()
            errors += error_B[: batch.subject_count].tolist()
        return total, errors

    def accumulate(self, batches: Sequence[Batch]) -> tuple[float, float, float]:
        """Add up the gradients of a step's micro-batches, clip them, and refuse what is not finite."""
        total, errors = self.backward(batches)
        norm = float(self.accelerator.clip_grad_norm_(self.parameters(), self.settings.max_grad_norm))
        # Under fp16 an infinite norm is the scaler's business: it skips the step and lowers its scale.
        if not (math.isfinite(total) and (math.isfinite(norm) or self.accelerator.scaler is not None)):
            self.optimizer.zero_grad()
            raise UserError(
                f"the loss of step {self.done + 1} is not a finite number; lower the learning rates (method.learning_rate, method.text_learning_rate) "
                "or train in fp32 (precision), then start again: the last checkpoint is kept."
            )
        return total, sum(errors) / len(errors), norm

    @contextmanager
    def drawing(self) -> Generator[None]:
        """Let the parameters be those that draw and are kept (an average's, a schedule-free optimizer's) for a while."""
        with averaged(self.optimizer.optimizer, self.parameters(), self.average):
            yield

    def finish(self) -> None:
        """Make the parameters those that draw and are kept, for good."""
        with self.drawing():
            kept = [parameter.detach().clone() for parameter in self.parameters()]
        for parameter, value in zip(self.parameters(), kept, strict=True):
            parameter.data.copy_(value)

    def save(self, folder: Path) -> None:
        """Write everything that the next step depends on, exactly: parameters, the optimizer's state, the average, the step."""
        tensors = {f"parameter.{i}": p.detach() for i, p in enumerate(self.parameters())}
        moments, facts = state_of(self.optimizer.optimizer)
        tensors |= {f"optimizer.{name}": value for name, value in moments.items()}
        if self.average is not None:
            tensors |= {f"average.{name}": value for name, value in self.average.state().items()}
        tensors["done"] = torch.tensor(self.done)
        folder.mkdir(parents=True, exist_ok=True)
        content = {key: value.cpu().contiguous() for key, value in tensors.items()}
        save_file(content, folder / STATE, metadata={"optimizer": json.dumps(facts, sort_keys=True)})

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote.

        Raises:
            UserError: the checkpoint is broken or belongs to other settings.
        """
        try:
            with safe_open(folder / STATE, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
                facts = json.loads(file.metadata()["optimizer"])
            for i, parameter in enumerate(self.parameters()):
                parameter.data.copy_(tensors[f"parameter.{i}"])
            restore_state(self.optimizer.optimizer, under("optimizer.", tensors), facts)
            if self.average is not None:
                self.average.restore(under("average.", tensors))
            self.done = int(tensors["done"])
        except Exception as error:
            raise UserError(f"the checkpoint {folder} cannot be read; delete that folder to go on from the one before.") from error

    def parameters(self) -> list[torch.nn.Parameter]:
        """What learns, in a fixed order."""
        return parameters_of(self.attached)


def prepare_denoiser(denoiser: Any, settings: TrainingSettings) -> None:
    """Let a denoiser take less memory or less time, where that is asked for."""
    if settings.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    if settings.compile:
        denoiser.compile()
