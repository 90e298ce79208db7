"""Train the CLIP-format tokenizer of the starter."""

from __future__ import annotations

import json
from itertools import islice, product
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from starter_recipe.world import World, invented_names

POSITIONS = 24
"""Tokens of one prompt, both ends included; captions average 12."""
SIZE = 4096


def rare_tokens() -> list[str]:
    """Meaningless three-letter words kept as single tokens for users' subjects; no caption has one."""
    consonants = "bdfgkmnprstvwxz"
    words = ["sks", "ohwx", "zwx", "shs", "sts", "scs", "cpc", "ukj", "ajs", "olis"]
    words += ["".join(letters) for letters in islice(product(consonants, consonants, "xzqk"), 0, None, 7)]
    return sorted(set(words) - set(invented_names()))[:120]


def train_tokenizer(work: Path) -> None:
    """Learn byte pairs on captions, emoji names and general words; every word of the world becomes one token."""
    world = World(work / "drawings.npz")
    captions = [caption for _, caption in islice(world.stream([0, 77]), 20_000)]
    labels = work / "npm" / "node_modules" / "emojibase-data" / "en" / "data.json"
    general = [f"{record['label']} {' '.join(record.get('tags', []))}" for record in json.loads(labels.read_text())]
    corpus = captions + general * 3 + [" ".join(rare_tokens())] * 500 + [" ".join(invented_names())] * 500
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))  # noqa: S106 - a vocabulary entry
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE - 2 - len(alphabet),
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocab: dict[str, int] = {}
    for token in [
        *alphabet,
        *(a + "</w>" for a in alphabet),
        *sorted(model["vocab"], key=model["vocab"].get),
        "<|startoftext|>",
        "<|endoftext|>",
    ]:
        vocab.setdefault(token, len(vocab))
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]
    made = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=POSITIONS)
    made.save_pretrained(work / "tokenizer")
    words = {word for caption in captions for word in caption.split()} | set(rare_tokens())
    split = [word for word in sorted(words) if len(made.tokenize(word)) != 1]
    print(f"{len(vocab)} tokens; {len(words)} words of the world, {len(split)} of them split: {split[:10]}")
