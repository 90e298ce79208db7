"""Prompts for several adapters, each subject under a name of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mascot.data.prompt_templates import PLACEHOLDERS, expand, placeholders
from mascot.errors import UserError
from mascot.generation.stack.stacked_adapter import Stack


def fill_prompts(prompts: Sequence[str], stack: Stack) -> list[str]:
    """Fill prompts with the subjects of all adapters, each under its name.

    `{subject}`, `{token}` and `{class}` are those of the only adapter that names its subject; of
    several subjects of it, a prompt is filled for each.

    Raises:
        UserError: a placeholder cannot be filled, or could be filled by several adapters.
    """
    naming = [one for one in stack if one.subjects]
    subjects = [subject for one in naming for subject in one.subjects]
    nameless = {one.name for one in stack} - {one.name for one in naming}
    filled: list[str] = []
    for prompt in prompts:
        used = placeholders(prompt)
        if (not subjects and "{" in prompt) or used & nameless:
            called = next(iter(used & nameless), "this adapter")
            written = f"{{{called}}}" if used & nameless else "{subject}"
            raise UserError(
                f"{called} does not name its subject; write the token into the prompt instead of {written}."
            )
        if len(naming) > 1 and (unclear := used & set(PLACEHOLDERS)):
            meant = " or ".join(f"{{{subject.name}}}" for subject in subjects)
            raise UserError(f"{{{min(unclear)}}} in {prompt!r} can mean several adapters; write {meant} in its place.")
        filled += expand(prompt, replace(subjects[0], others=tuple(subjects[1:]))) if subjects else [prompt]
    return filled
