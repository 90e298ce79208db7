"""Recipe settings of the training loop."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from mascot.errors import UserError
from mascot.training.lr_schedule import ScheduleName
from mascot.training.optimizers import OptimizerName


class TrainingSettings(BaseModel):
    """The recipe's section `training`: length, batches, optimizer and learning-rate schedule."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=800, ge=1, le=999_999, description="optimizer steps")
    batch_size: int = Field(default=1, ge=1, le=512, description="photos in one micro-batch; class images are added")
    gradient_accumulation_steps: int = Field(default=1, ge=1, le=512, description="micro-batches in one optimizer step")
    lr_schedule: ScheduleName = Field(
        default="constant", description="learning-rate schedule after warm-up: constant, linear, cosine"
    )
    warmup_steps: int = Field(default=0, ge=0, description="steps in which the learning rates rise from 0")
    min_snr: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="limit of min-SNR weighting; none trains with plain MSE"
    )
    optimizer: OptimizerName = Field(default="adamw", description="adamw, adamw8bit, prodigy, schedule-free")
    weight_decay: float = Field(default=0.01, ge=0, le=10, description="decoupled weight decay")
    ema_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="decay of the weight average that is exported; none exports the last weights",
    )
    offset_noise: float = Field(
        default=0.0, ge=0, le=1, description="share of noise that is constant in a channel: darker and lighter images"
    )
    gradient_checkpointing: bool = Field(default=False, description="recompute activations instead of keeping them")
    compile: bool = Field(default=False, description="compile the denoiser: slow to start, faster steps")
    max_grad_norm: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="limit of the gradients' global norm"
    )
    checkpoint_every: int = Field(default=200, ge=1, description="steps between two checkpoints")

    def check(self) -> None:
        """Check that the settings do not contradict each other.

        Raises:
            UserError: an optimizer that keeps its own average is combined with a learning-rate
                schedule or a second average.
        """
        if self.optimizer == "schedule-free" and self.lr_schedule != "constant":
            raise UserError(
                f"schedule-free takes no schedule such as {self.lr_schedule}; give --set training.lr_schedule=constant."
            )
        if self.optimizer == "schedule-free" and self.ema_decay is not None:
            raise UserError("schedule-free keeps an average of its own; give --set training.ema_decay=none.")
