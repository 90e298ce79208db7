"""Diversity: DIV of DreamBooth, the mean perceptual distance between the images of one prompt.

DIV averages LPIPS (Zhang et al. 2018, arXiv 1801.03924) over pairs of images of one subject and one
prompt (Ruiz et al. 2023, arXiv 2208.12242, table 3). The lpips package needs torchvision. Where it
is missing, a distance of the identity encoder's patches replaces it. The two have different scales:
compare values of one distance only, whose name stands beside each value.

Shape suffixes: B images, C channel, H height, W width, N patches, D width of an embedding.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from mascot.evaluation.metrics.image_encoders import IdentityEncoder
from mascot.evaluation.metrics.image_preprocessing import opaque
from mascot.generation.sample_cache import Distance

TRUNK = "alex"
"""LPIPS's network, the one that its authors advise for measuring.

The DreamBooth paper does not name its own.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diversity:
    """DIV of a set of prompts, and the distance that measured it; high values are better."""

    value: float | None
    """Mean over the prompts with two or more images; None where there is none."""
    prompts: tuple[float | None, ...]
    """Value of each prompt; None for fewer than two images."""
    distance: str
    """Name of the distance in one line; it belongs beside the value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchDistance:
    """Distance of an identity encoder's patches (`perceptual_distance`), in place of LPIPS."""

    encoder: IdentityEncoder
    reason: str = ""
    """Why LPIPS is not used."""

    @property
    def name(self) -> str:
        """Name of the distance in one line, with the reason."""
        return f"1 - mean cosine of patches of {self.encoder.describe()}" + (
            f"; in place of LPIPS: {self.reason}" if self.reason else ""
        )

    def between(self, images: Sequence[Image.Image]) -> list[float]:
        """Measure all pairs, each in 0..2, in the order of `itertools.combinations`.

        Each image is embedded once.
        """
        return patch_distances(self.encoder.patches(images)) if len(images) > 1 else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Lpips:
    """LPIPS (Zhang et al. 2018) as its authors' package computes it."""

    model: nn.Module
    device: torch.device
    version: str

    @property
    def name(self) -> str:
        """Name of the distance in one line."""
        return f"LPIPS ({TRUNK}, lpips {self.version})"

    def between(self, images: Sequence[Image.Image]) -> list[float]:
        """Measure all pairs at the images' own size, in the order of `itertools.combinations`.

        The values start at 0.

        Raises:
            ValueError: the images differ in size.
        """
        if len({image.size for image in images}) > 1:
            raise ValueError("LPIPS compares images of one size")
        pixels_BCHW = [_pixels(image).to(self.device) for image in images]
        with torch.no_grad():
            return [float(self.model(one, other)) for one, other in itertools.combinations(pixels_BCHW, 2)]


def perceptual_distance(one_ND: Tensor, other_ND: Tensor) -> float:
    """Compute 1 minus the mean cosine of corresponding patches of two images, in 0..2.

    It is symmetric, and 0 for equal images. It stands in for LPIPS, which also compares deep
    features of a network position by position, but with learned weights and on its own scale.

    Raises:
        ValueError: there are no patches, the shapes differ, or an embedding is not finite.
    """
    if not one_ND.numel() or one_ND.shape != other_ND.shape:
        shapes = f"{tuple(one_ND.shape)} and {tuple(other_ND.shape)}"
        raise ValueError(f"each patch needs its own counterpart; the embeddings are {shapes}")
    cosine = float(F.cosine_similarity(one_ND.double(), other_ND.double(), dim=-1).mean())
    if not math.isfinite(cosine):
        raise ValueError("an embedding is not finite")
    return max(0.0, 1 - cosine)  # rounding may pass 1


def patch_distances(patches_BND: Tensor) -> list[float]:
    """Compute `perceptual_distance` of all pairs, in the order of `itertools.combinations`."""
    return [perceptual_distance(one_ND, other_ND) for one_ND, other_ND in itertools.combinations(patches_BND, 2)]


def diversity(pairs: Sequence[float]) -> float | None:
    """Average the distances of all pairs of images of one subject and one prompt.

    None where there is no pair. High values are better.
    """
    return sum(pairs) / len(pairs) if pairs else None


def diversity_over(prompts: Sequence[Sequence[float]]) -> float | None:
    """Compute DIV (Ruiz et al. 2023, table 3): the mean of `diversity` over prompts.

    Each prompt has the same weight, however many images it has. Prompts without a pair do not
    count. None where no prompt has one.
    """
    return diversity([value for value in map(diversity, prompts) if value is not None])


def measure_diversity(prompts: Sequence[Sequence[Image.Image]], distance: Distance) -> Diversity:
    """Measure the images of each prompt, and DIV over all prompts.

    Only images of one prompt are compared.
    """
    pairs = [distance.between(images) for images in prompts]
    return Diversity(value=diversity_over(pairs), prompts=tuple(map(diversity, pairs)), distance=distance.name)


def open_distance(encoder: IdentityEncoder) -> Distance:
    """Load LPIPS if its package is installed and works, else use the encoder's patches.

    The name of the distance says which, and why. LPIPS downloads the weights of its trunk on first
    use.
    """
    if find_spec("lpips") is None:
        return PatchDistance(encoder=encoder, reason="the lpips package is not installed")
    try:
        with warnings.catch_warnings():
            # The package calls torchvision in a deprecated way, which a user cannot fix.
            warnings.simplefilter("ignore")
            model = import_module("lpips").LPIPS(net=TRUNK, verbose=False)
    # There is no torchvision, it does not fit torch, or there is no network.
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        return PatchDistance(encoder=encoder, reason=f"the lpips package cannot be loaded ({reason})")
    return Lpips(model=model.to(encoder.device).eval(), device=encoder.device, version=_version())


def _version() -> str:
    try:
        return version("lpips")
    except PackageNotFoundError:
        return "of unknown version"


def _pixels(image: Image.Image) -> Tensor:
    """Convert an image to the input of LPIPS. Shape 1 x C x H x W, -1..1."""
    return torch.from_numpy(np.array(opaque(image))).permute(2, 0, 1)[None].float() / 127.5 - 1
