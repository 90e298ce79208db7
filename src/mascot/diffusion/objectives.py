"""Training objectives: noising, what the denoiser predicts, and the weights of timesteps.

Shape suffixes: B batch, C channel, H height, W width, T timesteps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from mascot.errors import UserError


@dataclass(frozen=True, slots=True)
class DiffusionObjective:
    """Variance-preserving diffusion over T discrete timesteps.

    This is DDPM (Ho et al. 2020, arXiv 2006.11239). The denoiser predicts the noise, or the
    velocity (Salimans and Ho 2022, arXiv 2202.00512).
    """

    alphas_cumprod_T: Tensor
    """The cumulated signal variance a of each timestep, falling from nearly 1 to nearly 0.

    The last one is exactly 0 at zero terminal SNR (Lin et al. 2023, arXiv 2305.08891).
    """
    prediction: Literal["epsilon", "v_prediction"]

    def sample_timesteps(self, generators: Sequence[Generator]) -> Tensor:
        """Draw one of the T timesteps per generator, uniformly (DDPM, algorithm 1).

        The result has shape B and dtype int64.
        """
        count = len(self.alphas_cumprod_T)
        return torch.cat([torch.randint(0, count, (1,), generator=generator) for generator in generators])

    def signal_and_noise(self, timestep_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return sqrt(a) and sqrt(1 - a) of timesteps (DDPM, eq. 4); both B x 1 x 1 x 1."""
        alpha = self.alphas_cumprod_T.to(timestep_B.device)[timestep_B].view(-1, 1, 1, 1)
        return alpha.sqrt(), (1 - alpha).sqrt()

    def noise(self, x0_BCHW: Tensor, eps_BCHW: Tensor, timestep_B: Tensor) -> Tensor:
        """Mix x0 and noise: x_t = sqrt(a) x0 + sqrt(1 - a) eps (DDPM, eq. 4)."""
        signal, noise = self.signal_and_noise(timestep_B)
        return signal * x0_BCHW + noise * eps_BCHW

    def target(self, x0_BCHW: Tensor, eps_BCHW: Tensor, timestep_B: Tensor) -> Tensor:
        """Return what the denoiser shall predict: the noise (DDPM, eq. 14), or the velocity.

        The velocity is sqrt(a) eps - sqrt(1 - a) x0 (Salimans and Ho 2022, arXiv 2202.00512,
        appendix D).
        """
        if self.prediction == "epsilon":
            return eps_BCHW
        signal, noise = self.signal_and_noise(timestep_B)
        return signal * eps_BCHW - noise * x0_BCHW

    def weight(self, timestep_B: Tensor, min_snr: float | None) -> Tensor:
        """Return min-SNR weights (Hang et al. 2023, arXiv 2303.09556, eq. 8), or ones. Shape B.

        They keep timesteps with little noise from dominating. Let s = a / (1 - a) be the
        signal-to-noise ratio and g the limit `min_snr`. The weight is min(s, g) / s for noise and
        min(s, g) / (s + 1) for velocity. At zero terminal SNR s is 0, and these are 1 and 0.
        """
        if min_snr is None:
            return torch.ones(len(timestep_B), device=timestep_B.device)
        alpha = self.alphas_cumprod_T.to(timestep_B.device)[timestep_B]
        snr = alpha / (1 - alpha)
        if self.prediction == "epsilon":
            return (min_snr / snr).clamp(max=1)  # equal to min(s, g) / s, and 1 where s is 0
        return snr.clamp(max=min_snr) / (snr + 1)


@dataclass(frozen=True, slots=True)
class FlowObjective:
    """Rectified flow: straight lines from images to noise (Liu et al. 2022, arXiv 2209.03003).

    Schedule and timestep distribution are those of Esser et al. 2024 (arXiv 2403.03206).
    """

    timesteps_T: Tensor
    """The base's own T timesteps, from near T down. Timestep t has a noise share sigma of t / T."""

    def sample_timesteps(self, generators: Sequence[Generator]) -> Tensor:
        """Draw one timestep per generator, logit-normal over the base's own. Shape B, float32.

        The distribution is that of Esser et al. 2024, section 3.1, eq. 19, with m = 0 and s = 1.
        """
        count = len(self.timesteps_T)
        normal_B = torch.cat([torch.randn(1, generator=generator) for generator in generators])
        return self.timesteps_T[(normal_B.sigmoid() * count).long().clamp(max=count - 1).to(self.timesteps_T.device)]

    def sigma(self, timestep_B: Tensor) -> Tensor:
        """Return the share of noise at timesteps, 0..1; B x 1 x 1 x 1."""
        return (timestep_B / len(self.timesteps_T)).view(-1, 1, 1, 1)

    def noise(self, x0_BCHW: Tensor, eps_BCHW: Tensor, timestep_B: Tensor) -> Tensor:
        """Mix x0 and noise: x_t = (1 - sigma) x0 + sigma eps (Esser et al. 2024, eq. 13)."""
        sigma = self.sigma(timestep_B)
        return (1 - sigma) * x0_BCHW + sigma * eps_BCHW

    def target(self, x0_BCHW: Tensor, eps_BCHW: Tensor, timestep_B: Tensor) -> Tensor:
        """Return the velocity of the straight line, eps - x0 (Liu et al. 2022, eq. 1)."""
        del timestep_B
        return eps_BCHW - x0_BCHW

    def weight(self, timestep_B: Tensor, min_snr: float | None) -> Tensor:
        """Return ones: the logit-normal distribution is the weighting (Esser et al. 2024). Shape B.

        Raises:
            UserError: `min_snr` is given, which is defined for diffusion alone.
        """
        if min_snr is not None:
            raise UserError(
                "min-SNR weights diffusion timesteps, and this base was trained with flow matching; "
                "give --set training.min_snr=none."
            )
        return torch.ones(len(timestep_B), device=timestep_B.device)
