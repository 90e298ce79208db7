"""Laws of tokens: what a word means to a base, and that a word with a meaning stands behind one without."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from mascot.errors import UserError
from mascot.evaluation.metrics.default_encoders import EncoderPair, load_encoders
from mascot.evaluation.selection import token_scoring
from mascot.evaluation.selection.rare_words import rare_words
from mascot.evaluation.selection.token_choice import open_examiner
from mascot.evaluation.selection.token_scoring import (
    TokenCandidate,
    TokenExaminer,
    TokenSignal,
    ends_of_alike,
    ends_of_match,
    normalized,
    tokenizers_of,
)
from mascot.generation.generator import Generator
from mascot.generation.knobs import Knobs
from mascot.generation.sample_cache import SampleCache
from mascot.models.families.registry import load_family
from mascot.storage.image_files import open_image
from tiny.families import tiny_base as tiny_family
from tiny.stable_diffusion import tiny_clip_tokenizer
from tiny.vocabularies import RARE, plant, rare_base

QUICK = Knobs(steps=1, guidance=1)
EMBEDDED = "starter"


@pytest.fixture(scope="module")
def encoders() -> EncoderPair:
    return load_encoders(EMBEDDED)


@pytest.fixture
def base(tiny_base: Path) -> Generator:
    """The tiny base with a vocabulary that has rare words, of which `vrk` is to it what `dog` is."""
    return Generator(rare_base(tiny_base))


def examiner(base: Generator, encoders: EncoderPair, folder: Path, **options: Any) -> TokenExaminer:
    return TokenExaminer(base, encoders, SampleCache(folder), knobs=QUICK, images=2, **options)


@given(st.floats(-1, 1), st.floats(-1, 0.4), st.floats(0.05, 0.6))
def test_the_scale_goes_from_nothing_to_a_noun(value: float, nothing: float, width: float) -> None:
    assert normalized(nothing, nothing, nothing + width) == 0
    assert normalized(nothing + width, nothing, nothing + width) == pytest.approx(1)
    meaning = normalized(value, nothing, nothing + width)
    assert meaning is not None
    assert nothing + meaning * width == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("noun", [0.3, 0.301, -1.0])
def test_without_a_scale_nothing_is_placed(noun: float) -> None:
    """Where nouns are no more alike than different things, or less."""
    assert normalized(0.9, 0.3, noun) is None


def unit(*rows: Sequence[float]) -> Tensor:
    return F.normalize(torch.tensor(rows, dtype=torch.float64), dim=1)


def test_the_ends_of_both_scales_are_the_definitions() -> None:
    """Two nouns with two pictures each; pictures of one seed are not compared across nouns, as they share their noise."""
    dog, cat = unit((1, 0), (0.8, 0.6)), unit((0, 1), (0.6, 0.8))
    assert ends_of_alike([dog, cat]) == pytest.approx((statistics.mean([0.6, 0.6]), statistics.mean([0.8, 0.8])))
    matches = {"dog": torch.tensor([0.5, 0.2, 0.0]), "cat": torch.tensor([0.3, 0.7, 0.1])}
    assert ends_of_match(matches, ("dog", "cat", "cup")) == pytest.approx((statistics.mean([0.1, 0.2]), 0.6))


def candidate(read: float, alike: float | None, matched: float | None) -> TokenCandidate:
    read_sign = TokenSignal(value=read, meaning=read, noun="dog")
    signs = [TokenSignal(value=0.1, meaning=meaning, noun="cup") for meaning in (alike, matched)]
    return TokenCandidate(
        token=RARE[0], spellings=(), read=read_sign, alike=signs[0], matched=signs[1], images=(Path("a"), Path("b"))
    )


@given(st.tuples(*[st.floats(-2, 2)] * 3), st.integers(0, 2), st.floats(0, 1))
def test_a_stronger_sign_never_lowers_the_meaning(signs: tuple[float, float, float], place: int, more: float) -> None:
    stronger = [sign + more * (index == place) for index, sign in enumerate(signs)]
    assert candidate(*stronger).meaning >= candidate(*signs).meaning >= 0


def test_what_has_no_scale_is_left_out_and_said() -> None:
    unknown = candidate(0.2, None, None)
    assert unknown.meaning == pytest.approx(0.2)
    assert unknown.why.count("no scale") == 2
    assert "nan" not in unknown.why.lower()
    assert "reads most like dog (20% of the way to it)" in unknown.why


def test_the_sentence_follows_the_numbers() -> None:
    assert candidate(0.1, -0.3, 0.2).why.startswith("means little: ")
    assert "2 pictures are 0% as alike" in candidate(0.1, -0.3, 0.2).why
    assert candidate(0.9, 1.2, 1).why.startswith("means something: ")


def test_a_word_with_a_meaning_stands_last(base: Generator, encoders: EncoderPair, tmp_path: Path) -> None:
    """`vrk` is read as `dog`, draws a dog's pictures to the byte, and stands behind every word that means nothing."""
    found = examiner(base, encoders, tmp_path).find(count=len(RARE))
    assert {one.token for one in found} == set(RARE)
    assert [one.meaning for one in found] == sorted(one.meaning for one in found)
    last = found[-1]
    assert (last.token, last.read.noun) == ("vrk", "dog")
    assert last.read.value == pytest.approx(1, abs=1e-4)
    assert max(one.read.value for one in found[:-1]) < 0.9
    dogs = examiner(base, encoders, tmp_path).generate(["dog"])["dog"]
    assert pixels(last.images) == pixels(dogs)
    assert pixels(found[0].images) != pixels(dogs)


def pixels(paths: Sequence[Path]) -> list[bytes]:
    return [open_image(path).tobytes() for path in paths]


def test_the_same_seed_finds_the_same_and_draws_once(
    base: Generator, encoders: EncoderPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer are the first of more; a second search draws nothing; another seed does."""
    best = examiner(base, encoders, tmp_path).find(count=2)
    elsewhere = examiner(base, encoders, tmp_path / "again").find(count=5)
    assert [(one.token, one.meaning) for one in best] == [(one.token, one.meaning) for one in elsewhere[:2]]
    monkeypatch.setattr(base, "draw", refuse)
    assert examiner(base, encoders, tmp_path).find(count=2) == best
    with pytest.raises(AssertionError, match="drawn again"):
        examiner(base, encoders, tmp_path, seed=7).find(count=2)


def refuse(*_: Any) -> Any:
    raise AssertionError("drawn again")


def test_fewer_candidates_are_those_that_read_least(base: Generator, encoders: EncoderPair, tmp_path: Path) -> None:
    ours = examiner(base, encoders, tmp_path)
    least = sorted(RARE, key=lambda word: ours.reader.read(word).value)
    assert {one.token for one in ours.find(candidates=2)} == set(least[:2])


def test_progress_counts_every_picture(base: Generator, encoders: EncoderPair, tmp_path: Path) -> None:
    heard: list[tuple[str, Any]] = []
    ours = examiner(base, encoders, tmp_path)
    ours.find(candidates=2, progress=lambda phase, facts: heard.append((phase, facts)))
    assert heard[0] == ("pictures", 2 * (2 + len(ours.references)))
    assert [phase for phase, _ in heard[1:]] == ["picture"] * heard[0][1]
    assert all(path.exists() for _, path in heard[1:])


def test_a_noun_is_not_its_own_neighbour(base: Generator, encoders: EncoderPair, tmp_path: Path) -> None:
    ours = examiner(base, encoders, tmp_path)
    assert all(ours.reader.read(noun).noun != noun for noun in ours.nouns)
    assert {"dog", "cat", "hat", "toy"} == set(ours.nouns), "those that the tiny vocabulary keeps whole"


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux", "deepfloyd_if", "deepfloyd_if_cascade"])
def test_every_family_can_be_asked(
    name: str, encoders: EncoderPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its tokenizers spells, and what its denoiser is told tells nouns apart."""
    monkeypatch.setattr(token_scoring, "REFERENCES", 2)  # two are a scale, and pictures of a cascade are slow
    base = Generator(load_family(str(tiny_family(name, tmp_path / "base")), device="cpu", precision="fp32"))
    side = min(base.resolution, 128)
    knobs = QUICK.model_copy(update={"height": side, "width": side})
    ours = TokenExaminer(base, encoders, SampleCache(tmp_path / "gallery"), knobs=knobs, images=2)
    (found,) = ours.examine(["sks"])
    assert [spelling.encoder for spelling in found.spellings] == list(ours.reader.tokenizers)
    assert found.read.noun in ours.nouns
    assert -1 <= found.read.value < 0.999
    assert found.meaning >= 0


def test_a_vocabulary_without_rare_words_is_refused(base: Generator, encoders: EncoderPair, tmp_path: Path) -> None:
    given = tokenizers_of(base.family)
    assert isinstance(given, dict)
    given["text_encoder"] = tiny_clip_tokenizer()
    ours = examiner(base, encoders, tmp_path)
    with pytest.raises(UserError, match="choose a token yourself"):
        ours.find()


def test_a_vocabulary_without_nouns_is_refused(base: Generator, encoders: EncoderPair, tmp_path: Path) -> None:
    given = tokenizers_of(base.family)
    assert isinstance(given, dict)
    given["text_encoder"] = tiny_clip_tokenizer(("dog", *RARE))
    with pytest.raises(UserError, match="no nouns to compare"):
        examiner(base, encoders, tmp_path)


def test_the_embedded_base_has_candidates() -> None:
    """Its vocabulary's own numbers give enough of them, and none is a word of its captions."""
    family = load_family(EMBEDDED, device="cpu", precision="fp32")
    words = rare_words(tokenizers_of(family))
    assert len(words) > 20
    assert not {"fan", "jar", "bye", "dog", "as", "we"} & set(words)


@pytest.mark.slow
def test_a_noun_like_token_of_the_embedded_base_stands_last(encoders: EncoderPair, tmp_path: Path) -> None:
    """`fy`, the emptiest when this was written, is made to mean what `panda` does: its pictures are pandas, and all signs see it."""
    ours = open_examiner(EMBEDDED, folder=tmp_path)
    before = {one.token: one for one in ours.examine(["fy", "ua", "dly"])}
    stage: Any = ours.generator.family.stages[0]
    plant(stage.text_encoder("text_encoder"), ours.reader.tokenizers["text_encoder"], "fy", "panda")
    planted = TokenExaminer(ours.generator, encoders, SampleCache(tmp_path / "planted"))
    after = {one.token: one for one in planted.examine(["fy", "ua", "dly"])}
    assert max(after, key=lambda token: after[token].meaning) == "fy"
    assert after["fy"].read.noun == "panda"
    assert before["fy"].meaning < token_scoring.LITTLE
    assert after["fy"].meaning > 0.8
    assert after["fy"].alike.value > before["fy"].alike.value + 0.1
    assert after["fy"].matched.value > before["fy"].matched.value + 0.1
    assert after["ua"].meaning == pytest.approx(before["ua"].meaning, abs=0.01)
