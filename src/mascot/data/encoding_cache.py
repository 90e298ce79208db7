"""Cache the latents and text embeddings of a base model, for one run or all runs on that base.

The cache holds outputs of the base model's own encoders. The autoencoder is never trained, and a
text encoder that is trained is called directly, not through this file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, fields
from typing import TypeVar

import torch
from torch import Tensor

from mascot.protocols import Conditioning, Framing, Latents, Stage

MAX_BYTES = 2**30
"""Bytes that are cached of one base model; encodings beyond that are computed at each use."""

Encoding = TypeVar("Encoding", Latents, Conditioning)


class EncodingCache:
    """Encodings of one loaded base model, of all its stages.

    The tensors are shared between callers, so nobody may write into them.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes, self.size = max_bytes, 0
        self.encodings: dict[Hashable, Latents | Conditioning] = {}

    def get_or_compute(self, key: Hashable, compute: Callable[[], Encoding]) -> Encoding:
        """Return the encoding under a key, or compute it, and store it if `max_bytes` allows."""
        if key in self.encodings:
            return self.encodings[key]  # pyright: ignore[reportReturnType] # all encodings of a key are of one type
        encoding = compute()
        size = sum(tensor.nbytes for tensor in tensors_of(encoding))
        if self.size + size <= self.max_bytes:
            self.encodings[key], self.size = encoding, self.size + size
        return encoding


@dataclass(frozen=True, slots=True)
class CachedEncoders:
    """The encoders of one stage, which compute only what the cache does not hold."""

    stage: Stage
    index: int = 0
    """Index of the stage in its base model."""
    cache: EncodingCache = field(default_factory=EncodingCache)

    def encode(self, pixels_BCHW: Tensor) -> Latents:
        """Encode pixels in -1..1 as latents, see `Stage.encode`."""
        digest = hashlib.sha256(pixels_BCHW.contiguous().numpy().tobytes()).hexdigest()
        key = (self.index, tuple(pixels_BCHW.shape), digest)
        return self.cache.get_or_compute(key, lambda: self.stage.encode(pixels_BCHW))

    def condition(self, prompt: str, framing: Framing) -> Conditioning:
        """Encode one prompt as conditioning, see `Stage.condition`, without gradients."""
        key = (self.index, prompt, framing)
        with torch.no_grad():
            return self.cache.get_or_compute(key, lambda: self.stage.condition([prompt], [framing]))


class CachedConditioning:
    """The conditioning of prompts, computed once per prompt and framing while `max_bytes` allows.

    It may be used only while the text encoders do not change. Beyond `max_bytes` the oldest rows
    are dropped, and computed again where they are needed.
    """

    def __init__(self, encoders: CachedEncoders, max_bytes: int = MAX_BYTES) -> None:
        self.encoders = encoders
        self.max_bytes, self.size = max_bytes, 0
        self.rows: dict[tuple[str, Framing], Conditioning] = {}

    def prepare(self, pairs: Sequence[tuple[str, Framing]]) -> None:
        """Compute the missing rows, one prompt at a time, so that the batch cannot change them."""
        for pair in pairs:
            if pair not in self.rows:
                self.rows[pair] = self.encoders.condition(*pair)
                self.size += self.bytes_of(pair)
        present = set(pairs)
        while self.size > self.max_bytes and (old := next((row for row in self.rows if row not in present), None)):
            self.size -= self.bytes_of(old)
            del self.rows[old]

    def bytes_of(self, pair: tuple[str, Framing]) -> int:
        """Return the size of a row."""
        return sum(tensor.nbytes for tensor in self.rows[pair].values())

    def __call__(self, prompts: Sequence[str], framings: Sequence[Framing]) -> Conditioning:
        """Join the rows of a batch."""
        pairs = list(zip(prompts, framings, strict=True))
        self.prepare(pairs)
        return {name: torch.cat([self.rows[pair][name] for pair in pairs]) for name in self.rows[pairs[0]]}


def tensors_of(encoding: Latents | Conditioning) -> list[Tensor]:
    """List the tensors of an encoding."""
    if isinstance(encoding, Latents):
        return [getattr(encoding, part.name) for part in fields(encoding)]
    return list(encoding.values())
