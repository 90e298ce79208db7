"""Laws of an added token: its rows are used, nothing else changes, removing leaves no trace."""

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
    """A tiny text encoder; its table can have spare rows, its settings another end token."""
    config = text_config(tiny_clip_tokenizer())
    config.vocab_size += spare
    config.eos_token_id = config.eos_token_id if end is None else end
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(config).eval().requires_grad_(requires_grad=False)


@pytest.fixture(params=KINDS, ids=["flat", "projected"])
def vocabulary(request: pytest.FixtureRequest) -> LearnedTokens:
    return LearnedTokens(encoder_of(request.param), tiny_clip_tokenizer())


def rows(count: int) -> nn.Parameter:
    """Rows that no table holds."""
    return nn.Parameter(torch.randn(count, WIDTH, generator=seeded("rows", count)))


def ids_of(vocabulary: LearnedTokens, prompts: list[str]) -> Tensor:
    """Token ids as a family computes them: rewritten, truncated, padded."""
    return vocabulary.tokenizer(
        vocabulary.rewrite(prompts), padding="max_length", max_length=24, return_tensors="pt"
    ).input_ids


def outputs(vocabulary: LearnedTokens, prompts: list[str]) -> tuple[Tensor, Tensor]:
    """Hidden states and the pooled state, before any projection."""
    output = getattr(vocabulary._encoder, "text_model", vocabulary._encoder)(ids_of(vocabulary, prompts))
    return output.last_hidden_state, output.pooler_output


def looked_up(vocabulary: LearnedTokens, prompt: str) -> Tensor:
    """The embeddings of a prompt alone, without its ends."""
    return vocabulary._encoder.get_input_embeddings()(ids_of(vocabulary, [prompt]))[0, 1:]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "token", ["sks", "dog", "d", "Sks", "zebra horse", "<cat-toy>", "Ünü", "x_1"]
)  # new, known, a piece, capitals, two words, ...
def test_an_added_token_is_embedded_as_its_rows(vocabulary: LearnedTokens, token: str, count: int) -> None:
    rows_ND = rows(count)
    vocabulary.add(token, rows_ND)
    for prompt in (f"{token} on grass", f"{token.upper()}, on grass", f"{token.lower()}   on grass"):
        assert torch.equal(looked_up(vocabulary, prompt)[:count], rows_ND), prompt
        assert not torch.equal(looked_up(vocabulary, prompt)[count], rows_ND[-1])


@pytest.mark.parametrize("token", ["sks", "dog", "a", "ask"])
def test_other_prompts_keep_their_bits(vocabulary: LearnedTokens, token: str) -> None:
    """Also those with the token inside a word, and those whose words have it as a piece."""
    prompts = [prompt for prompt in PROMPTS if token not in prompt.split()] + [f"x{token}x", f"{token}gy"]
    ids, before = ids_of(vocabulary, prompts), outputs(vocabulary, prompts)
    vocabulary.add(token, rows(2))
    assert torch.equal(ids_of(vocabulary, prompts), ids)
    assert all(torch.equal(one, other) for one, other in zip(outputs(vocabulary, prompts), before, strict=True))


def test_removing_restores_the_same_objects(vocabulary: LearnedTokens) -> None:
    encoder, tokenizer, table = vocabulary._encoder, vocabulary.tokenizer, vocabulary._encoder.get_input_embeddings()
    size, state = len(tokenizer), {name: value.clone() for name, value in encoder.state_dict().items()}
    vocabulary.add("sks", rows(3))
    assert encoder.state_dict().keys() == state.keys(), "the rows are no part of the encoder"
    assert "sks sks_1 sks_2" in vocabulary.rewrite(["a SKS"])[0]
    vocabulary.remove()
    vocabulary.remove()
    assert vocabulary.tokenizer is tokenizer
    assert len(tokenizer) == size
    assert encoder.get_input_embeddings() is table
    assert vocabulary.rewrite(["a SKS"]) == ["a SKS"]
    assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())


def test_the_rows_are_trained_through_the_encoder(vocabulary: LearnedTokens) -> None:
    """Gradients reach them alone, also under autocast; an optimizer's changes act at once."""
    rows_ND = rows(2)
    vocabulary.add("sks", rows_ND)
    before = outputs(vocabulary, ["a sks dog"])[0]
    with torch.autocast("cpu", torch.bfloat16):
        outputs(vocabulary, ["a sks dog", "a cat"])[0].square().sum().backward()
    assert rows_ND.grad is not None
    assert (rows_ND.grad.norm(dim=1) > 0).all()
    assert all(parameter.grad is None for parameter in vocabulary._encoder.parameters())
    torch.optim.SGD([rows_ND], lr=1.0).step()
    assert not torch.equal(outputs(vocabulary, ["a sks dog"])[0], before)


def test_rows_are_looked_up_in_the_tables_dtype(vocabulary: LearnedTokens) -> None:
    vocabulary._encoder.to(torch.bfloat16)
    vocabulary.add("sks", rows(1))
    assert looked_up(vocabulary, "sks").dtype == torch.bfloat16
    assert outputs(vocabulary, ["a sks"])[0].dtype == torch.bfloat16
    assert vocabulary.embeddings("dog").dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_longer_than_the_vocabulary_hides_no_row(kind: Any) -> None:
    """The new ids lie inside the table; the rows are used all the same."""
    vocabulary = LearnedTokens(encoder_of(kind, spare=8), tiny_clip_tokenizer())
    rows_ND = rows(3)
    vocabulary.add("sks", rows_ND)
    assert int(ids_of(vocabulary, ["sks"]).max()) < len(vocabulary._encoder.get_input_embeddings().weight)
    assert torch.equal(looked_up(vocabulary, "sks")[:3], rows_ND)


def test_a_token_that_the_base_has_already_is_added_anew() -> None:
    """As in a base that diffusers saved with an added token, which keeps its row."""
    tokenizer = tiny_clip_tokenizer()
    tokenizer.add_tokens("sks")
    vocabulary = LearnedTokens(encoder_of(CLIPTextModel, spare=1), tokenizer)
    before = looked_up(vocabulary, "SKS")
    for token in ("sks", "SKS"):
        vocabulary.add(token, rows(2))
        assert torch.equal(looked_up(vocabulary, "SKS")[:2], rows(2)), token
        vocabulary.remove()
        assert torch.equal(looked_up(vocabulary, "SKS"), before)


@pytest.mark.parametrize("kind", KINDS)
def test_an_old_clip_pools_at_the_end_all_the_same(kind: Any) -> None:
    """CLIPs whose settings name 2 as the end token pool at the largest id.

    The added token has a larger one, and must not be taken for the end.
    """
    old, new = (LearnedTokens(encoder_of(kind, end=end), tiny_clip_tokenizer()) for end in (LEGACY_END, None))
    for vocabulary in (old, new):
        vocabulary.add("sks", rows(2))
    prompts = ["a photo of a sks dog", *PROMPTS]
    assert torch.equal(outputs(old, prompts)[1], outputs(new, prompts)[1])
    old.remove()
    assert old._pooling.eos_token_id == LEGACY_END


def test_embeddings_are_the_tables_rows(vocabulary: LearnedTokens) -> None:
    """One row for each token, of the base also while the same token is added."""
    table = vocabulary._encoder.get_input_embeddings().weight
    tokenizer = vocabulary.tokenizer
    vocabulary.add("dog", rows(1))
    assert torch.equal(
        vocabulary.embeddings("snow dog"), table[tokenizer.convert_tokens_to_ids(["snow</w>", "dog</w>"])]
    )
    assert vocabulary.embeddings(" ").shape == (0, WIDTH)


def test_the_typical_norm_is_the_median(vocabulary: LearnedTokens) -> None:
    table = vocabulary._encoder.get_input_embeddings().weight
    table.copy_(torch.nn.functional.normalize(table, dim=1) * torch.linspace(0, 2, len(table))[:, None] ** 2)
    assert vocabulary.typical_norm == pytest.approx(1, abs=0.01)


def test_the_same_token_is_added_to_a_tokenizer_once(vocabulary: LearnedTokens) -> None:
    """Removing and adding a token again is quick: the tokenizer that knows it is kept.

    Other tokens and counts get their own.
    """
    vocabulary.add("sks", rows(1))
    first = vocabulary.tokenizer
    for token, count, same in (("sks", 1, True), ("sks", 2, False), ("cat", 2, False)):
        vocabulary.remove()
        vocabulary.add(token, rows(count))
        assert (vocabulary.tokenizer is first) is same
        assert torch.equal(looked_up(vocabulary, token)[:count], rows(count))


def test_the_same_token_is_refused_twice(vocabulary: LearnedTokens) -> None:
    vocabulary.add("sks", rows(1))
    with pytest.raises(AssertionError, match="remove it first"):
        vocabulary.add("sks", rows(1))


def test_two_tokens_have_rows_of_their_own(vocabulary: LearnedTokens) -> None:
    first, second = rows(2), nn.Parameter(rows(1) + 1)
    vocabulary.add("sks", first)
    vocabulary.add("zwx", second)
    assert vocabulary.rewrite(["a zwx and a sks dog"])[0].split()[0] == "a"
    assert torch.equal(looked_up(vocabulary, "sks")[:2], first)
    assert torch.equal(looked_up(vocabulary, "zwx")[:1], second)
    vocabulary.remove()
    assert vocabulary.rewrite(["a zwx and a sks dog"]) == ["a zwx and a sks dog"]
