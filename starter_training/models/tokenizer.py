"""Train the CLIP-format tokenizer of the starter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import CLIPTokenizer

from starter_training.scenes.caption_words import invented_names
from starter_training.scenes.scene_grammar import stream
from starter_training.scenes.world import World

POSITIONS = 24
"""Tokens of one prompt, start and end included; captions have 12 on average."""
CAPTIONS = 20_000
"""Captions on which the tokenizer is trained."""
SIZE = 4096
"""Tokens of the vocabulary."""


def rare_tokens() -> list[str]:
    """Return meaningless short words that stay single tokens, as identifier tokens for users.

    No caption contains one.
    """
    consonants = "bdfgkmnprstvwxz"
    words = ["sks", "ohwx", "zwx", "shs", "sts", "scs", "cpc", "ukj", "ajs", "olis"]
    words += ["".join(letters) for letters in islice(product(consonants, consonants, "xzqk"), 0, None, 7)]
    return sorted(set(words) - set(invented_names()))[:120]


def captions(work: Path) -> Iterator[str]:
    """Yield captions of scenes forever; the scenes are tiny, as nobody looks at them."""
    return (caption for _, caption in stream(World(work / "drawings.npz", side=16), [0, 77]))


def train_tokenizer(work: Path) -> None:
    """Train byte pairs on captions, emoji names and general words; write `work/tokenizer`.

    Prints how many words of the captions and rare tokens are split into several tokens.
    """
    seen = list(islice(captions(work), CAPTIONS))
    labels = work / "npm" / "node_modules" / "emojibase-data" / "en" / "data.json"
    general = [f"{record['label']} {' '.join(record.get('tags', []))}" for record in json.loads(labels.read_text())]
    corpus = seen + general * 3 + [" ".join(rare_tokens())] * 500 + [" ".join(invented_names())] * 500
    tokenizer = train_byte_pairs(corpus)
    tokenizer.save_pretrained(work / "tokenizer")
    words = {word for caption in seen for word in caption.split()} | set(rare_tokens())
    split = [word for word in sorted(words) if len(tokenizer.tokenize(word)) != 1]
    print(f"{len(tokenizer)} tokens; {len(words)} words of captions, {len(split)} of them split: {split[:10]}")


def train_byte_pairs(corpus: list[str]) -> CLIPTokenizer:
    """Train a byte-pair tokenizer of `SIZE` tokens in CLIP's format.

    Text is lower case, and `</w>` ends a word.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))  # noqa: S106 - no secret
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
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
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=POSITIONS)


@torch.no_grad()
def copy_weights(model: nn.Module, earlier: nn.Module, tokenizer: CLIPTokenizer, former: CLIPTokenizer) -> None:
    """Copy an earlier model's weights to one that differs in its vocabulary alone.

    A token gets the embedding of the same token. A word that used to be several tokens gets their
    mean. Other tokens keep theirs.
    """
    weights, name = earlier.state_dict(), next(n for n, _ in model.named_parameters() if "token_embedding" in n)
    rows, parameters, known = weights.pop(name), dict(model.named_parameters()), former.get_vocab()
    for key, weight in weights.items():
        if key in parameters:
            parameters[key].copy_(weight)
    for token, number in tokenizer.get_vocab().items():
        word = token.removesuffix("</w>")
        if token in known:
            parameters[name][number] = rows[known[token]]
        elif word != token:
            parameters[name][number] = rows[former.convert_tokens_to_ids(former.tokenize(word))].mean(0)
