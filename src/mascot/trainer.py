"""The loop. It knows no family and no method by name, and yields every step to its caller."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from torch import Tensor

from mascot.errors import UserError
from mascot.latents import gaussian, sample
from mascot.optimizers import ScheduleName, adamw, rate_scale
from mascot.protocols import Batch, Conditioning, Framing, Learner, Stage

Condition = Callable[[Sequence[str], Sequence[Framing]], Conditioning]


class Settings(BaseModel):
    """How long and how fast the loop runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=800, ge=1, le=999_999, description="optimizer steps")
    batch_size: int = Field(default=1, ge=1, le=512, description="photos in one forward pass; class pictures come on top")
    accumulation: int = Field(default=1, ge=1, le=512, description="forward passes in one optimizer step")
    schedule: ScheduleName = Field(default="constant", description="how the rates fall after warm-up: constant, linear, cosine")
    warmup: int = Field(default=0, ge=0, description="steps in which the rates rise from 0")
    min_snr: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="limit of min-SNR weighting; none trains with plain MSE"
    )
    weight_decay: float = Field(default=0.01, ge=0, le=10, description="AdamW's decoupled weight decay")
    clip: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="limit of the gradients' global norm")
    checkpoint_every: int = Field(default=200, ge=1, description="steps between two checkpoints")


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


def loss_of(stage: Stage, batch: Batch, condition: Condition, min_snr: float | None) -> tuple[Tensor, Tensor]:
    """Noise the batch, ask the denoiser, compare its answer with the right one.

    Returns the weighted loss and each example's plain squared error. The prior's examples are weighted by their own levels too.
    """
    x0 = sample(batch.latents, batch.generators)
    level = stage.objective.levels(batch.generators).to(x0.device)
    eps = gaussian(x0.shape[1:], batch.generators).to(x0)
    answer = stage.predict(stage.objective.noise(x0, eps, level), level, condition(batch.prompts, batch.framings))
    error_B = (answer - stage.objective.target(x0, eps, level)).square().flatten(1).mean(1)
    weight_B = batch.weight_B.to(x0.device) * stage.objective.weight(level, min_snr)
    return (weight_B * error_B).sum(), error_B.detach()


@contextmanager
def uninterrupted() -> Generator[None]:
    """Hold Ctrl-C back until the block has ended; outside the main thread, and where Ctrl-C is ignored, nothing needs holding."""
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: held.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        before(*held[0])


class Loop:
    """One phase of training: an optimizer over what a learner lets learn, and the step it has come to."""

    def __init__(self, stage: Stage, learner: Learner, settings: Settings, condition: Condition, accelerator: Any) -> None:
        self.stage, self.learner, self.settings, self.condition = stage, learner, settings, condition
        self.accelerator = accelerator
        self.optimizer = accelerator.prepare(adamw(learner.groups, weight_decay=settings.weight_decay))
        self.done = 0

    def steps(self, batches: Callable[[int], Sequence[Batch]]) -> Iterator[Step]:
        """Train to the end, yielding after each step; `batches(n)` gives the micro-batches of step n, from 0.

        Raises:
            UserError: the loss or the gradients are not finite; nothing was changed by that step.
        """
        while self.done < self.settings.steps:
            started = time.perf_counter()
            scale = rate_scale(self.settings.schedule, self.done, self.settings.steps, self.settings.warmup)
            for group in self.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * scale
            loss, subject_loss, norm = self.accumulate(batches(self.done))
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.learner.after_step()
            self.done += 1
            rates = {group.part: group.rate * scale for group in self.learner.groups}
            seconds = time.perf_counter() - started
            yield Step(number=self.done, loss=loss, subject_loss=subject_loss, norm=norm, rates=rates, seconds=seconds)

    def accumulate(self, batches: Sequence[Batch]) -> tuple[float, float, float]:
        """Add up the gradients of a step's micro-batches, clip them, and refuse what is not finite."""
        total, errors = 0.0, list[float]()
        for batch in batches:
            with self.accelerator.autocast():
                loss, error_B = loss_of(self.stage, batch, self.condition, self.settings.min_snr)
            self.accelerator.backward(loss)
            total += loss.item()
            errors += error_B[: batch.subject_count].tolist()
        norm = float(self.accelerator.clip_grad_norm_(self.parameters(), self.settings.clip))
        # Under fp16 an infinite norm is the scaler's business: it skips the step and lowers its scale.
        if not (math.isfinite(total) and (math.isfinite(norm) or self.accelerator.scaler is not None)):
            self.optimizer.zero_grad()
            raise UserError(
                f"the loss of step {self.done + 1} is not a finite number; lower the learning rates (method.rate, method.text_rate) "
                "or train in fp32 (precision), then start again: the last checkpoint is kept."
            )
        return total, sum(errors) / len(errors), norm

    def save(self, folder: Path) -> None:
        """Write everything that the next step depends on, exactly: parameters, optimizer moments, the step."""
        tensors = {f"parameter.{i}": p.detach() for i, p in enumerate(self.parameters())}
        for i, parameter in enumerate(self.parameters()):
            for name, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"moment.{i}.{name}"] = torch.as_tensor(value)
        tensors["done"] = torch.tensor(self.done)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({key: value.cpu().contiguous() for key, value in tensors.items()}, folder / "state.safetensors")

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote.

        Raises:
            UserError: the checkpoint is broken or belongs to other settings.
        """
        try:
            tensors = load_file(folder / "state.safetensors")
            for i, parameter in enumerate(self.parameters()):
                parameter.data.copy_(tensors[f"parameter.{i}"])
                names = [key for key in tensors if key.startswith(f"moment.{i}.")]
                state = {key.rpartition(".")[2]: tensors[key] for key in names}
                self.optimizer.state[parameter] = {k: v.to(parameter.device) for k, v in state.items()}
            self.done = int(tensors["done"])
        except Exception as error:
            raise UserError(f"the checkpoint {folder} cannot be read; delete that folder to go on from the one before.") from error

    def parameters(self) -> list[torch.nn.Parameter]:
        """What learns, in a fixed order."""
        return [p for group in self.learner.groups for p in group.parameters]
