"""Chunks of a prompt whose tokens have weights, and how weights act on a text encoder's states.

A text encoder reads a chunk at a time, each with its own start and end. The states of all chunks
stand one after the other along the tokens, which cross-attention reads in any number.

Shape suffixes: B batch, N tokens, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from mascot.protocols import Conditioning, Framing


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens that a text encoder reads at once, without start, end and padding."""

    tokens: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    """The weight of each token; 1 leaves its states as they are."""


@runtime_checkable
class ReadsChunks(Protocol):
    """A stage whose text encoders read weights, and long prompts in chunks."""

    @property
    def chunk_lengths(self) -> Mapping[str, int]:
        """Name of a text encoder that reads chunks -> the most tokens of a chunk."""
        ...

    def token_groups(self, name: str, text: str) -> list[tuple[int, ...]]:
        """Tokenize a text for one text encoder; tokens of one learned token stand together."""
        ...

    def condition_chunks(self, text: str, chunks: Mapping[str, Sequence[Chunk]], framing: Framing) -> Conditioning:
        """Encode one prompt from the chunks of each text encoder, and its text for all others.

        All text encoders have as many chunks. Pooled outputs are those of the first chunk, without
        its weights.
        """
        ...


def join_states(states: Sequence[Tensor], chunks: Sequence[Chunk]) -> Tensor:
    """Weigh each chunk's states, and join them along the tokens. Shape B x N of all chunks x D."""
    return torch.cat([weigh(states_BND, chunk) for states_BND, chunk in zip(states, chunks, strict=True)], dim=1)


def weigh(states_BND: Tensor, chunk: Chunk) -> Tensor:
    """Multiply each token's states by its weight, and restore the mean of all states.

    Start, end and padding have the weight 1. This is the emphasis called "Original" of
    stable-diffusion-webui (AUTOMATIC1111, `modules/sd_emphasis.py`): z' = w z mean(z) / mean(w z).
    Where the mean would vanish or change its sign, it is not restored. Without weights the states
    are returned as they are.
    """
    if all(weight == 1 for weight in chunk.weights):
        return states_BND
    weight_N = torch.ones(states_BND.shape[1], device=states_BND.device)
    weight_N[1 : 1 + len(chunk.weights)] = torch.tensor(chunk.weights, device=states_BND.device)
    z_BND = states_BND.float()
    weighted_BND = z_BND * weight_N[:, None]
    factor = z_BND.mean() / weighted_BND.mean()
    return (weighted_BND * factor if torch.isfinite(factor) and factor > 0 else weighted_BND).to(states_BND)
