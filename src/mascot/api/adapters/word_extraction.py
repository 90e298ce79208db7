"""Words that a trained model has and its base has not: added and changed rows of token embeddings.

Shape suffixes: N rows of a table, D width of an embedding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from mascot.adapters.token_rows import TokenRecord, bundle_prefix, rows_to_file, write_records
from mascot.adapters.weight_changes.extraction import Energy
from mascot.models.base_files.clip_vocabulary import clip_tokenizer
from mascot.models.base_files.weight_places import BaseFiles
from mascot.models.pipeline_files import tokenizer_of
from mascot.storage.untrusted_files import UnreadableFile, read_json_object

TOKEN_TABLE: Final = ".embeddings.token_embedding.weight"  # noqa: S105 - no password
"""End of the name of a CLIP's table of token embeddings."""
MOST_WORDS: Final = 32
"""Most rows that are taken for words; where more changed, the whole table was trained."""
WORD_END: Final = "</w>"
"""How a token ends that ends a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoBases:
    """A base before and after training, with functions that read one weight of each."""

    before: BaseFiles
    after: BaseFiles
    read_before: Callable[[str], Tensor]
    read_after: Callable[[str], Tensor]

    def change(self, name: str) -> Tensor:
        """Compute the change of one weight, float32."""
        return self.read_after(name).float() - self.read_before(name).float()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedRows:
    """The rows of one table that were added or changed."""

    table: Tensor
    """The table after training, N x D."""
    rows: dict[int, str]
    """Number of a row -> the word it stands for; rows without one are left out."""
    changed: dict[int, float]
    """Number of a row that was there before -> energy of its change."""
    added: int
    """Rows that were not there before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractedWords:
    """Words as an adapter file holds them, and what is reported of the tables."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    energies: Mapping[str, Energy] = field(default_factory=dict[str, Energy])
    """Name of a table -> energy of the change of its old rows, and what words keep of it."""
    rows: Sequence[tuple[str, str]] = ()


def extract_words(bases: TwoBases) -> ExtractedWords:
    """Find the words whose rows were added or changed, in every CLIP text encoder.

    A word that is added with several rows is called `word`, `word_1`, ... in tokenizers. An encoder
    in which a word did not change gives its present row.
    """
    tables = {name: changed_rows(bases, name) for name in bases.before.places if name.endswith(TOKEN_TABLE)}
    words = dict.fromkeys(word for table in tables.values() for word in table.rows.values())
    found: dict[str, dict[str, list[int]]] = {}
    for word in words:
        ids = {name: ids_of(bases.after, name, word, table) for name, table in tables.items()}
        if all(ids.values()) and len({len(rows) for rows in ids.values()}) == 1:
            found[word] = ids
    for word in [word for word in found if (stem := re.sub(r"_\d+$", "", word)) != word and stem in found]:
        del found[word]
    tensors: dict[str, Tensor] = {}
    records: list[TokenRecord] = []
    for word, ids in found.items():
        rows = {name.partition(".")[0]: tables[name].table[numbers] for name, numbers in ids.items()}
        tensors |= {f"{bundle_prefix(word)}{key}": value for key, value in rows_to_file(rows, word).items()}
        count = len(next(iter(ids.values())))
        records.append(TokenRecord(token=word, vectors=count, initial=dict.fromkeys(rows, word)))
    kept = {name: {number for ids in found.values() for number in ids[name]} for name in tables}
    return ExtractedWords(
        tensors=tensors,
        metadata=write_records(records) if records else {},
        energies={
            name: Energy(
                changed=sum(table.changed.values()),
                kept=sum(energy for number, energy in table.changed.items() if number in kept[name]),
            )
            for name, table in tables.items()
        },
        rows=[*([("words", ", ".join(found))] if found else []), *lost_rows(tables, kept)],
    )


def lost_rows(tables: Mapping[str, ChangedRows], kept: Mapping[str, set[int]]) -> list[tuple[str, str]]:
    """Say how many rows of each table are in no word."""
    rows: list[tuple[str, str]] = []
    for name, table in tables.items():
        lost = len(table.changed.keys() - kept[name])
        unnamed = table.added - len([number for number in kept[name] if number not in table.changed])
        if lost or unnamed > 0:
            facts = [f"{lost} changed rows"] * bool(lost) + [f"{unnamed} added rows"] * (unnamed > 0)
            rows.append((name.partition(".")[0], f"{' and '.join(facts)} of token embeddings are left out"))
    return rows


def changed_rows(bases: TwoBases, name: str) -> ChangedRows:
    """Compare the tables of one text encoder, and name the rows that differ."""
    before_ND, after_ND = bases.read_before(name), bases.read_after(name)
    shared = len(before_ND)
    numbers = torch.nonzero((before_ND != after_ND[:shared]).any(1)).flatten().tolist()
    changed = {
        number: float((after_ND[number].float() - before_ND[number].float()).double().square().sum())
        for number in numbers
    }
    added = list(range(shared, len(after_ND)))
    known = token_names(bases.after, name) if changed or added else {}
    named: dict[int, str] = {}
    for number in (*(numbers if len(numbers) <= MOST_WORDS else ()), *added[:MOST_WORDS]):
        token = known.get(number, "")
        if number >= shared or token.endswith(WORD_END):
            word = token.removesuffix(WORD_END)
            if word and not re.fullmatch(r"<\|.*\|>", word):
                named[number] = word
    return ChangedRows(table=after_ND, rows=named, changed=changed, added=len(added))


def ids_of(base: BaseFiles, name: str, word: str, table: ChangedRows) -> list[int]:
    """Find the rows of a word in one table: its own, and those called `word_1` and so on."""
    known = {token: number for number, token in token_names(base, name).items()}
    own = known.get(f"{word}{WORD_END}", known.get(word))
    if own is None:
        return []
    rows = [own]
    while (more := known.get(f"{word}_{len(rows)}")) is not None and more in table.rows:
        rows.append(more)
    return rows


def token_names(base: BaseFiles, table: str) -> dict[int, str]:
    """Read which token each row of a table stands for; empty where no tokenizer says it."""
    if base.path.is_file():
        size = base.places[table].shape[0]
        return {number: token for token, number in clip_tokenizer(size).get_vocab().items()}
    folder = base.path / tokenizer_of(table.partition(".")[0])
    found: dict[int, str] = {}
    for path in (folder / "tokenizer.json", folder / "vocab.json", folder / "added_tokens.json"):
        found |= tokens_in(path)
    return found


def tokens_in(path: Path) -> dict[int, str]:
    """Read the tokens of one file of a tokenizer; empty where there is no such file."""
    try:
        values: Any = read_json_object(path)
    except UnreadableFile:
        return {}
    if path.name != "tokenizer.json":
        return {number: token for token, number in values.items() if isinstance(number, int)}
    model: Any = values.get("model")
    vocabulary: Any = model.get("vocab") if isinstance(model, dict) else {}
    found = {number: token for token, number in vocabulary.items()} if isinstance(vocabulary, dict) else {}
    added: Any = values.get("added_tokens")
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and isinstance(token.get("id"), int):
            found[token["id"]] = str(token.get("content"))
    return found
