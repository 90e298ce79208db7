"""Tiny vocabularies that end in rare words, for both kinds of tokenizers, and a base with one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPTextModel, CLIPTokenizer, T5Tokenizer

from mascot.models.families.registry import load_family
from mascot.models.pipeline_stage import PipelineStage
from mascot.protocols import Family
from tiny.stable_diffusion import WORDS, text_config, tiny_clip_tokenizer

RARE = ("vrk", "xqz", "zj", "bwx", "qol")
"""Words that stand at the end of the tiny vocabularies."""
NO_CANDIDATES = ("gzkq", "ape", "sks", "k9")
"""Words there that are no candidates: too long, a common word, the common token, a digit."""


def clip_tokenizer(last: Sequence[str] = (*RARE, *NO_CANDIDATES), first: Sequence[str] = ("jwv",)) -> CLIPTokenizer:
    """Make the tiny tokenizer, with given words at the beginning and the end of its merges."""
    return tiny_clip_tokenizer((*first, *(word for word in WORDS if word not in last), *last))


def t5_tokenizer(last: Sequence[str] = (*RARE, *NO_CANDIDATES), sentinels: int = 0) -> T5Tokenizer:
    """Make a unigram tokenizer of frequent words, rare words, and letters that begin no word."""
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    words = (*(word for word in WORDS[1:] if word not in last), *last)
    vocab += [(f"\u2581{word}", -3.0) for word in words] + [("wkx", -5.0)]
    vocab += [(letter, -9.0) for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]
    return T5Tokenizer(vocab=vocab, extra_ids=sentinels, model_max_length=32)


def rare_base(tiny_base: Path) -> Family:
    """Load the tiny base with a vocabulary of rare words; `vrk` has the embedding of `dog`."""
    family = load_family(str(tiny_base), device="cpu", precision="fp32")
    stage = family.stages[0]
    assert isinstance(stage, PipelineStage)
    tokenizer = clip_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = CLIPTextModel(text_config(tokenizer)).eval().requires_grad_(requires_grad=False)
    plant(encoder, tokenizer, "vrk", "dog")
    stage.tokenizers["text_encoder"], stage.loaded["text_encoder"] = tokenizer, encoder
    return family


def plant(encoder: Any, tokenizer: Any, word: str, other: str) -> None:
    """Give a word the embedding of another one."""
    table = encoder.get_input_embeddings().weight
    to, source = tokenizer.convert_tokens_to_ids([f"{word}</w>", f"{other}</w>"])
    table.data[to] = table.data[source]
