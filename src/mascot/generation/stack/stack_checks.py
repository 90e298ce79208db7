"""Which adapters can be in one image together; what a user should know of those that can."""

from __future__ import annotations

import itertools
import re

from mascot.errors import UserError, list_some
from mascot.generation.stack.stacked_adapter import Stack, StackedAdapter
from mascot.models.token_embeddings import normalize_token
from mascot.progress import Event, OnEvent, TokenShared


def check_stack(stack: Stack) -> None:
    """Refuse adapters that cannot be in one image together.

    Raises:
        UserError: an adapter is given twice, two have one name, their bases differ, or a word that
            one has trained stands for something else in another.
    """
    for one, other in itertools.combinations(stack, 2):
        if one.path.resolve() == other.path.resolve():
            raise UserError(f"{one.place} is given twice; give it once, with the sum of its scales.")
        check_names(one, other)
        check_bases(one, other)
        check_words(one, other)
        check_words(other, one)


def check_names(one: StackedAdapter, other: StackedAdapter) -> None:
    """Refuse two adapters, or subjects of them, that have one name in prompts."""
    names = [{subject.name for subject in each.subjects} | {each.name} for each in (one, other)]
    if both := names[0] & names[1]:
        raise UserError(
            f"{one.place} and {other.place} are both called {list_some(sorted(filter(None, both)))} in prompts; "
            f"name one of them, such as --adapter second={other.place}."
        )


def check_bases(one: StackedAdapter, other: StackedAdapter) -> None:
    """Refuse two adapters that were trained on different bases."""
    first, second = one.adapter.manifest, other.adapter.manifest
    if first is not None and second is not None and first.base_identity != second.base_identity:
        raise UserError(
            f"{one.place} was trained on {first.base} ({first.base_identity}), and {other.place} on {second.base} "
            f"({second.base_identity}), and one image has one base; leave out one of them."
        )


def check_words(one: StackedAdapter, other: StackedAdapter) -> None:
    """Refuse a word that one adapter has trained and that stands for something else in another."""
    used = [*other.trained_words, *(normalize_token(subject.words) for subject in other.subjects)]
    for word in one.trained_words:
        if any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", words) for words in used):
            raise UserError(
                f"{one.place} has trained the word {word!r}, and {other.place} has a meaning of its own for it; "
                "train one of them with another --token, or leave out one of them."
            )


def report_shared_tokens(stack: Stack, on_event: OnEvent) -> None:
    """Send an event for each two adapters whose subjects have one token."""
    for one, other in itertools.combinations(stack, 2):
        tokens = [{normalize_token(subject.token): subject.token for subject in each.subjects} for each in (one, other)]
        for token in tokens[0].keys() & tokens[1].keys():
            on_event(shared_token(one, other, tokens[0][token]))


def shared_token(one: StackedAdapter, other: StackedAdapter, token: str) -> Event:
    """Make the event that tells of a token that two adapters share."""
    return TokenShared(
        message=f"{one.name} and {other.name} were both trained with the token {token}, so each also changes how the "
        "other's subject looks"
    )
