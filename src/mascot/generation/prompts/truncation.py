"""What text encoders leave out of long prompts, in one line for each prompt."""

from __future__ import annotations

from collections.abc import Iterable

from mascot.protocols import Stage

LONGEST_START, LONGEST_REST = 40, 300
"""Characters of a prompt that name it, and of the part that is left out."""


def describe_truncations(stage: Stage, prompts: Iterable[str]) -> dict[str, str]:
    """Describe what a stage's text encoders leave out, by prompt; whole prompts are missing."""
    lines: dict[str, str] = {}
    for prompt in dict.fromkeys(prompts):
        cuts = [
            f"{name.replace('_', ' ')} reads {read} of {tokens} tokens, without {shorten(rest, LONGEST_REST)!r}"
            for name, (tokens, read, rest) in stage.truncations(prompt).items()
        ]
        if cuts:
            lines[prompt] = f"{shorten(prompt, LONGEST_START)!r} is too long: {'; '.join(cuts)}"
    return lines


def shorten(text: str, length: int) -> str:
    """Keep the first characters of a text, with an ellipsis where it goes on."""
    return text if len(text) <= length else f"{text[:length].rstrip()}..."
