"""Token embeddings of a CLIP text encoder, and rows for one added token, which may be trained.

The rows lie beside the embedding table. The table itself stays frozen: no optimizer gets it.

Shape suffixes: B batch, N tokens, D width of an embedding.
"""

from __future__ import annotations

import copy
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AddedToken, PreTrainedTokenizerBase

LEGACY_END = 2
"""The id of the end token in the settings of old CLIPs.

Such CLIPs pool at the largest id of a prompt, so an added token would be taken for the end.
"""


class ExtendedEmbedding(nn.Module):
    """An embedding table with more rows beside it, for the ids `first`, `first + 1` and so on.

    The ids need not lie behind the table's end. The encoder's parameters stay the base's own, names
    included: the table's weight keeps its name, and the rows are no parameter of this module.
    """

    def __init__(self, base: nn.Module, rows_ND: nn.Parameter, first: int) -> None:
        super().__init__()
        self.weight = base.weight
        self.first = first
        self._beside = (base, rows_ND)  # torch looks for parameters and modules in attributes, not inside a tuple

    def forward(self, ids_BN: Tensor) -> Tensor:
        """Look up the embeddings of ids, in the table's dtype. Shape B x N x D."""
        base, rows_ND = self._beside
        row_BN = ids_BN - self.first
        added_BN = (row_BN >= 0) & (row_BN < len(rows_ND))
        base_BND = base(ids_BN.masked_fill(added_BN, 0))
        added_BND = F.embedding(row_BN.clamp(0, len(rows_ND) - 1), rows_ND).to(base_BND)
        return torch.where(added_BN[..., None], added_BND, base_BND)


class LearnedTokens:
    """The tokens of one text encoder, with one added token at a time.

    Implements `protocols.Vocabulary`.

    Args:
        encoder: A CLIPTextModel, with or without a projection. `remove` restores it.
        tokenizer: The encoder's tokenizer, which is never changed.
    """

    def __init__(self, encoder: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
        self._encoder: Any = encoder
        self._pooling: Any = getattr(encoder, "text_model", encoder)
        self._table: Any = self._encoder.get_input_embeddings()
        self._end: int = self._pooling.eos_token_id
        self._base_tokenizer = tokenizer
        self._extended: tuple[str, tuple[str, ...], PreTrainedTokenizerBase] | None = None
        """The last added token, its tokens and their tokenizer; kept, as copying one is slow."""
        self._added = False

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base's own tokenizer, or a copy that knows the added token (see `rewrite`)."""
        return self._extended[2] if self._added and self._extended else self._base_tokenizer

    @property
    def typical_norm(self) -> float:
        """The median norm of the table's rows."""
        return float(self._table.weight.detach().float().norm(dim=1).median())

    def embeddings(self, words: str) -> Tensor:
        """Return the table's rows for some words, one for each of the base's tokens.

        Shape tokens x D, float32, on the table's device.
        """
        ids = self._base_tokenizer(words, add_special_tokens=False).input_ids
        weight: Tensor = self._table.weight
        return weight.detach()[torch.tensor(ids, dtype=torch.long, device=weight.device)].float()

    def add(self, token: str, rows_ND: nn.Parameter) -> None:
        """Add a token with N rows, for all prompts that pass `rewrite` and `tokenizer`.

        The rows are looked up and never copied, so the next forward pass sees an optimizer's
        changes.
        """
        assert not self._added, "only one token can be added at a time; remove it first"
        assert rows_ND.shape[1:] == self._table.weight.shape[1:]
        if self._extended is None or self._extended[0] != token or len(self._extended[1]) != len(rows_ND):
            self._extended = token, *extend_tokenizer(self._base_tokenizer, token, len(rows_ND))
        _, tokens, tokenizer = self._extended
        ids = tokenizer.convert_tokens_to_ids(list(tokens))
        assert isinstance(ids, list)
        assert ids == list(range(ids[0], ids[0] + len(ids))), "a tokenizer gives new tokens consecutive ids"
        self._encoder.set_input_embeddings(ExtendedEmbedding(self._table, rows_ND, ids[0]))
        if self._end == LEGACY_END:
            self._pooling.eos_token_id = tokenizer.eos_token_id
        self._added = True

    def remove(self) -> None:
        """Remove the added token: restore embedding table, tokenizer and end token of the base."""
        self._encoder.set_input_embeddings(self._table)
        self._pooling.eos_token_id = self._end
        self._added = False

    def rewrite(self, prompts: Sequence[str]) -> list[str]:
        """Replace the added token in prompts by the tokenizer's tokens for it.

        `a SKS dog` becomes `a sks sks_1 dog` where the token has two rows. Only whole words count,
        whatever their case. Without an added token the prompts stay as they are.
        """
        if not self._added or self._extended is None:
            return list(prompts)
        token, tokens, _ = self._extended
        escaped = r"\s+".join(re.escape(part) for part in normalize_token(token).split())
        pattern = re.compile(rf"(?<!\w){escaped}(?!\w)", re.IGNORECASE)
        return [pattern.sub(lambda _: " ".join(tokens), unicodedata.normalize("NFC", prompt)) for prompt in prompts]


def normalize_token(token: str) -> str:
    """Normalize a token as CLIP's tokenizer does: composed letters, single spaces, lower case."""
    return " ".join(unicodedata.normalize("NFC", token).lower().split())


def extend_tokenizer(
    tokenizer: PreTrainedTokenizerBase, token: str, count: int
) -> tuple[tuple[str, ...], PreTrainedTokenizerBase]:
    """Copy a tokenizer and add `count` tokens for one token of the user's.

    They are named `token`, `token_1`, ... as in diffusers. A name that the vocabulary has already,
    if only as a piece of longer words, is set in angle brackets until it is new.

    Returns:
        The added tokens, and the copy.
    """
    known: dict[str, int] = tokenizer.get_vocab()
    stem = normalize_token(token)
    tokens = (stem, *(f"{stem}_{number}" for number in range(1, count)))
    while known.keys() & set(tokens):
        tokens = tuple(f"<{name}>" for name in tokens)
    extended = copy.deepcopy(tokenizer)
    extended.add_tokens([AddedToken(name, single_word=True, normalized=True) for name in tokens])
    return tokens, extended
