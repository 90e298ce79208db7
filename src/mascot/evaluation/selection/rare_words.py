"""Rare words: what of a tokenizer's vocabulary is short, whole, seldom used, and no word that is known to mean something.

The paper draws its identifiers from the rare part of its tokenizer's vocabulary (Ruiz et al. 2023, section 3.2).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mascot.evaluation.selection.word_lists import NOUNS, SHORT_WORDS
from mascot.generation import prompt_sets
from mascot.protocols import COMMON_TOKEN

RARE: Mapping[str, float] = {"BPE": 0.9, "Unigram": 5000 / 32000}
"""Kind of tokenizer -> the share of its vocabulary, most frequent pieces first, after which short words count as rare.

Unigram: the paper's range begins at id 5,000 of the T5-XXL's 32,000. It ends at 10,000; what is rarer still is let in, because a word
has to be one token to all of a base's tokenizers. BPE, whose ids count merges: the last tenth. In CLIP's vocabulary (49,408) the
paper's shares hold 695 short words, mostly words, names and abbreviations (pig, ibm, nba), as short words are merged early.
"""


LONGEST = 3
"""Letters of a token at most (the paper's own)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling:
    """How one tokenizer of a base cuts a word."""

    encoder: str
    """The text encoder that it is for."""
    pieces: tuple[str, ...]
    rank: int | None
    """Its id, which counts from the most frequent piece on; None where it is not one token."""
    size: int
    """Pieces of the vocabulary."""

    def describe(self) -> str:
        """Say it in words: `text_encoder: one token, 48136 of 49406`."""
        if self.rank is None:
            return f"{self.encoder}: {len(self.pieces)} tokens ({' '.join(self.pieces)})"
        return f"{self.encoder}: one token, {self.rank} of {self.size}"


def spell(tokenizers: Mapping[str, Any], word: str) -> tuple[Spelling, ...]:
    """Cut a word with each tokenizer."""
    spellings: list[Spelling] = []
    for encoder, tokenizer in tokenizers.items():
        ids: list[int] = tokenizer(word, add_special_tokens=False).input_ids
        one = len(ids) == 1 and ids[0] != tokenizer.unk_token_id
        pieces = tuple(tokenizer.convert_ids_to_tokens(ids))
        spellings.append(
            Spelling(encoder=encoder, pieces=pieces, rank=ids[0] if one else None, size=size_of(tokenizer))
        )
    return tuple(spellings)


def size_of(tokenizer: Any) -> int:
    """Pieces of a vocabulary, without what was added to it afterwards: a T5's hundred sentinels."""
    return len(tokenizer.get_vocab().keys() - set(tokenizer.get_added_vocab()))


def is_one_token(tokenizers: Mapping[str, Any], word: str) -> bool:
    """Whether every tokenizer keeps a word whole."""
    return all(spelling.rank is not None for spelling in spell(tokenizers, word))


def rare_words(tokenizers: Mapping[str, Any]) -> list[str]:
    """Words of 1 to 3 small letters that are one token to every tokenizer, rare in each, and no known word; in alphabetical order."""
    found = [rare_in(tokenizer) for tokenizer in tokenizers.values()]
    return sorted(set[str].intersection(*found) - known_words())


def rare_in(tokenizer: Any) -> set[str]:
    """Words of 1 to 3 small letters that are one token of one tokenizer, in the rare part of its vocabulary.

    A piece is a whole word where the word alone is cut into just that piece: `</w>` ends one in CLIP, U+2581 begins one in a T5.
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    least = RARE[type(tokenizer.backend_tokenizer.model).__name__] * size_of(tokenizer)
    pieces = [
        (piece.removesuffix("</w>").removeprefix("\u2581"), rank) for piece, rank in vocabulary.items() if rank >= least
    ]
    short = [(word, rank) for word, rank in pieces if re.fullmatch(rf"[a-z]{{1,{LONGEST}}}", word)]
    return {word for word, rank in short if tokenizer(word, add_special_tokens=False).input_ids == [rank]}


def known_words() -> set[str]:
    """Words that mean something for sure: those of our prompts, nouns, short English words, abbreviations; and `sks`, told apart."""
    suites = (prompt_sets.STARTER, prompt_sets.STARTER_VALIDATION, prompt_sets.PAPER)
    texts = [text for suite in suites for text in (*suite.things, *suite.live)]
    texts += [*prompt_sets.PREVIEWS, *(text for group in prompt_sets.CONTEXTS.values() for text in group)]
    return {
        *re.findall(r"[a-z]+", " ".join(texts).lower()),
        *NOUNS,
        *prompt_sets.LIVE_NOUNS,
        *SHORT_WORDS,
        COMMON_TOKEN,
    }
