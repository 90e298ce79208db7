"""Does one prompt give different pictures? DIV of the paper: the mean perceptual distance of pictures of one subject and one prompt.

The paper's distance is LPIPS (Zhang et al. 2018). Its package needs torchvision, so where it is missing the patches of the identity
encoder stand in. The two are different scales: a value compares only with values of the same distance, whose name it carries.

Shape suffixes: B pictures, C channel, H height, W width, N patches, D width of an embedding.
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
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mascot.evaluation.metrics.image_encoders import IdentityEncoder
from mascot.evaluation.metrics.image_preprocessing import opaque
from mascot.generation.sample_cache import Distance

TRUNK = "alex"
"""LPIPS's network: the one its authors advise for measuring. The paper does not name its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diversity:
    """How different the pictures of a prompt are, and by which distance that was measured. High is good."""

    value: float | None
    """The mean over the prompts with two or more pictures; None where there is none."""
    prompts: tuple[float | None, ...]
    """Prompt by prompt; None for fewer than two pictures."""
    distance: str
    """What measured it, in one line: it belongs beside the value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchDistance:
    """`perceptual_distance` of an identity encoder's patches, in LPIPS's place."""

    encoder: IdentityEncoder
    reason: str = ""
    """Why it is not LPIPS."""

    @property
    def name(self) -> str:
        """Say in one line what measures, and why."""
        return f"1 - mean cosine of patches of {self.encoder.describe()}" + (
            f"; in place of LPIPS: {self.reason}" if self.reason else ""
        )

    def between(self, images: Sequence[Image.Image]) -> list[float]:
        """Measure all pairs, 0..2, in the order of `itertools.combinations`; every picture is embedded once."""
        return patch_distances(self.encoder.patches(images)) if len(images) > 1 else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Lpips:
    """LPIPS (Zhang et al. 2018) as its authors' package computes it."""

    model: Any
    device: torch.device
    version: str

    @property
    def name(self) -> str:
        """Say in one line what measures."""
        return f"LPIPS ({TRUNK}, lpips {self.version})"

    def between(self, images: Sequence[Image.Image]) -> list[float]:
        """Measure all pairs at the pictures' own size, from 0, in the order of `itertools.combinations`.

        Raises:
            ValueError: the pictures are not of one size.
        """
        if len({image.size for image in images}) > 1:
            raise ValueError("LPIPS compares pictures of one size")
        pixels_BCHW = [_pixels(image).to(self.device) for image in images]
        with torch.no_grad():
            return [float(self.model(one, other)) for one, other in itertools.combinations(pixels_BCHW, 2)]


def perceptual_distance(one_ND: Tensor, other_ND: Tensor) -> float:
    """Measure 1 - the mean cosine of corresponding patches of two pictures, in 0..2; 0 for equal pictures, and symmetric.

    The stand-in for LPIPS: that too compares deep features of a network place by place, but with learned weights and on its own scale.

    Raises:
        ValueError: there are no patches, the shapes differ, or an embedding is not finite.
    """
    if not one_ND.numel() or one_ND.shape != other_ND.shape:
        raise ValueError(
            f"each patch needs its own counterpart; the embeddings are {tuple(one_ND.shape)} and {tuple(other_ND.shape)}"
        )
    cosine = float(F.cosine_similarity(one_ND.double(), other_ND.double(), dim=-1).mean())
    if not math.isfinite(cosine):
        raise ValueError("an embedding holds what is no number")
    return max(0.0, 1 - cosine)  # rounding may pass 1


def patch_distances(patches_BND: Tensor) -> list[float]:
    """Measure `perceptual_distance` of all pairs of pictures, in the order of `itertools.combinations`."""
    return [perceptual_distance(one_ND, other_ND) for one_ND, other_ND in itertools.combinations(patches_BND, 2)]


def diversity(pairs: Sequence[float]) -> float | None:
    """Average the distances of all pairs of pictures of one subject and one prompt; None where there is no pair. High is good."""
    return sum(pairs) / len(pairs) if pairs else None


def diversity_over(prompts: Sequence[Sequence[float]]) -> float | None:
    """Average `diversity` over prompts, each counting alike however many pictures it has: DIV (Ruiz et al. 2023, table 3).

    Prompts without a pair do not count; None where no prompt has one.
    """
    return diversity([value for value in map(diversity, prompts) if value is not None])


def measure_diversity(prompts: Sequence[Sequence[Image.Image]], distance: Distance) -> Diversity:
    """Measure the pictures of each prompt, in order, and DIV over all; only pictures of one prompt are compared."""
    pairs = [distance.between(images) for images in prompts]
    return Diversity(value=diversity_over(pairs), prompts=tuple(map(diversity, pairs)), distance=distance.name)


def open_distance(encoder: IdentityEncoder) -> Distance:
    """Load LPIPS where its package is installed and works, else take the encoder's patches; the name says which, and why.

    The weights of LPIPS's trunk are fetched from the network the first time.
    """
    if find_spec("lpips") is None:
        return PatchDistance(encoder=encoder, reason="the lpips package is not installed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # the package calls torchvision in a way that torchvision warns of; nobody here can mend it
            model = import_module("lpips").LPIPS(net=TRUNK, verbose=False)
    except (
        ImportError,
        RuntimeError,
        OSError,
        AttributeError,
    ) as error:  # no torchvision, one that does not fit torch, no network
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        return PatchDistance(encoder=encoder, reason=f"the lpips package cannot be loaded ({reason})")
    return Lpips(model=model.to(encoder.device).eval(), device=encoder.device, version=_version())


def _version() -> str:
    try:
        return version("lpips")
    except PackageNotFoundError:
        return "of unknown version"


def _pixels(image: Image.Image) -> Tensor:
    """A picture as LPIPS reads it: 1 x C x H x W, -1..1."""
    return torch.from_numpy(np.array(opaque(image))).permute(2, 0, 1)[None].float() / 127.5 - 1
