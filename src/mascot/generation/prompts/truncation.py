"""What text encoders leave out of long prompts, in one line for each prompt."""

from __future__ import annotations

from collections.abc import Iterable

from mascot.diffusion.prompt_chunks import ReadsChunks
from mascot.generation.prompts.prompt_weights import parse_prompt
from mascot.protocols import Stage

LONGEST_START, LONGEST_REST = 40, 300
"""Characters of a prompt that name it, and of the part that is left out."""


def describe_truncations(stage: Stage, prompts: Iterable[str], *, typed: bool = False) -> dict[str, str]:
    """Describe what a stage's text encoders leave out, by prompt; whole prompts are missing.

    `typed` prompts are those that images are generated of: text encoders that read chunks leave
    nothing of them out. Captions are read in training, up to the length of each text encoder.
    """
    lines: dict[str, str] = {}
    whole = stage.chunk_lengths if typed and isinstance(stage, ReadsChunks) else {}
    for prompt in dict.fromkeys(prompts):
        cuts = [
            f"{name.replace('_', ' ')} reads {read} of {tokens} tokens, without {shorten(rest, LONGEST_REST)!r}"
            for name, (tokens, read, rest) in stage.truncations(parse_prompt(prompt).text if typed else prompt).items()
            if name not in whole
        ]
        if cuts:
            lines[prompt] = f"{shorten(prompt, LONGEST_START)!r} is too long: {'; '.join(cuts)}"
    return lines


def shorten(text: str, length: int) -> str:
    """Keep the first characters of a text, with an ellipsis where it goes on."""
    return text if len(text) <= length else f"{text[:length].rstrip()}..."
