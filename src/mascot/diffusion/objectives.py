"""What denoisers are trained to answer: noising, targets and per-level weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from mascot.errors import UserError


@dataclass(frozen=True, slots=True)
class DiffusionObjective:
    """Variance-preserving diffusion over T discrete levels (DDPM, Ho et al. 2020), answered as noise or as velocity.

    `alphas_cumprod_T` falls from nearly 1 to nearly 0; it is exactly 0 at the end for zero terminal SNR (Lin et al. 2023).
    """

    alphas_cumprod_T: Tensor
    prediction: Literal["epsilon", "v_prediction"]

    def sample_timesteps(self, generators: Sequence[Generator]) -> Tensor:
        """Draw one of the T levels per generator, each as likely. Shape B, int64."""
        count = len(self.alphas_cumprod_T)
        return torch.cat([torch.randint(0, count, (1,), generator=generator) for generator in generators])

    def signal(self, timestep_B: Tensor) -> tuple[Tensor, Tensor]:
        """How much picture and how much noise is in a mix of a level; both B x 1 x 1 x 1."""
        alpha = self.alphas_cumprod_T.to(timestep_B.device)[timestep_B].view(-1, 1, 1, 1)
        return alpha.sqrt(), (1 - alpha).sqrt()

    def noise(self, x0_BCHW: Tensor, eps_BCHW: Tensor, timestep_B: Tensor) -> Tensor:
        """Mix: sqrt(a) x0 + sqrt(1 - a) eps (DDPM, eq. 4)."""
        signal, noise = self.signal(timestep_B)
        return signal * x0_BCHW + noise * eps_BCHW

    def target(self, x0_BCHW: Tensor, eps_BCHW: Tensor, timestep_B: Tensor) -> Tensor:
        """The noise, or the velocity sqrt(a) eps - sqrt(1 - a) x0 (Salimans & Ho 2022, appendix D)."""
        if self.prediction == "epsilon":
            return eps_BCHW
        signal, noise = self.signal(timestep_B)
        return signal * eps_BCHW - noise * x0_BCHW

    def weight(self, timestep_B: Tensor, min_snr: float | None) -> Tensor:
        """Weigh levels so that easy ones stop dominating (Hang et al. 2023, eq. 8); ones where `min_snr` is None.

        With the signal-to-noise ratio s = a / (1 - a) and the limit g: min(s, g) / s for noise, min(s, g) / (s + 1) for velocity.
        At zero terminal SNR, where s is 0, that is 1 and 0.
        """
        if min_snr is None:
            return torch.ones(len(timestep_B), device=timestep_B.device)
        alpha = self.alphas_cumprod_T.to(timestep_B.device)[timestep_B]
        snr = alpha / (1 - alpha)
        if self.prediction == "epsilon":
            return (min_snr / snr).clamp(max=1)  # the same, and 1 where there is no signal at all
        return snr.clamp(max=min_snr) / (snr + 1)


@dataclass(frozen=True, slots=True)
class FlowObjective:
    """Rectified flow (Liu et al. 2022, arXiv 2209.03003; Esser et al. 2024, arXiv 2403.03206): straight lines from pictures to noise.

    `timesteps_T` are the base's own T levels, from near T down; level t mixes t / T of noise.
    """

    timesteps_T: Tensor

    def sample_timesteps(self, generators: Sequence[Generator]) -> Tensor:
        """Draw one level per generator, logit-normal over the table (Esser et al. 2024, section 3.1, m = 0, s = 1). Shape B, float32."""
        count = len(self.timesteps_T)
        generated = torch.cat([torch.randn(1, generator=generator) for generator in generators])
        return self.timesteps_T[(generated.sigmoid() * count).long().clamp(max=count - 1).to(self.timesteps_T.device)]

    def share(self, timestep_B: Tensor) -> Tensor:
        """How much noise is in a mix of a level, 0..1; B x 1 x 1 x 1."""
        return (timestep_B / len(self.timesteps_T)).view(-1, 1, 1, 1)

    def noise(self, x0_BCHW: Tensor, eps_BCHW: Tensor, timestep_B: Tensor) -> Tensor:
        """Mix: (1 - s) x0 + s eps."""
        share = self.share(timestep_B)
        return (1 - share) * x0_BCHW + share * eps_BCHW

    def target(self, x0_BCHW: Tensor, eps_BCHW: Tensor, timestep_B: Tensor) -> Tensor:
        """The line's direction, eps - x0."""
        del timestep_B
        return eps_BCHW - x0_BCHW

    def weight(self, timestep_B: Tensor, min_snr: float | None) -> Tensor:
        """Ones: the logit-normal draw is the weighting.

        Raises:
            UserError: min-SNR is asked for, which is defined for diffusion alone.
        """
        if min_snr is not None:
            raise UserError(
                "min-SNR weights diffusion levels, and this base was trained on flows; give --set training.min_snr=none."
            )
        return torch.ones(len(timestep_B), device=timestep_B.device)
