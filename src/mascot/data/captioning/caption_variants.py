"""Vary captions from step to step: wildcards, tags in random order, tags left out."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mascot.data.prompt_templates import PLACEHOLDERS, fill, one_line, without_token
from mascot.errors import UserError

if TYPE_CHECKING:
    from torch import Generator

    from mascot.protocols import Subject  # protocols import torch, which reading captions does not need

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*\|[^{}]*)\}")
_NESTED = re.compile(r"(?<!\{)\{(?!\{)[^{}]*\{(?!\{)")
Choose = Callable[[list[str]], str]
"""Chooses one of the options of a wildcard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TagSettings:
    """What happens to the tags of a caption, which are its parts between commas."""

    shuffle: bool = False
    """Whether tags stand in another order at each use."""
    dropout: float = 0.0
    """Probability that a tag is left out."""
    keep: int = 1
    """Number of tags at the start that keep their place and are never left out."""

    @property
    def active(self) -> bool:
        """Whether captions with several tags change."""
        return self.shuffle or self.dropout > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionVariants:
    """One caption of a photo, not filled, and how it varies."""

    caption: str
    subject: Subject
    tags: TagSettings

    def draw(self, generator: Generator, *, of_class: bool = False) -> str:
        """Draw one variant and fill it; `of_class` gives the same variant without the token.

        Generators in the same state draw the same variant.
        """
        drawn = vary_tags(choose_options(self.caption, _chooser(generator)), self.tags, generator)
        return fill(without_token(drawn, self.subject) if of_class else drawn, self.subject)


def varies(caption: str, tags: TagSettings) -> bool:
    """Tell whether a caption has more than one variant."""
    return has_wildcards(caption) or (tags.active and len(split_tags(first_variant(caption))) > 1)


def has_wildcards(caption: str) -> bool:
    """Tell whether a caption holds a group such as `{red|blue}`."""
    return any(match.group(1) for match in _BRACES.finditer(caption))


def first_variant(caption: str) -> str:
    """Return a caption with the first option of each wildcard; nothing is filled.

    Raises:
        UserError: an option of a wildcard is the name of a placeholder.
    """
    return choose_options(caption, lambda options: options[0])


def longest_variant(caption: str) -> str:
    """Return a caption with the longest option of each wildcard; nothing is filled."""
    return choose_options(caption, lambda options: max(options, key=len))


def choose_options(caption: str, choose: Choose) -> str:
    """Replace each group such as `{red|blue}` by one of its options; `{{` stays a literal brace.

    Raises:
        UserError: an option is the name of a placeholder, or holds braces.
    """
    if "|" in caption and _NESTED.search(caption):
        raise UserError(f"There are braces inside braces in {caption!r}; write a wildcard of plain words alone.")

    def option(match: re.Match[str]) -> str:
        if match.group(1) is None:
            return match.group()
        options = [text.strip() for text in match.group(1).split("|")]
        names = [text for text in options if text in PLACEHOLDERS]
        if names:
            raise UserError(
                f"There is a placeholder inside the wildcard {match.group()} in {caption!r}; "
                f"write {{{names[0]}}} outside of it."
            )
        return choose(options)

    return one_line(_BRACES.sub(option, caption))


def split_tags(caption: str) -> list[str]:
    """Split a caption to its tags at commas."""
    return [tag.strip() for tag in caption.split(",") if tag.strip()]


def vary_tags(caption: str, settings: TagSettings, generator: Generator) -> str:
    """Shuffle the tags of a caption, and leave some out; one tag at least is left."""
    import torch

    tags = split_tags(caption)
    if not settings.active or len(tags) < 2:
        return caption
    kept, others = tags[: settings.keep], tags[settings.keep :]
    if settings.shuffle:
        others = [others[i] for i in torch.randperm(len(others), generator=generator).tolist()]
    left_out = (torch.rand(len(others), generator=generator) < settings.dropout).tolist()
    left = [tag for tag, out in zip(others, left_out, strict=True) if not out]
    return ", ".join([*kept, *left] or others[:1])


def _chooser(generator: Generator) -> Choose:
    """Return a choice by a generator, each option with the same probability."""
    import torch

    return lambda options: options[int(torch.randint(len(options), (), generator=generator))]
