"""Words (trained token embeddings) in other tools' files, alone or beside low-rank layers.

Read are: diffusers' file (a tensor named as the token), `emb_params` and `string_to_param.*` of
A1111 and kohya, `emp_params` as OneTrainer spells it, the pair `clip_l` and `clip_g` of SDXL and
SD3, and `bundle_emb.TOKEN.*` beside a LoRA (OneTrainer, A1111, ComfyUI). A file of cloneofsimo's
lora names its tokens in the metadata.

Shape suffixes: N embedding rows of a word, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from mascot.adapters.formats.numbered_layers import WORD_MARK, read_numbered
from mascot.adapters.token_rows import (
    BUNDLE,
    ENCODERS,
    MOST_ROWS,
    RECORDS_KEY,
    TokenRecord,
    bundle_prefix,
    file_keys,
    read_records,
    write_records,
)
from mascot.errors import UserError, list_some, shorten

ONLY_ENCODER: Final = "text_encoder"
SECOND_ENCODER: Final = "text_encoder_2"
PART_OF_ROWS: Final[Mapping[str, str]] = {
    "emb_params": ONLY_ENCODER,
    "emp_params": ONLY_ENCODER,
    "string_to_param.*": ONLY_ENCODER,
    "clip_l": ONLY_ENCODER,
    "text_encoders_0": ONLY_ENCODER,
    "clip_g": SECOND_ENCODER,
    "text_encoders_1": SECOND_ENCODER,
}
"""Name of a word's rows, in a file of its own or after its name in a bundle -> the text encoder."""
UNREAD_ROWS: Final[Mapping[str, str]] = {
    "t5": "rows for a T5, whose words cannot be added",
    "t5xxl": "rows for a T5, whose words cannot be added",
    "llama": "rows for a Llama, which no base here has",
    "gemma": "rows for a Gemma, which no base here has",
    "clip_h": "rows for an unknown text encoder",
    **dict.fromkeys(
        ("clip_l_out", "clip_g_out", "t5_out", "emb_params_out", "emp_params_out", "llama_out", "gemma_out"),
        "output embeddings, which are added behind the text encoder",
    ),
}
"""Names of rows that have no place here -> what they are."""
MOST_WORDS: Final = 100
"""Most words of a file; each makes a tokenizer of its own."""
LONGEST_WORD: Final = 200
"""Most letters of a word."""
LAYER_MARKS: Final = ("lora_", "hada_", "lokr_")
"""One of these stands in the names of low-rank layers' tensors."""
ALONE_NAMES: Final = ("emb_params", "string_to_param.*")
"""A word's rows for one text encoder: in a file of its own, and in a bundle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A word and its embedding rows."""

    token: str
    rows: Mapping[str, Tensor]
    """Text encoder -> the rows, N x D."""
    initial: Mapping[str, str] = field(default_factory=dict[str, str])
    """Text encoder -> the words that its rows started from; the token itself where it is unknown.

    A scale between 0 and 1 lies between the two.
    """

    @property
    def record(self) -> TokenRecord:
        """What our metadata say about it."""
        counts = {len(rows_ND) for rows_ND in self.rows.values()}
        if len(counts) != 1 or not 1 <= (count := counts.pop()) <= MOST_ROWS:
            shapes = ", ".join(f"{part} {tuple(rows.shape)}" for part, rows in self.rows.items())
            raise UserError(
                f"the rows of {self.token} ({shapes}) are no word of 1 to {MOST_ROWS} rows; "
                "get the file again from where it comes from."
            )
        initial = {part: self.initial.get(part, self.token) for part in self.rows}
        return TokenRecord(token=self.token, vectors=count, initial=initial)


def holds_one_word(shapes: Mapping[str, Sequence[int]]) -> bool:
    """Tell whether a file holds the rows of one word and nothing else, under names of encoders."""
    return bool(shapes) and shapes.keys() <= PART_OF_ROWS.keys() | UNREAD_ROWS.keys()


def holds_named_words(shapes: Mapping[str, Sequence[int]]) -> bool:
    """Tell whether a file holds nothing but words, each under its token's name."""
    if not shapes or len(shapes) > MOST_WORDS or any(len(shape) not in {1, 2} for shape in shapes.values()):
        return False
    widths = {shape[-1] for shape in shapes.values()}
    return len(widths) == 1 and not any(is_layer(key) or (len(shapes) > 1 and "." in key) for key in shapes)


def is_foreign_word(key: str) -> bool:
    """Tell whether a tensor's name is one of rows in another tool's file, which ours never has."""
    return (key.removeprefix(BUNDLE) != key and key.endswith(f".{ALONE_NAMES[1]}")) or key in ALONE_NAMES


def is_layer(key: str) -> bool:
    """Tell whether a tensor's name is that of a layer, not of a word: words have no weights."""
    ending = key.rpartition(".")[2]
    return any(mark in key for mark in (*LAYER_MARKS, BUNDLE, ":")) or ending in {"weight", "bias", "alpha"}


def take_words(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], name: str
) -> tuple[dict[str, Tensor], list[Word]]:
    """Take the words out of a file of any format; returns its other tensors, and the words.

    A file that holds one word and does not name it is named `name`, its name without the ending.

    Raises:
        UserError: a word has rows that have no place here, or too many of them.
    """
    records = {record.token: record for record in read_records(metadata)} if RECORDS_KEY in metadata else {}
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if holds_one_word(shapes):
        token = next(iter(records), name)
        return {}, [make_word(token, tensors, records.get(token))]
    if holds_named_words(shapes):
        return {}, [make_word(token, {token: rows}, records.get(token)) for token, rows in tensors.items()]
    marked = [key for key in tensors if metadata.get(key) == WORD_MARK and ":" not in key]
    bundled: dict[str, dict[str, Tensor]] = {}
    for key in (key for key in tensors if key.startswith(BUNDLE)):
        token, rows = split_bundled(key, records)
        bundled.setdefault(token, {})[rows] = tensors[key]
    if len(bundled) + len(marked) > MOST_WORDS:
        raise UserError(
            f"it holds {len(bundled) + len(marked)} words, and at most {MOST_WORDS} are read; "
            "give a file with fewer of them."
        )
    words = [make_word(token, rows, records.get(token)) for token, rows in bundled.items()]
    words += [make_word(token, {token: tensors[token]}, None) for token in marked]
    rest = {key: value for key, value in tensors.items() if not key.startswith(BUNDLE) and key not in marked}
    return rest, words


def split_bundled(key: str, tokens: Iterable[str]) -> tuple[str, str]:
    """Split a name `bundle_emb.TOKEN.ROWS` into token and rows; a token may hold dots."""
    for token in sorted(tokens, key=len, reverse=True):
        if key.startswith(bundle_prefix(token)):
            return token, key.removeprefix(bundle_prefix(token))
    inner = key.removeprefix(BUNDLE)
    for rows in (*PART_OF_ROWS, *UNREAD_ROWS):
        if inner.endswith(f".{rows}"):
            return inner.removesuffix(f".{rows}"), rows
    half = len(inner) // 2
    if inner[:half] == inner[half + 1 :]:  # the token names its own rows
        return inner[:half], inner[:half]
    token, _, rows = inner.rpartition(".")
    return token or rows, rows


def make_word(token: str, tensors: Mapping[str, Tensor], record: TokenRecord | None) -> Word:
    """Make a word of its tensors in a file, by their names.

    Raises:
        UserError: some of them have no place here, or are no rows.
    """
    if not token.strip():
        raise UserError("it holds a word without a name; get the file again from where it comes from.")
    if len(token) > LONGEST_WORD or not token.isprintable() or "{" in token or "}" in token:
        raise UserError(
            f"it holds a word that no prompt can have, {shorten(token)!r}; get the file again from where it comes from."
        )
    for key in tensors:
        if key in UNREAD_ROWS:
            raise UserError(
                f"the word {token} has {UNREAD_ROWS[key]} ({key}), and would not draw the same without them; "
                "generate with the tool that wrote it."
            )
    rows: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        part = PART_OF_ROWS.get(key, ONLY_ENCODER)
        is_named = key in PART_OF_ROWS or key == token
        if not is_named or tensor.ndim not in {1, 2} or not tensor.is_floating_point() or part in rows:
            raise UserError(
                f"the word {token} has a tensor {shorten(key)} {tuple(tensor.shape[:9])}, "
                "which is no row of an embedding; "
                "get the file again from where it comes from."
            )
        rows[part] = tensor if tensor.ndim == 2 else tensor[None]
    if list(rows) == [SECOND_ENCODER]:
        raise UserError(
            f"the word {token} has rows for the second text encoder alone, and a base with two needs both; "
            "generate with the tool that wrote it."
        )
    word = Word(token=token, rows=dict(sorted(rows.items())), initial={} if record is None else record.initial)
    assert word.record.vectors, "a word has rows"
    return word


def own_words(words: Sequence[Word], *, bundled: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Write words in our own form; returns tensors and metadata. `bundled` says that layers follow.

    They are then under `bundle_emb.TOKEN.`, and so are several words.
    """
    if not words:
        return {}, {}
    tensors: dict[str, Tensor] = {}
    for word in words:
        prefix = bundle_prefix(word.token) if bundled or len(words) > 1 else ""
        keys = file_keys(word.rows, word.token)
        tensors |= {f"{prefix}{keys[part]}": rows_ND for part, rows_ND in word.rows.items()}
    return tensors, write_records([word.record for word in words])


def word_file(word: Word) -> dict[str, Tensor]:
    """Write a word as the file of its own that A1111, Forge, kohya and ComfyUI read."""
    names = (ALONE_NAMES[0],) if len(word.rows) == 1 else ENCODERS
    return dict(zip(names, word.rows.values(), strict=True))


def write_words(to: str, words: Sequence[Word], *, bundled: bool) -> dict[str, Tensor]:
    """Write words in one of the formats of the registry; `bundled` says that layers stand beside.

    Raises:
        UserError: the format has no form for them.
    """
    if to == "diffusers" or not words:
        return own_words(words, bundled=bundled)[0]
    if to == "peft":
        raise UserError(
            f"peft has no form for words, and this adapter holds {list_some(word.token for word in words)}; "
            "give --to diffusers."
        )
    if bundled:
        return bundle_words(words)
    if len(words) > 1:
        raise UserError(
            f"a file of {to} holds one word, and this adapter {list_some(word.token for word in words)}; "
            "give --to diffusers."
        )
    return word_file(words[0])


Content = tuple[dict[str, Tensor], dict[str, str]]
"""Tensors and metadata of a file."""


def separate_words(
    to: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> tuple[Content, dict[str, Content]]:
    """Take out the words that need files of their own in a format, from tensors in our form.

    diffusers reads layers by `load_lora_weights` and words by `load_textual_inversion`, from two
    files; peft knows no words. Other tools read words beside layers, but one word from a file of
    words.

    Returns:
        What remains, and each separated word's content in our form, by its token.
    """
    rest, words = take_words(tensors, metadata, "word")
    if not words or (len(words) == 1 and not rest) or (rest and to not in {"diffusers", "peft"}):
        return (dict(tensors), dict(metadata)), {}
    others = {key: value for key, value in metadata.items() if key != RECORDS_KEY}
    apart: dict[str, Content] = {}
    for word in words:
        own, record = own_words([word], bundled=False)
        apart[word.token] = own, record
    return (rest, others), apart


def bundle_words(words: Sequence[Word]) -> dict[str, Tensor]:
    """Write words beside a LoRA's layers, as A1111, Forge, ComfyUI and OneTrainer read them.

    Raises:
        UserError: a token holds a dot, at which these tools split the name.
    """
    dotted = [word.token for word in words if "." in word.token]
    if dotted:
        raise UserError(
            f"the word {list_some(dotted)} holds a dot, and other tools split a bundled word's name there; "
            "convert with --to diffusers, which writes words into files of their own."
        )
    tensors: dict[str, Tensor] = {}
    for word in words:
        names = (ALONE_NAMES[1],) if len(word.rows) == 1 else ENCODERS
        for name, rows_ND in zip(names, word.rows.values(), strict=True):
            tensors[f"{bundle_prefix(word.token)}{name}"] = rows_ND
    return tensors


def tensors_in_pickle(value: object) -> dict[str, Tensor] | None:
    """Name the tensors of a pickled file of words or numbered layers, as a safetensors file would.

    Read are A1111's and kohya's words, diffusers' `learned_embeds.bin`, and cloneofsimo's lists of
    up and down projections in turn. None stands for anything else.
    """
    if isinstance(value, dict) and "string_to_param" in value:
        inner = value["string_to_param"]
        value = {"string_to_param.*": next(iter(inner.values()))} if isinstance(inner, dict) and len(inner) == 1 else {}
    if isinstance(value, list):
        pairs = {f"{number // 2}:{('up', 'down')[number % 2]}": tensor for number, tensor in enumerate(value)}
        value = name_pairs(pairs) if all(isinstance(tensor, Tensor) for tensor in value) else {}
    if not isinstance(value, dict) or not value:
        return None
    if not all(isinstance(key, str) for key in value) or not all(map(is_plain, value.values())):
        return None
    return {key: tensor.detach() for key, tensor in value.items()}


def is_plain(tensor: object) -> bool:
    """Tell whether a value is a tensor with all its values in memory, and not one repeated."""
    if (
        not isinstance(tensor, Tensor)
        or tensor.layout != torch.strided
        or tensor.is_quantized
        or tensor.device.type != "cpu"
    ):
        return False
    return tensor.nbytes <= tensor.untyped_storage().nbytes()


def name_pairs(pairs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name pairs of projections by the part that they fit: a text encoder, or else a UNet."""
    text = {f"text_encoder:{key}": tensor for key, tensor in pairs.items()}
    try:
        read_numbered(text)
    except UserError:
        return {f"unet:{key}": tensor for key, tensor in pairs.items()}
    return text
