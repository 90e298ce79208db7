"""Words of every tool's file: read by name, written as that tool reads them, the same rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mascot.adapters.formats.word_files import Word, bundle_words, own_words, take_words, word_file
from mascot.adapters.token_rows import read_records
from mascot.errors import UserError

ROWS = torch.randn(2, 768, generator=torch.Generator().manual_seed(0))
WIDE = torch.randn(2, 1280, generator=torch.Generator().manual_seed(1))
SKS, DOTTED = "sks", "a.b"
ONE = Word(token=SKS, rows={"text_encoder": ROWS}, initial={"text_encoder": "dog"})
PAIR = Word(token=SKS, rows={"text_encoder": ROWS, "text_encoder_2": WIDE})
LAYER = {"lora_unet_x.lora_up.weight": torch.ones(2, 2)}


@pytest.mark.parametrize(
    ("tensors", "token", "parts"),
    [
        ({"<owl>": ROWS}, "<owl>", ["text_encoder"]),
        ({"emb_params": ROWS}, "style", ["text_encoder"]),
        ({"emp_params": ROWS}, "style", ["text_encoder"]),
        ({"string_to_param.*": ROWS}, "style", ["text_encoder"]),
        ({"clip_l": ROWS}, "style", ["text_encoder"]),
        ({"clip_g": WIDE, "clip_l": ROWS}, "style", ["text_encoder", "text_encoder_2"]),
        ({"text_encoders_0": ROWS, "text_encoders_1": WIDE}, "style", ["text_encoder", "text_encoder_2"]),
        ({"bundle_emb.owl.clip_l": ROWS, **LAYER}, "owl", ["text_encoder"]),
        ({"bundle_emb.owl.string_to_param.*": ROWS, **LAYER}, "owl", ["text_encoder"]),
        ({"bundle_emb.owl.emb_params": ROWS, **LAYER}, "owl", ["text_encoder"]),
        ({"bundle_emb.o.w.l.o.w.l": ROWS, **LAYER}, "o.w.l", ["text_encoder"]),
        ({"bundle_emb.owl.clip_g": WIDE, "bundle_emb.owl.clip_l": ROWS, **LAYER}, "owl", "both"),
    ],
)
def test_a_word_is_found_under_every_name(tensors: dict[str, Tensor], token: str, parts: list[str] | str) -> None:
    rest, words = take_words(tensors, {}, "style")
    assert [word.token for word in words] == [token]
    assert list(words[0].rows) == (["text_encoder", "text_encoder_2"] if parts == "both" else parts)
    assert all(rows is tensor for rows, tensor in zip(words[0].rows.values(), (ROWS, WIDE), strict=False))
    assert rest == {key: value for key, value in tensors.items() if key in LAYER}


def test_tokens_of_a_numbered_file_are_words_of_one_row() -> None:
    tensors = {"<s1>": ROWS[0], "<s2>": ROWS[1], "unet:0:up": torch.ones(2, 1)}
    rest, words = take_words(tensors, {"<s1>": "<embed>", "<s2>": "<embed>", "unet": '["GEGLU"]'}, "disney")
    assert [(word.token, tuple(word.rows["text_encoder"].shape)) for word in words] == [
        ("<s1>", (1, 768)),
        ("<s2>", (1, 768)),
    ]
    assert list(rest) == ["unet:0:up"]


def test_several_words_may_share_a_file() -> None:
    _, words = take_words({"<a>": ROWS[0], "<b>": ROWS[1]}, {}, "words")
    assert [word.token for word in words] == ["<a>", "<b>"]


@pytest.mark.parametrize(
    "tensors", [LAYER, {"unet.a.lora_A.weight": ROWS}, {"weight": ROWS, "bias": ROWS[0]}, {"a": ROWS, "b": WIDE}, {}]
)
def test_other_files_hold_no_words(tensors: dict[str, Tensor]) -> None:
    assert take_words(tensors, {}, "style") == (tensors, [])


@pytest.mark.parametrize(
    ("tensors", "fault"),
    [
        ({"clip_l": ROWS, "t5": ROWS}, "the word style has rows for a T5, whose words cannot be added (t5)"),
        ({"clip_l": ROWS, "clip_l_out": ROWS}, "has output embeddings, which are added behind the text encoder"),
        ({"bundle_emb.a.clip_l_out": ROWS, **LAYER}, "the word a has output embeddings"),
        ({"clip_g": WIDE}, "has rows for the second text encoder alone"),
        ({"emb_params": torch.ones(2, 3, 4)}, r"has a tensor emb_params (2, 3, 4), which is no row"),
        ({"emb_params": torch.ones(2, 3, dtype=torch.long)}, "which is no row"),
        ({"emb_params": torch.ones(90, 8)}, "are no word of 1 to 75 rows"),
        ({"clip_l": ROWS, "clip_g": WIDE[:1]}, "are no word of 1 to 75 rows"),
        ({"clip_l": ROWS, "emb_params": ROWS}, "which is no row"),
        ({" ": ROWS}, "it holds a word without a name"),
        ({"bundle_emb..clip_l": ROWS, **LAYER}, "it holds a word without a name"),
    ],
)
def test_what_cannot_be_a_word_is_refused_by_name(tensors: dict[str, Tensor], fault: str) -> None:
    with pytest.raises(UserError) as caught:
        take_words(tensors, {}, "style")
    assert fault in str(caught.value)


@pytest.mark.parametrize("word", [ONE, PAIR], ids=["one encoder", "two encoders"])
@pytest.mark.parametrize("bundled", [False, True], ids=["alone", "bundled"])
def test_out_and_back_gives_the_same_tensors_and_record(word: Word, *, bundled: bool) -> None:
    own, metadata = own_words([word], bundled=bundled)
    _, ours = take_words({**own, **(LAYER if bundled else {})}, metadata, "file")
    written = bundle_words(ours) if bundled else word_file(ours[0])
    _, back = take_words({**written, **(LAYER if bundled else {})}, metadata, "file")
    again, metadata_again = own_words(back, bundled=bundled)
    assert metadata_again == metadata
    assert own.keys() == again.keys()
    assert all(own[key] is again[key] for key in own)
    assert read_records(metadata)[0].initial == {part: word.initial.get(part, "sks") for part in word.rows}


def test_a_dot_in_a_bundled_word_is_refused() -> None:
    with pytest.raises(UserError, match="holds a dot"):
        bundle_words([Word(token=DOTTED, rows={"text_encoder": ROWS})])


def test_a_token_that_begins_another_keeps_its_own_rows() -> None:
    words = [Word(token=name, rows={"text_encoder": ROWS + number}) for number, name in enumerate(("a", "a.b"))]
    own, metadata = own_words(words, bundled=True)
    _, back = take_words(own, metadata, "file")
    assert {word.token: float(word.rows["text_encoder"][0, 0] - ROWS[0, 0]) for word in back} == {"a": 0, "a.b": 1}


def test_thousands_of_words_are_refused_at_once() -> None:
    rows = {f"word{number}": torch.ones(2) for number in range(10_000)}
    assert take_words(rows, {}, "file") == (rows, [])
    bundled = {f"bundle_emb.{name}.clip_l": row for name, row in rows.items()}
    with pytest.raises(UserError, match="holds 10000 words, and at most 100 are read"):
        take_words(bundled, {}, "file")
