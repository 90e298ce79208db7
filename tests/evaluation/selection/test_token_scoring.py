"""Laws of token scoring: a word with a meaning ranks behind one without."""

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
from mascot.evaluation.selection.rare_words import find_rare_words
from mascot.evaluation.selection.token_choice import open_token_scorer
from mascot.evaluation.selection.token_scoring import (
    TokenCandidate,
    TokenScorer,
    TokenStatistic,
    image_similarity_scale,
    normalize,
    prompt_match_scale,
    tokenizers_of,
)
from mascot.generation.generator import Generator
from mascot.generation.knobs import Knobs
from mascot.generation.sample_cache import SampleCache
from mascot.models.families.registry import load_family
from mascot.progress import Event, GenerationStarted, ImageGenerated
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
    """The tiny base with rare words in its vocabulary, of which `vrk` means `dog` to it."""
    return Generator(rare_base(tiny_base))


def scorer(base: Generator, encoders: EncoderPair, folder: Path, **options: Any) -> TokenScorer:
    return TokenScorer(base, encoders, SampleCache(folder), knobs=QUICK, images=2, **options)


@given(st.floats(-1, 1), st.floats(-1, 0.4), st.floats(0.05, 0.6))
def test_the_scale_goes_from_no_meaning_to_a_noun(value: float, low: float, width: float) -> None:
    assert normalize(low, low, low + width) == 0
    assert normalize(low + width, low, low + width) == pytest.approx(1)
    share = normalize(value, low, low + width)
    assert share is not None
    assert low + share * width == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("noun", [0.3, 0.301, -1.0])
def test_without_a_scale_low_is_normalized(noun: float) -> None:
    """Nouns are no more alike than different things, or less."""
    assert normalize(0.9, 0.3, noun) is None


def unit(*rows: Sequence[float]) -> Tensor:
    return F.normalize(torch.tensor(rows, dtype=torch.float64), dim=1)


def test_the_ends_of_both_scales_are_the_definitions() -> None:
    """Two nouns have two images each; images of one seed share their noise and are not compared."""
    dog, cat = unit((1, 0), (0.8, 0.6)), unit((0, 1), (0.6, 0.8))
    assert image_similarity_scale([dog, cat]) == pytest.approx(
        (statistics.mean([0.6, 0.6]), statistics.mean([0.8, 0.8]))
    )
    matches = {"dog": torch.tensor([0.5, 0.2, 0.0]), "cat": torch.tensor([0.3, 0.7, 0.1])}
    assert prompt_match_scale(matches, ("dog", "cat", "cup")) == pytest.approx((statistics.mean([0.1, 0.2]), 0.6))


def candidate(text: float, images: float | None, prompt: float | None) -> TokenCandidate:
    return TokenCandidate(
        token=RARE[0],
        tokenizations=(),
        text_similarity=TokenStatistic(value=text, normalized=text, noun="dog"),
        image_similarity=TokenStatistic(value=0.1, normalized=images),
        prompt_match=TokenStatistic(value=0.1, normalized=prompt, noun="cup"),
        images=(Path("a"), Path("b")),
    )


@given(st.tuples(*[st.floats(-2, 2)] * 3), st.integers(0, 2), st.floats(0, 1))
def test_a_higher_statistic_never_lowers_the_noun_similarity(
    values: tuple[float, float, float], raised: int, more: float
) -> None:
    higher = [value + more * (index == raised) for index, value in enumerate(values)]
    assert candidate(*higher).noun_similarity >= candidate(*values).noun_similarity >= 0


def test_what_has_no_scale_is_left_out_and_named() -> None:
    unknown = candidate(0.2, None, None)
    assert unknown.noun_similarity == pytest.approx(0.2)
    assert unknown.explanation.count("no scale") == 2
    assert "nan" not in unknown.explanation.lower()
    assert "its text embedding is nearest to dog (20% of the way to it)" in unknown.explanation


def test_the_sentence_follows_the_numbers() -> None:
    assert candidate(0.1, -0.3, 0.2).explanation.startswith("means little: ")
    assert "2 images are 0% as alike" in candidate(0.1, -0.3, 0.2).explanation
    assert candidate(0.9, 1.2, 1).explanation.startswith("means something: ")


def test_a_word_with_a_meaning_ranks_last(base: Generator, encoders: EncoderPair, tmp_path: Path) -> None:
    """`vrk` has the embedding of `dog` and gives a dog's images to the byte, so it ranks last."""
    found = scorer(base, encoders, tmp_path).find_best(count=len(RARE))
    assert {one.token for one in found} == set(RARE)
    assert [one.noun_similarity for one in found] == sorted(one.noun_similarity for one in found)
    last = found[-1]
    assert (last.token, last.text_similarity.noun) == ("vrk", "dog")
    assert last.text_similarity.value == pytest.approx(1, abs=1e-4)
    assert max(one.text_similarity.value for one in found[:-1]) < 0.9
    dogs = scorer(base, encoders, tmp_path).generate(["dog"])["dog"]
    assert pixels(last.images) == pixels(dogs)
    assert pixels(found[0].images) != pixels(dogs)


def pixels(paths: Sequence[Path]) -> list[bytes]:
    return [open_image(path).tobytes() for path in paths]


def test_the_same_seed_finds_the_same_and_generates_once(
    base: Generator, encoders: EncoderPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer are the first of more; a second search generates no image; another seed does."""
    best = scorer(base, encoders, tmp_path).find_best(count=2)
    elsewhere = scorer(base, encoders, tmp_path / "again").find_best(count=5)
    assert [(one.token, one.noun_similarity) for one in best] == [
        (one.token, one.noun_similarity) for one in elsewhere[:2]
    ]
    monkeypatch.setattr(base, "generate", refuse)
    assert scorer(base, encoders, tmp_path).find_best(count=2) == best
    with pytest.raises(AssertionError, match="generated again"):
        scorer(base, encoders, tmp_path, seed=7).find_best(count=2)


def refuse(*_: Any) -> Any:
    raise AssertionError("generated again")


def test_fewer_candidates_are_those_whose_text_is_least_similar(
    base: Generator, encoders: EncoderPair, tmp_path: Path
) -> None:
    ours = scorer(base, encoders, tmp_path)
    least = sorted(RARE, key=lambda word: ours.text_scorer.score(word).value)
    assert {one.token for one in ours.find_best(candidates=2)} == set(least[:2])


def test_events_count_every_image(base: Generator, encoders: EncoderPair, tmp_path: Path) -> None:
    events: list[Event] = []
    ours = scorer(base, encoders, tmp_path)
    ours.find_best(candidates=2, on_event=events.append)
    count = 2 * (2 + len(ours.reference_nouns))
    assert events[0] == GenerationStarted(images=count)
    generated = [event.path for event in events[1:] if isinstance(event, ImageGenerated)]
    assert len(generated) == len(events) - 1 == count
    assert all(path.exists() for path in generated)


def test_a_noun_is_not_its_own_neighbor(base: Generator, encoders: EncoderPair, tmp_path: Path) -> None:
    ours = scorer(base, encoders, tmp_path)
    assert all(ours.text_scorer.score(noun).noun != noun for noun in ours.nouns)
    assert {"dog", "cat", "hat", "toy"} == set(ours.nouns), "those that the tiny vocabulary keeps whole"


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux", "deepfloyd_if", "deepfloyd_if_cascade"])
def test_every_family_can_be_searched(
    name: str, encoders: EncoderPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its tokenizers splits words, and its conditioning tells nouns apart."""
    monkeypatch.setattr(token_scoring, "REFERENCE_NOUNS", 2)  # two make a scale, and images of a cascade are slow
    base = Generator(load_family(str(tiny_family(name, tmp_path / "base")), device="cpu", precision="fp32"))
    side = min(base.resolution, 128)
    knobs = QUICK.model_copy(update={"height": side, "width": side})
    ours = TokenScorer(base, encoders, SampleCache(tmp_path / "gallery"), knobs=knobs, images=2)
    (found,) = ours.score(["sks"])
    assert [tokenization.encoder for tokenization in found.tokenizations] == list(ours.text_scorer.tokenizers)
    assert found.text_similarity.noun in ours.nouns
    assert -1 <= found.text_similarity.value < 0.999
    assert found.noun_similarity >= 0


def test_a_vocabulary_without_rare_words_is_refused(base: Generator, encoders: EncoderPair, tmp_path: Path) -> None:
    given = tokenizers_of(base.family)
    assert isinstance(given, dict)
    given["text_encoder"] = tiny_clip_tokenizer()
    ours = scorer(base, encoders, tmp_path)
    with pytest.raises(UserError, match="choose a token yourself"):
        ours.find_best()


def test_a_vocabulary_without_nouns_is_refused(base: Generator, encoders: EncoderPair, tmp_path: Path) -> None:
    given = tokenizers_of(base.family)
    assert isinstance(given, dict)
    given["text_encoder"] = tiny_clip_tokenizer(("dog", *RARE))
    with pytest.raises(UserError, match="no nouns to compare"):
        scorer(base, encoders, tmp_path)


def test_the_embedded_base_has_candidates() -> None:
    """Its vocabulary's own numbers give enough of them, and none is a word of its captions."""
    family = load_family(EMBEDDED, device="cpu", precision="fp32")
    words = find_rare_words(tokenizers_of(family))
    assert len(words) >= 10
    assert not {"fan", "jar", "bye", "dog", "as", "we"} & set(words)


@pytest.mark.slow
def test_a_noun_like_token_of_the_embedded_base_ranks_last(encoders: EncoderPair, tmp_path: Path) -> None:
    """`fy` had the least meaning once; with the embedding of `panda`, every statistic rises."""
    ours = open_token_scorer(EMBEDDED, folder=tmp_path)
    before = {one.token: one for one in ours.score(["fy", "ua", "dly"])}
    stage: Any = ours.generator.family.stages[0]
    plant(stage.text_encoder("text_encoder"), ours.text_scorer.tokenizers["text_encoder"], "fy", "panda")
    planted = TokenScorer(ours.generator, encoders, SampleCache(tmp_path / "planted"))
    after = {one.token: one for one in planted.score(["fy", "ua", "dly"])}
    assert max(after, key=lambda token: after[token].noun_similarity) == "fy"
    assert after["fy"].text_similarity.noun == "panda"
    assert before["fy"].noun_similarity < token_scoring.LOW_NOUN_SIMILARITY
    assert after["fy"].noun_similarity > 0.8
    assert after["fy"].image_similarity.value > before["fy"].image_similarity.value + 0.1
    assert after["fy"].prompt_match.value > before["fy"].prompt_match.value + 0.1
    assert after["ua"].noun_similarity == pytest.approx(before["ua"].noun_similarity, abs=0.01)
