"""TODO diffusion.solvers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

SOLVERS: Mapping[str, tuple[Any, Mapping[str, Any]]] = {
    "ddim": (DDIMScheduler, {}),
    "dpm++": (DPMSolverMultistepScheduler, {"final_sigmas_type": "zero"}),
    "euler": (EulerDiscreteScheduler, {}),
    "unipc": (UniPCMultistepScheduler, {}),
}


@dataclass(frozen=True, slots=True)
class EulerSolver:
    """Euler's method along the flow, behind the interface that diffusion solvers have."""

    scheduler: FlowMatchEulerDiscreteScheduler
    init_noise_sigma: float = 1.0

    @property
    def timesteps(self) -> Tensor:
        """Levels of the steps, falling."""
        timesteps: Any = self.scheduler.timesteps
        return timesteps

    @staticmethod
    def scale_model_input(sample: Tensor, timestep: Tensor) -> Tensor:
        """Flows need no scaling."""
        del timestep
        return sample

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, **options: Any) -> Any:
        """Take one step."""
        return self.scheduler.step(model_output, timestep, sample, **options)  # pyright: ignore[reportArgumentType]


def shift_for(config: Any, tokens: int) -> float:
    """How far larger pictures are shifted towards noise: linear in the number of picture tokens (the scheduler's own settings)."""
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    least, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return least + (most - least) * (tokens - low) / (high - low)
