"""Laws of a learned word: its rows are heard, nothing else is moved or heard differently, and forgetting leaves no trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from mascot.diffusion.noise import seeded
from mascot.models.token_embeddings import LEGACY_END, LearnedTokens
from tiny.stable_diffusion import WIDTH, text_config, tiny_clip_tokenizer

PROMPTS = ["a photo of a dog", "she asks in the snow", "a cat"]
KINDS = [CLIPTextModel, CLIPTextModelWithProjection]


def encoder_of(kind: Any, *, spare: int = 0, end: int | None = None) -> Any:
    """A tiny text encoder, whose table may have rows that no token has, and whose settings may name an end token of their own."""
    config = text_config(tiny_clip_tokenizer())
    config.vocab_size += spare
    config.eos_token_id = config.eos_token_id if end is None else end
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(config).eval().requires_grad_(requires_grad=False)


@pytest.fixture(params=KINDS, ids=["flat", "projected"])
def words(request: pytest.FixtureRequest) -> LearnedTokens:
    return LearnedTokens(encoder_of(request.param), tiny_clip_tokenizer())


def rows(count: int) -> nn.Parameter:
    """Rows that no table holds."""
    return nn.Parameter(torch.randn(count, WIDTH, generator=seeded("rows", count)))


def ids_of(words: LearnedTokens, prompts: list[str]) -> Tensor:
    """As a family asks: rewritten, cut, padded."""
    return words.tokenizer(words.rewrite(prompts), padding="max_length", max_length=24, return_tensors="pt").input_ids


def answers(words: LearnedTokens, prompts: list[str]) -> tuple[Tensor, Tensor]:
    """Hidden states and the pooled state, before any projection."""
    told = getattr(words._encoder, "text_model", words._encoder)(ids_of(words, prompts))
    return told.last_hidden_state, told.pooler_output


def looked_up(words: LearnedTokens, prompt: str) -> Tensor:
    """The embeddings of a prompt alone, without its ends."""
    return words._encoder.get_input_embeddings()(ids_of(words, [prompt]))[0, 1:]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "word", ["sks", "dog", "d", "Sks", "zebra horse", "<cat-toy>", "Ünü", "x_1"]
)  # new, known, a piece, capitals, more
def test_a_learned_word_is_heard_as_its_rows(words: LearnedTokens, word: str, count: int) -> None:
    rows_ND = rows(count)
    words.add(word, rows_ND)
    for prompt in (f"{word} on grass", f"{word.upper()}, on grass", f"{word.lower()}   on grass"):
        assert torch.equal(looked_up(words, prompt)[:count], rows_ND), prompt
        assert not torch.equal(looked_up(words, prompt)[count], rows_ND[-1])


@pytest.mark.parametrize("word", ["sks", "dog", "a", "ask"])
def test_other_prompts_keep_their_bits(words: LearnedTokens, word: str) -> None:
    """Also those with the word inside another, and those whose words have the learned one as a piece."""
    prompts = [prompt for prompt in PROMPTS if word not in prompt.split()] + [f"x{word}x", f"{word}gy"]
    ids, before = ids_of(words, prompts), answers(words, prompts)
    words.add(word, rows(2))
    assert torch.equal(ids_of(words, prompts), ids)
    assert all(torch.equal(one, other) for one, other in zip(answers(words, prompts), before, strict=True))


def test_forgetting_gives_the_same_objects_back(words: LearnedTokens) -> None:
    encoder, tokenizer, table = words._encoder, words.tokenizer, words._encoder.get_input_embeddings()
    size, state = len(tokenizer), {name: value.clone() for name, value in encoder.state_dict().items()}
    words.add("sks", rows(3))
    assert encoder.state_dict().keys() == state.keys(), "the rows are no part of the encoder"
    assert "sks sks_1 sks_2" in words.rewrite(["a SKS"])[0]
    words.remove()
    words.remove()
    assert words.tokenizer is tokenizer
    assert len(tokenizer) == size
    assert encoder.get_input_embeddings() is table
    assert words.rewrite(["a SKS"]) == ["a SKS"]
    assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())


def test_the_rows_learn_through_the_encoder(words: LearnedTokens) -> None:
    """Gradients reach them, under autocast too, and nothing else; what an optimizer does to them is heard at once."""
    rows_ND = rows(2)
    words.add("sks", rows_ND)
    before = answers(words, ["a sks dog"])[0]
    with torch.autocast("cpu", torch.bfloat16):
        answers(words, ["a sks dog", "a cat"])[0].square().sum().backward()
    assert rows_ND.grad is not None
    assert (rows_ND.grad.norm(dim=1) > 0).all()
    assert all(parameter.grad is None for parameter in words._encoder.parameters())
    torch.optim.SGD([rows_ND], lr=1.0).step()
    assert not torch.equal(answers(words, ["a sks dog"])[0], before)


def test_rows_answer_in_the_tables_dtype(words: LearnedTokens) -> None:
    words._encoder.to(torch.bfloat16)
    words.add("sks", rows(1))
    assert looked_up(words, "sks").dtype == torch.bfloat16
    assert answers(words, ["a sks"])[0].dtype == torch.bfloat16
    assert words.embeddings("dog").dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_longer_than_the_vocabulary_hides_no_row(kind: Any) -> None:
    """The new ids lie inside the table; the rows are heard all the same."""
    words = LearnedTokens(encoder_of(kind, spare=8), tiny_clip_tokenizer())
    rows_ND = rows(3)
    words.add("sks", rows_ND)
    assert int(ids_of(words, ["sks"]).max()) < len(words._encoder.get_input_embeddings().weight)
    assert torch.equal(looked_up(words, "sks")[:3], rows_ND)


def test_a_word_that_the_base_was_taught_before_is_taught_anew() -> None:
    """As a base that diffusers saved with a word of its own: that word keeps its row until this one is on, and afterwards."""
    tokenizer = tiny_clip_tokenizer()
    tokenizer.add_tokens("sks")
    words = LearnedTokens(encoder_of(CLIPTextModel, spare=1), tokenizer)
    before = looked_up(words, "SKS")
    for word in ("sks", "SKS"):
        words.add(word, rows(2))
        assert torch.equal(looked_up(words, "SKS")[:2], rows(2)), word
        words.remove()
        assert torch.equal(looked_up(words, "SKS"), before)


@pytest.mark.parametrize("kind", KINDS)
def test_an_old_clip_pools_at_the_end_all_the_same(kind: Any) -> None:
    """CLIPs whose settings say that the end token is 2 pool at the largest id: not at the learned word, which has a larger one."""
    old, new = (LearnedTokens(encoder_of(kind, end=end), tiny_clip_tokenizer()) for end in (LEGACY_END, None))
    for words in (old, new):
        words.add("sks", rows(2))
    prompts = ["a photo of a sks dog", *PROMPTS]
    assert torch.equal(answers(old, prompts)[1], answers(new, prompts)[1])
    old.remove()
    assert old._pooling.eos_token_id == LEGACY_END


def test_meaning_is_the_tables_own(words: LearnedTokens) -> None:
    """One row for each token, the base's also while the same word is learned."""
    table = words._encoder.get_input_embeddings().weight
    tokenizer = words.tokenizer
    words.add("dog", rows(1))
    assert torch.equal(words.embeddings("snow dog"), table[tokenizer.convert_tokens_to_ids(["snow</w>", "dog</w>"])])
    assert words.embeddings(" ").shape == (0, WIDTH)


def test_the_typical_norm_is_the_median(words: LearnedTokens) -> None:
    table = words._encoder.get_input_embeddings().weight
    table.copy_(torch.nn.functional.normalize(table, dim=1) * torch.linspace(0, 2, len(table))[:, None] ** 2)
    assert words.typical_norm == pytest.approx(1, abs=0.01)


def test_the_same_word_is_taught_once(words: LearnedTokens) -> None:
    """Taking a word off and on again is quick: the tokenizer that knows it is kept; other words and counts get their own."""
    words.add("sks", rows(1))
    first = words.tokenizer
    for word, count, same in (("sks", 1, True), ("sks", 2, False), ("cat", 2, False)):
        words.remove()
        words.add(word, rows(count))
        assert (words.tokenizer is first) is same
        assert torch.equal(looked_up(words, word)[:count], rows(count))


def test_a_second_word_is_no_surprise(words: LearnedTokens) -> None:
    words.add("sks", rows(1))
    with pytest.raises(AssertionError, match="remove it first"):
        words.add("zwx", rows(1))
