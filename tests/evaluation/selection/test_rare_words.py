"""Laws of rare words: short, whole, rare in every vocabulary, and not known."""

from __future__ import annotations

from typing import Any

import pytest

from mascot.evaluation.selection.rare_words import find_rare_words, tokenize
from tiny.vocabularies import NO_CANDIDATES, RARE, clip_tokenizer, t5_tokenizer


@pytest.mark.parametrize(
    "tokenizer",
    [clip_tokenizer(), t5_tokenizer(), t5_tokenizer(sentinels=100)],
    ids=["merges", "unigrams", "sentinels"],
)
def test_rare_words_are_short_whole_and_unknown(tokenizer: Any) -> None:
    """Frequent words, pieces of words, long words, known words and sentinels are left out."""
    found = find_rare_words({"text_encoder": tokenizer})
    assert set(RARE) <= set(found)
    assert not {*NO_CANDIDATES, "jwv", "gz", "gzk", "wkx"} & set(found)
    assert all(len(tokenizer(word, add_special_tokens=False).input_ids) == 1 for word in found)


def test_a_piece_of_a_word_does_not_hide_the_word() -> None:
    """`xqz` is merged as a beginning (of `xqzw`) after it was merged as a word."""
    assert "xqz" in find_rare_words({"text_encoder": clip_tokenizer((*RARE, "xqzw"))})


def test_rare_is_rare_to_every_tokenizer() -> None:
    both = {"text_encoder": clip_tokenizer(("vrk", "zj")), "text_encoder_2": t5_tokenizer(("zj", "bwx"))}
    assert find_rare_words(both) == ["zj"]
    frequent = {
        "text_encoder": clip_tokenizer(("vrk", "zj")),
        "text_encoder_2": clip_tokenizer(("vrk",), first=("zj",)),
    }
    assert find_rare_words(frequent) == ["vrk"]


def test_how_a_word_is_tokenized() -> None:
    one, two = tokenize({"text_encoder": clip_tokenizer(), "text_encoder_2": t5_tokenizer((), sentinels=100)}, "vrk")
    assert one.token_id == clip_tokenizer().convert_tokens_to_ids("vrk</w>")
    assert one.vocabulary_size == len(clip_tokenizer()) - 2, "the start and end tokens are no words"
    assert one.describe() == f"text_encoder: one token, {one.token_id} of {one.vocabulary_size}"
    assert two.token_id is None
    assert two.describe() == "text_encoder_2: 4 tokens (\u2581 v r k)"
