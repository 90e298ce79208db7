"""The training loop, for any family and any method; it yields each step to its caller."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mascot.diffusion.loss import training_loss
from mascot.errors import UserError
from mascot.protocols import AttachedMethod, Batch, Condition, Stage
from mascot.training.ema import WeightAverage, averaged
from mascot.training.lr_schedule import learning_rate_scale
from mascot.training.optimizers import build_optimizer
from mascot.training.settings import TrainingSettings

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One optimizer step, as the loop yields it."""

    number: int
    """Steps of the run that are done, from 1."""
    loss: float
    """Weighted loss, summed over the step's micro-batches."""
    subject_loss: float
    """Mean squared error on the subject's examples alone, unweighted."""
    gradient_norm: float
    """Global norm of the gradients before clipping."""
    learning_rates: Mapping[str, float]
    """Parameter group -> learning rate at this step."""
    seconds: float
    """Wall-clock time of the step."""


class Loop:
    """Trains an attached method's parameters for one phase of a run.

    The phase goes from step `first` to before step `last` of the run, or to its end. `done` counts
    the finished steps of the whole run.
    """

    def __init__(
        self,
        stage: Stage,
        attached: AttachedMethod,
        settings: TrainingSettings,
        condition: Condition,
        accelerator: Accelerator,
        *,
        first: int = 0,
        last: int = -1,
    ) -> None:
        self.stage, self.attached, self.settings, self.condition = stage, attached, settings, condition
        self.accelerator = accelerator
        self.first, self.last = first, settings.steps if last < 0 else last
        self.optimizer = accelerator.prepare(
            build_optimizer(settings.optimizer, attached.groups, weight_decay=settings.weight_decay)
        )
        self.average = WeightAverage(self.parameters(), settings.ema_decay) if settings.ema_decay is not None else None
        self.done = first
        prepare_denoiser(stage.parts[stage.denoiser], settings)

    def steps(self, batches: Callable[[int], Sequence[Batch]]) -> Iterator[Step]:
        """Train to the end of the phase, and yield after each step.

        `batches(n)` makes the micro-batches of step n of the run, from 0.

        Raises:
            UserError: the loss or the gradients are not finite; that step has changed nothing.
        """
        while self.done < self.last:
            started = time.perf_counter()
            learning_rates = self.set_learning_rates(self.done)
            loss, subject_loss, norm = self.accumulate(batches(self.done))
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.attached.after_step()
            if self.average is not None:
                self.average.update()
            self.done += 1
            yield Step(
                number=self.done,
                loss=loss,
                subject_loss=subject_loss,
                gradient_norm=norm,
                learning_rates=learning_rates,
                seconds=time.perf_counter() - started,
            )

    def set_learning_rates(self, step: int) -> dict[str, float]:
        """Set and return each parameter group's learning rate at a step of the run, from 0.

        Groups past their `until` are frozen.
        """
        steps, along = self.last - self.first, step - self.first
        scale = learning_rate_scale(self.settings.lr_schedule, along, steps, self.settings.warmup_steps)
        learning_rates: dict[str, float] = {}
        for torch_group, group in zip(self.optimizer.param_groups, self.attached.groups, strict=True):
            is_trained = along < group.until * steps
            for parameter in group.parameters:
                parameter.requires_grad = is_trained
            torch_group["lr"] = torch_group["initial_lr"] * scale * is_trained
            learning_rates[group.name] = group.learning_rate * scale * is_trained
        return learning_rates

    def backward(self, batches: Sequence[Batch]) -> tuple[float, list[float]]:
        """Accumulate the gradients of a step's micro-batches.

        Returns the loss, and the unweighted error of each subject example.
        """
        total, errors = 0.0, list[float]()
        min_snr, offset_noise = self.settings.min_snr, self.settings.offset_noise
        for batch in batches:
            with self.accelerator.autocast():
                loss, error_B = training_loss(
                    self.stage,
                    batch,
                    self.condition,
                    self.attached.base_only,
                    min_snr=min_snr,
                    offset_noise=offset_noise,
                )
            self.accelerator.backward(loss)
            total += loss.item()
            errors += error_B[: batch.subject_count].tolist()
        return total, errors

    def accumulate(self, batches: Sequence[Batch]) -> tuple[float, float, float]:
        """Accumulate a step's gradients and clip them.

        Returns loss, mean error of the subject examples, and gradient norm before clipping.

        Raises:
            UserError: the loss or the gradients are not finite.
        """
        total, errors = self.backward(batches)
        clipped: Any = self.accelerator.clip_grad_norm_(self.parameters(), self.settings.max_grad_norm)
        norm = float(clipped)
        # Under fp16 the scaler handles an infinite norm: it skips the step and lowers its scale.
        if not (math.isfinite(total) and (math.isfinite(norm) or self.accelerator.scaler is not None)):
            self.optimizer.zero_grad()
            raise UserError(describe_divergence(self.done, total, untrained=self.done == self.first))
        return total, sum(errors) / len(errors), norm

    @contextmanager
    def generating(self) -> Generator[None]:
        """Exchange the parameters for those that images are generated with, within the context.

        These are the weight average, or a schedule-free optimizer's own average.
        """
        with averaged(self.optimizer.optimizer, self.parameters(), self.average):
            yield

    def finish(self) -> None:
        """Keep the parameters that images are generated with, for good."""
        with self.generating():
            kept = [parameter.detach().clone() for parameter in self.parameters()]
        for parameter, value in zip(self.parameters(), kept, strict=True):
            parameter.data.copy_(value)

    def parameters(self) -> list[torch.nn.Parameter]:
        """List the trained parameters in a fixed order."""
        return parameters_of(self.attached)


def describe_divergence(done: int, loss: float, *, untrained: bool) -> str:
    """Explain a loss or gradients that are not finite, after some steps, and what helps.

    `untrained` says that this phase has learned nothing yet, so that no learning rate is to blame.
    """
    finite = math.isfinite(loss)
    problem = f"the {'norm of the gradients' if finite else 'loss'} of step {done + 1} is not a finite number"
    if untrained and finite:
        return f"{problem} before anything was learned; lower alpha or prior.weight, or train in fp32."
    if untrained:
        return (
            f"{problem} before anything was learned: the base overflows; train in fp32 (precision) or another --base."
        )
    return (
        f"{problem}; lower the learning rates (method.learning_rate, method.text_learning_rate) "
        "or train in fp32 (precision), in a new --out."
    )


def parameters_of(attached: AttachedMethod) -> list[torch.nn.Parameter]:
    """List an attached method's trained parameters in a fixed order."""
    return [parameter for group in attached.groups for parameter in group.parameters]


def prepare_denoiser(denoiser: Any, settings: TrainingSettings) -> None:
    """Enable gradient checkpointing and compile the denoiser, if the settings say so."""
    if settings.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    if settings.compile:
        denoiser.compile()
