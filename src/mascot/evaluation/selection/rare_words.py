"""Rare words: short, whole, rarely used tokens of a vocabulary that are no known words.

DreamBooth takes its identifiers from the rare part of its tokenizer's vocabulary (Ruiz et al. 2023,
section 3.2).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mascot.data.prompt_templates import COMMON_TOKEN
from mascot.evaluation.selection.word_lists import NOUNS, SHORT_WORDS
from mascot.generation.prompts import prompt_sets

RARE_FROM: Mapping[str, float] = {"BPE": 0.9, "Unigram": 5000 / 32000}
"""Kind of tokenizer -> share of its vocabulary, in order of frequency, after which words are rare.

Unigram: the paper's range begins at id 5,000 of the 32,000 of the T5-XXL. It ends at 10,000. Rarer
words are accepted here, because a word has to be one token of all of a base model's tokenizers.
BPE: the ids count merges, so the last tenth is taken. In CLIP's vocabulary of 49,408, the paper's
shares hold 695 short words. Most are words, names and abbreviations (pig, ibm, nba), because short
words are merged early.
"""

MAXIMUM_LETTERS = 3
"""Most letters of a token, as in the paper."""


class Tokenizer(Protocol):
    """The part of a transformers fast tokenizer that the search uses."""

    @property
    def unk_token_id(self) -> int | None:
        """Id of the unknown token; None where there is none."""
        ...

    @property
    def backend_tokenizer(self) -> Any:
        """The Rust tokenizer, whose `model` tells its kind."""
        ...

    def get_vocab(self) -> dict[str, int]:
        """Return all tokens with their ids."""
        ...

    def get_added_vocab(self) -> dict[str, int]:
        """Return the tokens that were added to the vocabulary."""
        ...

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        """Convert ids to tokens."""
        ...

    def __call__(self, text: str, *, add_special_tokens: bool) -> Any:
        """Tokenize a text; the result has `input_ids`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenization:
    """How one tokenizer of a base model splits a word."""

    encoder: str
    """Name of the text encoder that the tokenizer belongs to."""
    tokens: tuple[str, ...]
    token_id: int | None
    """Id of the word, which grows with rarity; None where the word is not one token."""
    vocabulary_size: int

    def describe(self) -> str:
        """Format for a terminal: `text_encoder: one token, 48136 of 49406`."""
        if self.token_id is None:
            return f"{self.encoder}: {len(self.tokens)} tokens ({' '.join(self.tokens)})"
        return f"{self.encoder}: one token, {self.token_id} of {self.vocabulary_size}"


def tokenize(tokenizers: Mapping[str, Tokenizer], word: str) -> tuple[Tokenization, ...]:
    """Split a word with each tokenizer; keys are the names of text encoders."""
    tokenizations: list[Tokenization] = []
    for encoder, tokenizer in tokenizers.items():
        ids = token_ids(tokenizer, word)
        whole = len(ids) == 1 and ids[0] != tokenizer.unk_token_id
        tokenizations.append(
            Tokenization(
                encoder=encoder,
                tokens=tuple(tokenizer.convert_ids_to_tokens(ids)),
                token_id=ids[0] if whole else None,
                vocabulary_size=vocabulary_size(tokenizer),
            )
        )
    return tuple(tokenizations)


def token_ids(tokenizer: Tokenizer, word: str) -> list[int]:
    """Return the ids of a word, without special tokens."""
    return tokenizer(word, add_special_tokens=False).input_ids


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Count the tokens of a vocabulary, without those that were added, such as a T5's sentinels."""
    return len(tokenizer.get_vocab().keys() - set(tokenizer.get_added_vocab()))


def is_one_token(tokenizers: Mapping[str, Tokenizer], word: str) -> bool:
    """Tell whether a word is one token of every tokenizer."""
    return all(tokenization.token_id is not None for tokenization in tokenize(tokenizers, word))


def find_rare_words(tokenizers: Mapping[str, Tokenizer]) -> Sequence[str]:
    """Find words of 1 to 3 lowercase letters that are one rare token of every tokenizer.

    Known words are left out. The words are in alphabetical order.
    """
    found = [rare_words_of(tokenizer) for tokenizer in tokenizers.values()]
    return sorted(set[str].intersection(*found) - known_words())


def rare_words_of(tokenizer: Tokenizer) -> set[str]:
    """Find words of 1 to 3 lowercase letters in the rare part of one tokenizer's vocabulary.

    A token is a whole word where the tokenizer splits the word into just that token. CLIP ends such
    tokens in `</w>`; a T5 begins them with U+2581.
    """
    least_id = RARE_FROM[type(tokenizer.backend_tokenizer.model).__name__] * vocabulary_size(tokenizer)
    words = [
        (token.removesuffix("</w>").removeprefix("\u2581"), token_id)
        for token, token_id in tokenizer.get_vocab().items()
        if token_id >= least_id
    ]
    short = [(word, token_id) for word, token_id in words if re.fullmatch(rf"[a-z]{{1,{MAXIMUM_LETTERS}}}", word)]
    return {word for word, token_id in short if token_ids(tokenizer, word) == [token_id]}


def known_words() -> set[str]:
    """Collect words that have a meaning: of mascot's prompts and of the word lists, and `sks`."""
    suites = (prompt_sets.STARTER, prompt_sets.STARTER_VALIDATION, prompt_sets.PAPER)
    texts = [text for suite in suites for text in (*suite.objects, *suite.live)]
    texts += [*prompt_sets.PREVIEWS, *(text for group in prompt_sets.CONTEXTS.values() for text in group)]
    return {
        *re.findall(r"[a-z]+", " ".join(texts).lower()),
        *NOUNS,
        *SHORT_WORDS,
        COMMON_TOKEN,
    }
