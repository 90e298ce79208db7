"""Seeded noise: each sample has its own generator, so an image is the same in any batch.

Shape suffixes: B batch, C channel, H height, W width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from mascot.protocols import Latents


def seeded(*key: int | str) -> Generator:
    """Make a CPU generator from numbers and words; its seed is 63 bits of the key's SHA-256.

    Equal keys give equal noise on every machine.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def gaussian(shape: Sequence[int], generators: Sequence[Generator]) -> Tensor:
    """Draw standard normal noise, one row from each generator.

    The result has shape len(generators) x *shape, in float32 on the CPU.
    """
    return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators])


def add_offset_noise(eps_BCHW: Tensor, strength: float, generators: Sequence[Generator]) -> Tensor:
    """Shift each channel of each example's noise by `strength` x one normal number.

    This is offset noise (Guttenberg 2023, "Diffusion with Offset Noise", a note without an arXiv
    number). It trains changes of the whole image's brightness, which pure noise hardly trains. Each
    example's numbers come from its own generator. A strength of 0 draws nothing and returns the
    same tensor.
    """
    if strength == 0:
        return eps_BCHW
    return eps_BCHW + strength * gaussian((eps_BCHW.shape[1], 1, 1), generators).to(eps_BCHW)


def sample_latents(latents: Latents, generators: Sequence[Generator]) -> Tensor:
    """Sample each image's latents: mean + deviation x noise. Shape B x C x H x W.

    This is the reparameterization of a VAE's posterior (Kingma and Welling 2013, arXiv 1312.6114,
    section 2.4). Each image's noise comes from its own generator.
    """
    noise = gaussian(latents.mean_BCHW.shape[1:], generators).to(latents.mean_BCHW)
    return latents.mean_BCHW + latents.deviation_BCHW * noise


def join_latents(parts: Sequence[Latents]) -> Latents:
    """Concatenate latents of one size along the batch dimension."""
    mean = torch.cat([part.mean_BCHW for part in parts])
    return Latents(mean_BCHW=mean, deviation_BCHW=torch.cat([part.deviation_BCHW for part in parts]))
