"""Splitting a prompt's tokens into chunks that a text encoder reads at once."""

from __future__ import annotations

from collections.abc import Sequence

from mascot.diffusion.prompt_chunks import Chunk, ReadsChunks
from mascot.generation.prompts.prompt_weights import WeightedPrompt

BACKTRACK = 20 / 75
"""The share of a chunk at its end in which a comma ends it (A1111's default: 20 of 75 tokens)."""

Group = tuple[tuple[int, ...], float]
"""Tokens that stay together, and their weight."""


def plan_chunks(stage: ReadsChunks, prompt: WeightedPrompt) -> dict[str, list[Chunk]]:
    """Split a prompt into chunks for each text encoder that reads chunks; at least one chunk each.

    Each phrase is tokenized by itself, as in A1111 and ComfyUI.
    """
    plan: dict[str, list[Chunk]] = {}
    for name, length in stage.chunk_lengths.items():
        parts = [
            [(group, phrase.weight) for phrase in part for group in stage.token_groups(name, phrase.text)]
            for part in prompt.parts
        ]
        comma = next(iter(stage.token_groups(name, ",")), ())
        plan[name] = [chunk for part in parts for chunk in split_part(part, length, comma)]
        if len(parts) > 1 and not parts[-1]:
            plan[name].pop()
    return plan


def pad_plan(plan: dict[str, list[Chunk]], count: int) -> dict[str, list[Chunk]]:
    """Append empty chunks until each text encoder has `count`; an empty prompt is such a chunk."""
    return {name: [*chunks, *[Chunk()] * (count - len(chunks))] for name, chunks in plan.items()}


def split_part(groups: Sequence[Group], length: int, comma: tuple[int, ...]) -> list[Chunk]:
    """Split groups of tokens into chunks of at most `length` tokens; without tokens into one.

    A full chunk ends after its last comma where that is near its end; what follows the comma moves
    to the next chunk (A1111, `modules/sd_hijack_clip.py`). The tokens of a group stay together if
    a chunk can hold them.
    """
    chunks: list[Chunk] = []
    tokens: list[tuple[int, float]] = []
    last_comma: int | None = None

    def close(end: int) -> None:
        nonlocal last_comma
        chunks.append(Chunk(tuple(token for token, _ in tokens[:end]), tuple(weight for _, weight in tokens[:end])))
        del tokens[:end]
        last_comma = None

    for group, weight in groups:
        if group == comma:
            last_comma = len(tokens)
        elif len(tokens) == length and last_comma is not None and length - last_comma <= BACKTRACK * length:
            close(last_comma + 1)
        if len(tokens) == length or (len(group) <= length < len(tokens) + len(group)):
            close(len(tokens))
        for token in group:
            if len(tokens) == length:
                close(length)
            tokens.append((token, weight))
    if tokens or not chunks:
        close(len(tokens))
    return chunks
