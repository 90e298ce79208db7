"""Token embeddings of a CLIP text encoder, and rows for added tokens, which may be trained.

The rows lie beside the embedding table. The table itself stays frozen: no optimizer gets it.

Shape suffixes: B batch, N tokens, D width of an embedding.
"""

from __future__ import annotations

import copy
import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AddedToken, PreTrainedTokenizerBase

from mascot.errors import UserError

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

    @property
    def base_layer(self) -> nn.Module:
        """The table itself, or one with earlier rows beside it."""
        return self._beside[0]

    def forward(self, ids_BN: Tensor) -> Tensor:
        """Look up the embeddings of ids, in the table's dtype. Shape B x N x D."""
        base, rows_ND = self._beside
        row_BN = ids_BN - self.first
        added_BN = (row_BN >= 0) & (row_BN < len(rows_ND))
        base_BND = base(ids_BN.masked_fill(added_BN, 0))
        added_BND = F.embedding(row_BN.clamp(0, len(rows_ND) - 1), rows_ND).to(base_BND)
        return torch.where(added_BN[..., None], added_BND, base_BND)


class LearnedTokens:
    """The tokens of one text encoder, with added tokens.

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
        self._added: list[tuple[Extension, nn.Parameter]] = []
        """The added tokens with their rows, in order."""
        self._known: dict[tuple[tuple[str, int], ...], Extension] = {}
        """Extended tokenizers by the tokens and numbers of rows; kept, as copying is slow."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base's own tokenizer, or a copy that knows the added tokens (see `rewrite`)."""
        return self._added[-1][0].tokenizer if self._added else self._base_tokenizer

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
        active = [(extension.token, len(extension.tokens)) for extension, _ in self._added]
        assert token not in dict(active), "a token is added once; remove it first"
        assert rows_ND.shape[1:] == self._table.weight.shape[1:]
        key = (*active, (token, len(rows_ND)))
        if key not in self._known:
            self._known[key] = Extension(token, *extend_tokenizer(self.tokenizer, token, len(rows_ND)))
        known = self._known[key]
        ids = known.tokenizer.convert_tokens_to_ids(list(known.tokens))
        assert isinstance(ids, list)
        assert ids == list(range(ids[0], ids[0] + len(ids))), "a tokenizer gives new tokens consecutive ids"
        self._encoder.set_input_embeddings(ExtendedEmbedding(self._encoder.get_input_embeddings(), rows_ND, ids[0]))
        if self._end == LEGACY_END:
            self._pooling.eos_token_id = known.tokenizer.eos_token_id
        self._added.append((known, rows_ND))

    def remove(self, tokens: Collection[str] | None = None) -> None:
        """Remove some added tokens, or all.

        Without any left, embedding table, tokenizer and end token are the base's own again.
        """
        kept = [(one.token, rows_ND) for one, rows_ND in self._added if tokens is not None and one.token not in tokens]
        self._encoder.set_input_embeddings(self._table)
        self._pooling.eos_token_id = self._end
        self._added = []
        for token, rows_ND in kept:
            self.add(token, rows_ND)

    @property
    def added_ids(self) -> list[tuple[int, ...]]:
        """The ids of each added token, one for each of its rows."""
        tokenizer: Any = self.tokenizer
        known: dict[str, int] = tokenizer.get_added_vocab()
        return [tuple(known[token] for token in extension.tokens) for extension, _ in self._added]

    def rewrite(self, prompts: Sequence[str]) -> list[str]:
        """Replace the added tokens in prompts by the tokenizer's tokens for them.

        `a SKS dog` becomes `a sks sks_1 dog` where the token has two rows. Only whole words count,
        whatever their case. Without an added token the prompts stay as they are.
        """
        if not self._added:
            return list(prompts)
        added = {normalize_token(one.token): " ".join(one.tokens) for one, _ in self._added}
        words = [r"\s+".join(map(re.escape, token.split())) for token in sorted(added, key=len, reverse=True)]
        pattern = re.compile(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)", re.IGNORECASE)
        return [
            pattern.sub(lambda match: added[normalize_token(match.group())], unicodedata.normalize("NFC", prompt))
            for prompt in prompts
        ]


@dataclass(frozen=True, slots=True)
class Extension:
    """A tokenizer that knows one more token."""

    token: str
    tokens: tuple[str, ...]
    """The tokenizer's tokens for it, one for each row."""
    tokenizer: PreTrainedTokenizerBase


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


def initial_rows(embeddings_ND: Tensor, count: int) -> Tensor:
    """Make `count` initial rows from the n embeddings of some words, float32, in their order.

    Where n is smaller, embeddings are repeated: row i is embedding i x n // count. Where n is
    larger, they are cut into `count` runs, as equal as possible with the longer ones first. Each
    row is the mean of a run.

    Raises:
        UserError: there are no embeddings.
    """
    have = len(embeddings_ND)
    if have == 0:
        raise UserError("the initial words have no token of their own; give a plain word (--set method.initial=dog).")
    if have <= count:
        return embeddings_ND[torch.arange(count, device=embeddings_ND.device) * have // count].clone()
    return torch.stack([run_ND.mean(0) for run_ND in torch.tensor_split(embeddings_ND, count)])
