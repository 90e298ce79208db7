"""CLIP's tokenizer, made from its byte pairs (Radford et al. 2021, arXiv 2103.00020).

NOTICE says where they come from.
"""

from __future__ import annotations

import gzip
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from transformers import CLIPTokenizer

from mascot.storage.untrusted_files import read_bytes

SIZE: Final = 49_408
"""Tokens of the whole vocabulary."""
POSITIONS: Final = 77
"""Tokens of a prompt, start and end included."""
START, END = "<|startoftext|>", "<|endoftext|>"


@cache
def merges() -> tuple[tuple[str, str], ...]:
    """Return all byte pairs, in the order in which they are merged."""
    packed = read_bytes(Path(str(files("mascot.models.base_files").joinpath("clip_merges.txt.gz"))))
    pairs = (line.split() for line in gzip.decompress(packed).decode("utf-8").splitlines())
    return tuple((first, second) for first, second in pairs)


def byte_letters() -> list[str]:
    """Return a printable letter for each byte, in the order of the vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(printable)
    return [*map(chr, printable), *(chr(256 + number) for number in range(others))]


def clip_tokenizer(size: int = SIZE, *, padding: str = END) -> CLIPTokenizer:
    """Make the tokenizer of an embedding table with `size` rows.

    A smaller table has the first byte pairs alone, which is a tokenizer too. A larger one has rows
    for tokens that were added to it, which no prompt reaches.

    Args:
        size: Rows of the embedding table.
        padding: The token that fills prompts: the end token in OpenAI's encoder, `!` in OpenCLIP's.
    """
    letters = byte_letters()
    pairs = merges()[: max(0, size - 2 * len(letters) - 2)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in pairs), START, END]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    listed: Any = list(pairs)  # annotated as texts, which the class does not read
    return CLIPTokenizer(vocab=vocabulary, merges=listed, model_max_length=POSITIONS, pad_token=padding)
