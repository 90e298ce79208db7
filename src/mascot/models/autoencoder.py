"""TODO models.autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor, nn

from mascot.protocols import Latents

AUTOENCODER: Final = "vae"


@dataclass(kw_only=True)
class Autoencoder:
    """Pixels to latents and back. Loaded when first needed, and let go between; in float32 on an accelerator too.

    In half precision the autoencoders of some bases turn pictures black.
    """

    load: Callable[[], nn.Module]
    device: torch.device
    loaded: Any = None

    @property
    def module(self) -> Any:
        """The autoencoder itself; diffusers annotates its answers as tuples, which they are not."""
        if self.loaded is None:
            self.loaded = self.load().to(self.device).eval().requires_grad_(requires_grad=False)
        return self.loaded

    @cached_property
    def factor(self) -> int:
        """Pixels to a latent, along a side."""
        return 2 ** (len(self.module.config["block_out_channels"]) - 1)

    @cached_property
    def scale_and_shift(self) -> tuple[float, float]:
        """What turns the autoencoder's latents into the denoiser's: (z - shift) x scale."""
        config: Any = self.module.config
        return float(config["scaling_factor"]), float(config.get("shift_factor") or 0.0)

    @torch.no_grad()
    def encode(self, pixels_BCHW: Tensor) -> Latents:
        """Encode pixels in -1..1, one picture at a time, to scaled latents."""
        scale, shift = self.scale_and_shift
        posteriors = [
            self.module.encode(pixels[None].to(self.device, torch.float32)).latent_dist for pixels in pixels_BCHW
        ]
        mean = torch.cat([posterior.mean for posterior in posteriors])
        return Latents(
            mean_BCHW=(mean - shift) * scale,
            deviation_BCHW=torch.cat([posterior.std for posterior in posteriors]) * scale,
        )

    @torch.no_grad()
    def decode(self, x0_BCHW: Tensor) -> Tensor:
        """Decode latents to pixels in 0..1, one picture at a time, so that the batch cannot change a picture."""
        scale, shift = self.scale_and_shift
        rows = [self.module.decode(x0[None].to(self.device).float() / scale + shift).sample for x0 in x0_BCHW]
        return (torch.cat(rows) / 2 + 0.5).clamp(0, 1)

    def release(self) -> None:
        """Let it leave memory."""
        _ = self.factor
        self.loaded = None


@dataclass(frozen=True, slots=True)
class PixelSpace:
    """No autoencoder: the denoiser sees pixels in -1..1."""

    factor: int = 1

    @staticmethod
    def encode(pixels_BCHW: Tensor) -> Latents:
        """The pixels themselves."""
        return Latents(mean_BCHW=pixels_BCHW, deviation_BCHW=torch.zeros_like(pixels_BCHW))

    @staticmethod
    def decode(x0_BCHW: Tensor) -> Tensor:
        """Pixels in 0..1."""
        return (x0_BCHW / 2 + 0.5).clamp(0, 1)

    def release(self) -> None:
        """Nothing to let go."""
