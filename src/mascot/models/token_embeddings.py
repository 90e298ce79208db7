"""The words of one CLIP text encoder, and one word more, whose rows lie beside its embedding table and may learn.

The table itself cannot move: the word's rows are no part of it, and no optimizer is given it.

Shape suffixes: B batch, N tokens, D width of an embedding.
"""

from __future__ import annotations

import copy
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor, nn
from torch.nn import functional as F

LEGACY_END = 2
"""The end token's id in the settings of CLIPs that pool at the largest id of a prompt, where an added word would be taken for the end."""


class ExtendedEmbedding(nn.Module):
    """An embedding table, and rows beside it for the ids `first`, `first + 1` and so on, which need not lie behind its end.

    The encoder's parameters stay the base's own, names included: the table's weight keeps its name, and the rows are not counted.
    """

    def __init__(self, base: nn.Module, rows_ND: nn.Parameter, first: int) -> None:
        super().__init__()
        self.weight = base.weight
        self.first = first
        self._beside = (base, rows_ND)  # torch looks for parameters and modules in attributes, not inside a tuple

    def forward(self, ids_BN: Tensor) -> Tensor:
        """Look ids up; the rows' are answered from the rows, in the table's dtype. Shape B x N x D."""
        base, rows_ND = self._beside
        place_BN = ids_BN - self.first
        added_BN = (place_BN >= 0) & (place_BN < len(rows_ND))
        known_BND = base(ids_BN.masked_fill(added_BN, 0))
        learned_BND = F.embedding(place_BN.clamp(0, len(rows_ND) - 1), rows_ND).to(known_BND)
        return torch.where(added_BN[..., None], learned_BND, known_BND)


class LearnedTokens:
    """The words of a text encoder, as its tokenizer cuts them: implements `protocols.Vocabulary`, one learned word at a time.

    `encoder` is a CLIPTextModel, with or without a projection; neither it nor the tokenizer is changed for longer than a word is on.
    """

    def __init__(self, encoder: nn.Module, tokenizer: Any) -> None:
        self._encoder: Any = encoder
        self._pooling: Any = getattr(encoder, "text_model", encoder)
        self._table: Any = self._encoder.get_input_embeddings()
        self._end: int = self._pooling.eos_token_id
        self._own_tokenizer = tokenizer
        self._taught: tuple[str, tuple[str, ...], Any] | None = None
        """The word taught last, the tokens that stand for it and the tokenizer that knows them: copying one takes long."""
        self._on = False

    @property
    def tokenizer(self) -> Any:
        """The tokenizer as it is now: the base's own object, or a copy that knows the learned word (see `rewrite`)."""
        return self._taught[2] if self._on and self._taught else self._own_tokenizer

    @property
    def typical_norm(self) -> float:
        """The median length of the table's rows."""
        return float(self._table.weight.detach().float().norm(dim=1).median())

    def meaning(self, words: str) -> Tensor:
        """The table's rows of some words as the base cuts them, one for each token. Shape tokens x D, float32, on the table's device."""
        ids = self._own_tokenizer(words, add_special_tokens=False).input_ids
        weight: Tensor = self._table.weight
        return weight.detach()[torch.tensor(ids, dtype=torch.long, device=weight.device)].float()

    def learn(self, word: str, rows_ND: nn.Parameter) -> None:
        """Let a word stand for rows, from now on and in every prompt that goes through `rewrite` and `tokenizer`.

        The rows are looked up, never copied: what an optimizer does to them is heard in the next forward pass.
        """
        assert not self._on, "one word learns at a time; forget it first"
        assert rows_ND.shape[1:] == self._table.weight.shape[1:]
        if self._taught is None or self._taught[0] != word or len(self._taught[1]) != len(rows_ND):
            self._taught = word, *extend_tokenizer(self._own_tokenizer, word, len(rows_ND))
        _, tokens, tokenizer = self._taught
        ids: list[int] = tokenizer.convert_tokens_to_ids(list(tokens))
        assert ids == list(range(ids[0], ids[0] + len(ids))), "a tokenizer counts on"
        self._encoder.set_input_embeddings(ExtendedEmbedding(self._table, rows_ND, ids[0]))
        if self._end == LEGACY_END:
            self._pooling.eos_token_id = tokenizer.eos_token_id
        self._on = True

    def forget(self) -> None:
        """Give the base's own embedding table, tokenizer and end token back; nothing where no word is on."""
        self._encoder.set_input_embeddings(self._table)
        self._pooling.eos_token_id = self._end
        self._on = False

    def rewrite(self, prompts: Sequence[str]) -> list[str]:
        """Write the learned word out as its tokens: `a SKS dog` as `a sks sks_1 dog` where it stands for two rows.

        Only whole words count, in small letters and capitals alike; where no word is on, prompts stay as they are.
        """
        if not self._on or self._taught is None:
            return list(prompts)
        word, tokens, _ = self._taught
        spelled = r"\s+".join(re.escape(part) for part in normalize_token(word).split())
        pattern = re.compile(rf"(?<!\w){spelled}(?!\w)", re.IGNORECASE)
        return [pattern.sub(lambda _: " ".join(tokens), unicodedata.normalize("NFC", prompt)) for prompt in prompts]


def normalize_token(word: str) -> str:
    """A word as CLIP's tokenizer hears it: composed letters, single spaces, no capitals."""
    return " ".join(unicodedata.normalize("NFC", word).lower().split())


def extend_tokenizer(tokenizer: Any, word: str, count: int) -> tuple[tuple[str, ...], Any]:
    """Copy a tokenizer and add `count` tokens for a word; gives the tokens (`word`, `word_1`, ... as diffusers calls them) and the copy.

    A token that the vocabulary has already, if only as a piece of longer words, is set in brackets until it is new.
    """
    known: dict[str, int] = tokenizer.get_vocab()
    stem = normalize_token(word)
    tokens = (stem, *(f"{stem}_{number}" for number in range(1, count)))
    while known.keys() & set(tokens):
        tokens = tuple(f"<{token}>" for token in tokens)
    learned = copy.deepcopy(tokenizer)
    learned.add_tokens([AddedToken(token, single_word=True, normalized=True) for token in tokens])
    return tokens, learned
