"""What a base's encoders say of pictures and prompts, each asked once: by one run, or by all the runs that share a base.

Only what untouched encoders say is kept here: the autoencoder never learns, and text that learns is not asked through this file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, fields
from typing import TypeVar

import torch
from torch import Tensor

from mascot.protocols import Conditioning, Framing, Latents, Stage


class CachedConditioning:
    """Prompts to conditioning, computed once per prompt and framing while the text encoders stay as they are."""

    def __init__(self, encoders: CachedEncoders) -> None:
        self.encoders = encoders
        self.known: dict[tuple[str, Framing], Conditioning] = {}

    def prepare(self, pairs: Sequence[tuple[str, Framing]]) -> None:
        """Compute what is not known yet, one prompt at a time, so that the batch cannot change it."""
        for pair in pairs:
            if pair not in self.known:
                self.known[pair] = self.encoders.condition(*pair)

    def __call__(self, prompts: Sequence[str], framings: Sequence[Framing]) -> Conditioning:
        """Join the rows of a batch."""
        pairs = list(zip(prompts, framings, strict=True))
        self.prepare(pairs)
        return {name: torch.cat([self.known[pair][name] for pair in pairs]) for name in self.known[pairs[0]]}


MOST = 2**30
"""Bytes that are kept of one base; what comes after is asked again."""


Encoding = TypeVar("Encoding", Latents, Conditioning)


class EncodingCache:
    """Answers of one loaded base, of all its stages; they are shared, so nobody may write into them."""

    def __init__(self, most: int = MOST) -> None:
        self.most, self.size = most, 0
        self.kept: dict[Hashable, Latents | Conditioning] = {}

    def recall(self, key: Hashable, ask: Callable[[], Encoding]) -> Encoding:
        """The answer that is kept under a key, or the one that is now asked for; kept where there is room."""
        if key in self.kept:
            return self.kept[key]  # pyright: ignore[reportReturnType] # a key is of one kind of answer
        encoding = ask()
        size = sum(tensor.nbytes for tensor in tensors_of(encoding))
        if self.size + size <= self.most:
            self.kept[key], self.size = encoding, self.size + size
        return encoding


@dataclass(frozen=True, slots=True)
class CachedEncoders:
    """One stage's encoders, which are asked what is not known yet."""

    stage: Stage
    number: int = 0
    """Of the stage in its base."""
    known: EncodingCache = field(default_factory=EncodingCache)

    def encode(self, pixels_BCHW: Tensor) -> Latents:
        """Pixels in -1..1 to latents, as `Stage.encode` gives them."""
        digest = hashlib.sha256(pixels_BCHW.contiguous().numpy().tobytes()).hexdigest()
        return self.known.recall(
            (self.number, tuple(pixels_BCHW.shape), digest), lambda: self.stage.encode(pixels_BCHW)
        )

    def condition(self, prompt: str, framing: Framing) -> Conditioning:
        """One prompt to what the denoiser is told, as `Stage.condition` gives it; without gradients."""
        with torch.no_grad():
            return self.known.recall((self.number, prompt, framing), lambda: self.stage.condition([prompt], [framing]))


def tensors_of(encoding: Latents | Conditioning) -> list[Tensor]:
    """The tensors of an answer."""
    return (
        [getattr(encoding, part.name) for part in fields(encoding)]
        if isinstance(encoding, Latents)
        else list(encoding.values())
    )
