"""Image codecs: an autoencoder between pixels and latents, or none for a base in pixel space.

Shape suffixes: B batch, C channel, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor, nn

from mascot.protocols import Latents

AUTOENCODER: Final = "vae"
"""The name of the autoencoder's folder in the diffusers layout."""


@dataclass(kw_only=True)
class Autoencoder:
    """The autoencoder of a latent diffusion model (Rombach et al. 2022, arXiv 2112.10752).

    It is loaded when first needed, and `release` drops it. It computes in float32 on an accelerator
    too: in half precision the autoencoders of some bases decode to black images.
    """

    load: Callable[[], nn.Module]
    device: torch.device
    loaded: Any = None

    @property
    def module(self) -> Any:
        """The loaded autoencoder; Any, as diffusers annotates its outputs as tuples."""
        if self.loaded is None:
            self.loaded = self.load().to(self.device).eval().requires_grad_(requires_grad=False)
        return self.loaded

    @property
    def is_loaded(self) -> bool:
        """Whether the autoencoder is in memory."""
        return self.loaded is not None

    @cached_property
    def factor(self) -> int:
        """Pixels per latent cell, along a side."""
        return 2 ** (len(self.module.config["block_out_channels"]) - 1)

    @cached_property
    def scale_and_shift(self) -> tuple[float, float]:
        """Scale and shift of the latents z that the denoiser reads as (z - shift) x scale."""
        config = self.module.config
        return float(config["scaling_factor"]), float(config.get("shift_factor") or 0.0)

    @torch.no_grad()
    def encode(self, pixels_BCHW: Tensor) -> Latents:
        """Encode pixels in -1..1 to scaled latents, one image at a time."""
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
        """Decode latents to pixels in 0..1, one at a time: the batch cannot change an image."""
        scale, shift = self.scale_and_shift
        rows = [self.module.decode(x0[None].to(self.device).float() / scale + shift).sample for x0 in x0_BCHW]
        return (torch.cat(rows) / 2 + 0.5).clamp(0, 1)

    def release(self) -> None:
        """Drop the autoencoder from memory; the next use loads it again."""
        _ = self.factor  # must stay known without loading
        self.loaded = None


@dataclass(frozen=True, slots=True)
class PixelSpace:
    """The codec of a base without an autoencoder: the denoiser reads pixels in -1..1."""

    factor: int = 1
    is_loaded: bool = True

    @staticmethod
    def encode(pixels_BCHW: Tensor) -> Latents:
        """Return the pixels themselves, with a deviation of 0."""
        return Latents(mean_BCHW=pixels_BCHW, deviation_BCHW=torch.zeros_like(pixels_BCHW))

    @staticmethod
    def decode(x0_BCHW: Tensor) -> Tensor:
        """Map pixels in -1..1 to 0..1."""
        return (x0_BCHW / 2 + 0.5).clamp(0, 1)

    def release(self) -> None:
        """Do nothing: there is no autoencoder to drop."""
