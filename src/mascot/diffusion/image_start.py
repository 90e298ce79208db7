"""Denoising that starts between noise and an image, and the blending of inpainting.

Shape suffixes: B batch, C channel, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mascot.diffusion.solvers import EulerSolver
from mascot.protocols import Solver


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageStart:
    """An image that denoising starts from: SDEdit (Meng et al. 2021, arXiv 2108.01073).

    With a mask, everything outside it returns to the image at each step, noised as the step is
    (blended diffusion, Avrahami et al. 2022, arXiv 2206.02779, algorithm 1).
    """

    x0_BCHW: Tensor
    """Latents of the image, on the CPU."""
    strength: float
    """The share of the steps that are taken, above 0 and up to 1."""
    mask_B1HW: Tensor | None = None
    """The weight of what is generated in each cell, 0..1; None generates everywhere."""

    def begin(self, noise_BCHW: Tensor, solver: Solver) -> tuple[Tensor, int]:
        """Mix image and noise for the first step that is taken; returns the mix and its number.

        Where no step is left out the mix is the noise alone, as without an image.
        """
        first = first_step(solver, self.strength)
        assert first < len(solver.timesteps), "a strength that leaves no step is refused before"
        # DDIM has no such method: it finds each step by its timestep.
        begin = getattr(solver, "set_begin_index", None)
        if begin is not None:
            begin(first)
        if first == 0:
            return noise_BCHW * float(solver.init_noise_sigma), first
        return self.noised(noise_BCHW, solver, first), first

    def noised(self, noise_BCHW: Tensor, solver: Solver, number: int) -> Tensor:
        """Noise the image as the step of this number, from 0, expects it; clean after the last."""
        if number == len(solver.timesteps):
            return self.x0_BCHW
        return solver.add_noise(self.x0_BCHW, noise_BCHW, solver.timesteps[number].expand(len(noise_BCHW)))

    def blend(self, x_BCHW: Tensor, noise_BCHW: Tensor, solver: Solver, number: int) -> Tensor:
        """Put the image back outside the mask, before the step of this number."""
        if self.mask_B1HW is None:
            return x_BCHW
        return (1 - self.mask_B1HW) * self.noised(noise_BCHW, solver, number) + self.mask_B1HW * x_BCHW


def first_step(solver: Solver, strength: float) -> int:
    """Return the number of the first step that a strength takes, from 0; the count where none is.

    A step that the strength takes in part is left out in diffusion, and taken in flows. So do
    diffusers' pipelines, whose images are the same.
    """
    count = len(solver.timesteps)
    if isinstance(solver, EulerSolver):
        return int(max(count - count * strength, 0))
    return count - min(int(count * strength), count)
