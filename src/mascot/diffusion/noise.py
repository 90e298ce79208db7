"""Seeded noise: one generator for each sample, so that a picture is the same in any batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from mascot.protocols import Latents


def seeded(*key: int | str) -> Generator:
    """Make a CPU generator from any numbers and words; equal keys give equal noise on every machine."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def gaussian(shape: Sequence[int], generators: Sequence[Generator]) -> Tensor:
    """Draw standard noise, one row from each generator. Shape len(generators) x *shape, float32, on the CPU."""
    return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators])


def offset(eps_BCHW: Tensor, amount: float, generators: Sequence[Generator]) -> Tensor:
    """Shift each example's noise by `amount` x one normal number a channel, from its own generator (Guttenberg 2023, offset noise).

    Whole pictures then become darker and brighter, which pure noise hardly teaches. An amount of 0 draws nothing and gives the same tensor.
    """
    if amount == 0:
        return eps_BCHW
    return eps_BCHW + amount * gaussian((eps_BCHW.shape[1], 1, 1), generators).to(eps_BCHW)


def sample(latents: Latents, generators: Sequence[Generator]) -> Tensor:
    """Draw each picture's latents from its own generator. Shape B x C x H x W."""
    noise = gaussian(latents.mean_BCHW.shape[1:], generators).to(latents.mean_BCHW)
    return latents.mean_BCHW + latents.deviation_BCHW * noise


def join(parts: Sequence[Latents]) -> Latents:
    """Put several batches of latents of one size into one."""
    mean = torch.cat([part.mean_BCHW for part in parts])
    return Latents(mean_BCHW=mean, deviation_BCHW=torch.cat([part.deviation_BCHW for part in parts]))
