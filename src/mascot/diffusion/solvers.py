"""The solvers: diffusers' schedulers by short names, and Euler's method for flows."""

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

SOLVERS: Mapping[str, tuple[Any, Mapping[str, str]]] = {
    "ddim": (DDIMScheduler, {}),
    "dpm++": (DPMSolverMultistepScheduler, {"final_sigmas_type": "zero"}),
    "euler": (EulerDiscreteScheduler, {}),
    "unipc": (UniPCMultistepScheduler, {}),
}
"""Name -> scheduler class and its options beside the base's own schedule; all are deterministic.

- ddim: DDIM (Song et al. 2020, arXiv 2010.02502, eq. 12, with no noise between steps)
- dpm++: multistep DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095)
- euler: Euler's method in sigma (Karras et al. 2022, arXiv 2206.00364, algorithm 2 without churn)
- unipc: UniPC (Zhao et al. 2023, arXiv 2302.04867)
"""


@dataclass(frozen=True, slots=True)
class EulerSolver:
    """Euler's method for flows, with `Solver`'s interface (Liu et al. 2022, arXiv 2209.03003)."""

    scheduler: FlowMatchEulerDiscreteScheduler
    init_noise_sigma: float = 1.0

    @property
    def timesteps(self) -> Tensor:
        """The timesteps of the steps, falling."""
        timesteps: Any = self.scheduler.timesteps  # annotated as a type of tensor that it is not
        return timesteps

    @staticmethod
    def scale_model_input(sample: Tensor, timestep: Tensor) -> Tensor:
        """Return the input as it is: flows need no scaling."""
        del timestep
        return sample

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, **options: Any) -> Any:
        """Take one step along the predicted velocity."""
        return self.scheduler.step(model_output, timestep, sample, **options)  # pyright: ignore[reportArgumentType]

    def set_begin_index(self, begin_index: int) -> None:
        """Say which step is taken first, from 0."""
        self.scheduler.set_begin_index(begin_index)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Mix images and noise at timesteps: x_t = (1 - sigma) x0 + sigma eps."""
        mixed: Any = self.scheduler
        return mixed.scale_noise(original_samples, timesteps, noise)


def timestep_shift(config: Mapping[str, Any], tokens: int) -> float:
    """Return the timestep shift mu for a number of image tokens.

    Larger images need more noise to lose their signal (Esser et al. 2024, arXiv 2403.03206, section
    5.3.2, eq. 23). The shift alpha of that paper is exp(mu). As in FLUX.1's reference code, mu is
    linear in the tokens, between the scheduler's own settings.
    """
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    least, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return least + (most - least) * (tokens - low) / (high - low)
