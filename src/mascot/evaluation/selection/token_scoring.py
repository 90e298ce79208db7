"""Token scoring: how much candidate words mean to a base model, compared with nouns.

A rare word may still have a meaning, such as an airline or a rifle. So each candidate is compared
with nouns that the base model knows, in three ways. For a good token, the text embedding is like no
noun's, the images are unlike each other, and they match no noun's prompt.

Shape suffixes: B images, K nouns, F values of a conditioning in one row, D width of an embedding.
"""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mascot.data.prompt_templates import fill
from mascot.errors import UserError
from mascot.evaluation.metrics.default_encoders import EncoderPair
from mascot.evaluation.metrics.subject_fidelity import real_similarity
from mascot.evaluation.selection.rare_words import Tokenization, Tokenizer, find_rare_words, is_one_token, tokenize
from mascot.evaluation.selection.word_lists import NOUNS
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.sample_cache import SampleCache, weights_name
from mascot.models.pipeline_stage import PipelineStage
from mascot.progress import GenerationStarted, ImageGenerated, OnEvent, ignore
from mascot.protocols import Family, Framing, Subject

REFERENCE_NOUNS = 8
"""Number of nouns that images are generated of, as the reference of a meaningful word."""

SAMPLED_PER_CANDIDATE = 4
"""Words whose text embedding is compared, for each one that images are generated of."""

CANDIDATES = 16
"""Number of words that images are generated of."""

IMAGES_PER_WORD = 4
"""Number of images of each word."""

LOW_NOUN_SIMILARITY = 0.5
"""Noun similarity below which a word is said to mean little; a noun has 1."""

MINIMUM_SCALE_WIDTH = 0.02
"""Least cosine between both ends of a scale; scales that are narrower are not used."""

PROMPT = "a photo of a {subject}"
"""Prompt of every word."""

SEARCH_KNOBS = Knobs(guidance=5.0, steps=12)
"""Knobs of the images: few steps, because the meaning of a word shows early."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStatistic:
    """One statistic of how much a word means."""

    value: float
    """The measured cosine."""
    normalized: float | None
    """The cosine with 0 as for different things, 1 as for a noun; None without a usable scale."""
    noun: str | None = None
    """The noun that is nearest to the word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCandidate:
    """A word and how much it means to a base model; low values are good."""

    token: str
    tokenizations: tuple[Tokenization, ...]
    text_similarity: TokenStatistic
    """Similarity of the word's conditioning to the nearest noun's."""
    image_similarity: TokenStatistic
    """Similarity of the word's images to each other."""
    prompt_match: TokenStatistic
    """CLIP-T of the word's images with the noun prompt that they match best."""
    images: tuple[Path, ...]

    @property
    def noun_similarity(self) -> float:
        """The mean of the statistics: 0 for a word without a meaning, 1 for a noun.

        Each statistic alone is weak: the best of fifty matches is high by chance, and four images
        are few.
        """
        found = (self.text_similarity, self.image_similarity, self.prompt_match)
        return statistics.mean(max(0.0, one.normalized) for one in found if one.normalized is not None)

    @property
    def explanation(self) -> str:
        """What was measured, in one sentence."""
        text, match = self.text_similarity, self.prompt_match
        lead = "means little" if self.noun_similarity < LOW_NOUN_SIMILARITY else "means something"
        return (
            f"{lead}: its text embedding is nearest to {text.noun} ({percent(text)} of the way to it), "
            f"its {len(self.images)} images are {percent(self.image_similarity)} as alike as a noun's, "
            f"and they match {match.noun} best, {percent(match)} as well as a noun's own images match it."
        )


def percent(statistic: TokenStatistic) -> str:
    """Format a statistic in percent of a noun's."""
    if statistic.normalized is None:
        return "(this base's nouns give no scale)"
    return f"{max(0.0, statistic.normalized):.0%}"


def tokenizers_of(family: Family) -> Mapping[str, Tokenizer]:
    """Return the tokenizers of a base model's prompts by the names of their text encoders."""
    stage = family.stages[0]  # the later stages of a cascade use the first one's text encoder
    assert isinstance(stage, PipelineStage)
    tokenizers: Any = stage.tokenizers  # fast ones, whose attributes transformers types on no common class
    return tokenizers


class TextTokenScorer:
    """Compares words with nouns by the base model's text encoders, without generating images.

    Raises:
        UserError: the base model's vocabulary has no nouns to compare with.
    """

    def __init__(self, family: Family) -> None:
        self.stage, self.tokenizers = family.stages[0], tokenizers_of(family)
        self.nouns = tuple(noun for noun in NOUNS if is_one_token(self.tokenizers, noun))
        if len(self.nouns) < 2:
            raise UserError(
                "this base's vocabulary has no nouns to compare tokens with; choose a token yourself (--token)."
            )

    @cached_property
    def rare_words(self) -> Sequence[str]:
        """The base model's rare words.

        Raises:
            UserError: there are none.
        """
        words = find_rare_words(self.tokenizers)
        if not words:
            raise UserError(
                "no short rare word is one token to all text encoders of this base; choose a token yourself (--token)."
            )
        return words

    def least_similar(self, *, count: int, seed: int) -> list[str]:
        """List the `count` rare words that are least similar to a noun, the least similar first.

        They are taken from a random sample without replacement, as in the paper.
        """
        sampled = random.Random(seed).sample(self.rare_words, min(len(self.rare_words), SAMPLED_PER_CANDIDATE * count))
        return sorted(sampled, key=lambda word: (self.score(word).value, word))[:count]

    def score(self, word: str) -> TokenStatistic:
        """Compare a word's conditioning with each noun's, and return the highest cosine.

        The nouns' mean is subtracted first. A noun is not compared with itself.
        """
        cosines: list[Tensor] = []
        conditioning = self.conditioning(word)
        for name, (mean_F, directions_KF) in self.noun_directions.items():
            cosines.append(directions_KF @ F.normalize(conditioning[name] - mean_F, dim=0))
        cosine_K = torch.stack(cosines).mean(dim=0)
        if word in self.nouns:
            cosine_K[self.nouns.index(word)] = -1
        best = int(cosine_K.argmax())
        return TokenStatistic(value=float(cosine_K[best]), normalized=float(cosine_K[best]), noun=self.nouns[best])

    @cached_property
    def noun_directions(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """For each tensor of the conditioning, the nouns' mean (F) and their directions (K x F).

        Tensors that are the same for all nouns are left out.
        """
        conditionings = [self.conditioning(noun) for noun in self.nouns]
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for name in conditionings[0]:
            rows_KF = torch.stack([conditioning[name] for conditioning in conditionings])
            mean_F = rows_KF.mean(dim=0)
            if not torch.allclose(rows_KF, mean_F):
                found[name] = mean_F, F.normalize(rows_KF - mean_F, dim=1)
        assert found, "the conditioning depends on the prompt"
        return found

    @torch.no_grad()
    def conditioning(self, word: str) -> dict[str, Tensor]:
        """Return the first denoiser's conditioning for a word alone, each tensor in one row.

        The tensors have shape F, in float32 on the CPU.
        """
        side = self.stage.resolution
        framing = Framing(original=(side, side), target=(side, side))
        return {
            name: value.float().cpu().flatten()
            for name, value in self.stage.condition([prompt_of(word)], [framing]).items()
        }


class TokenScorer:
    """Compares words with nouns by text embedding and by generated images, which are cached.

    Image k of every word has the seed `seed + k`.

    Raises:
        UserError: the base model's vocabulary has no nouns to compare with.
    """

    def __init__(
        self,
        generator: Generator,
        encoders: EncoderPair,
        sample_cache: SampleCache,
        *,
        knobs: Knobs = SEARCH_KNOBS,
        images: int = IMAGES_PER_WORD,
        seed: int = 0,
    ) -> None:
        assert images > 1, "one image has no other to be similar to"
        self.generator, self.encoders, self.sample_cache, self.knobs = generator, encoders, sample_cache, knobs
        self.seeds = range(seed, seed + images)
        self.text_scorer = TextTokenScorer(generator.family)
        self.nouns = self.text_scorer.nouns

    def score(self, words: Sequence[str], on_event: OnEvent = ignore) -> list[TokenCandidate]:
        """Score words, in their order; generates the images that are missing."""
        generated = self.generate([*words, *self.reference_nouns], on_event)
        embedded = {word: self.sample_cache.embed(self.encoders.identity, paths) for word, paths in generated.items()}
        matches = {word: self.match_nouns(paths) for word, paths in generated.items()}
        similarity_scale = image_similarity_scale([embedded[noun] for noun in self.reference_nouns])
        match_scale = prompt_match_scale({noun: matches[noun] for noun in self.reference_nouns}, self.nouns)
        candidates: list[TokenCandidate] = []
        for word in words:
            similarity, best = real_similarity(embedded[word]), int(matches[word].argmax())
            assert similarity is not None
            match = float(matches[word][best])
            candidates.append(
                TokenCandidate(
                    token=word,
                    tokenizations=tokenize(self.text_scorer.tokenizers, word),
                    text_similarity=self.text_scorer.score(word),
                    image_similarity=TokenStatistic(
                        value=similarity, normalized=normalize(similarity, *similarity_scale)
                    ),
                    prompt_match=TokenStatistic(
                        value=match, normalized=normalize(match, *match_scale), noun=self.nouns[best]
                    ),
                    images=tuple(generated[word]),
                )
            )
        return candidates

    def find_best(
        self, *, count: int = 5, candidates: int = CANDIDATES, on_event: OnEvent = ignore
    ) -> list[TokenCandidate]:
        """Find the `count` best tokens, the best first.

        Images are generated of the `candidates` rare words whose text embeddings are least similar
        to a noun's.

        Raises:
            UserError: no word of the vocabulary is rare, short and unknown; or images cannot be
                generated or written.
        """
        words = self.text_scorer.least_similar(count=candidates, seed=self.seeds[0])
        scored = self.score(words, on_event)
        return sorted(scored, key=lambda candidate: (candidate.noun_similarity, candidate.token))[:count]

    @property
    def reference_nouns(self) -> tuple[str, ...]:
        """The nouns that images are generated of."""
        return self.nouns[:REFERENCE_NOUNS]

    def generate(self, words: Sequence[str], on_event: OnEvent = ignore) -> dict[str, list[Path]]:
        """Generate one image of each word for each seed."""
        words = list(dict.fromkeys(words))
        requests = [ImageRequest(prompt_of(word), seed) for word in words for seed in self.seeds]
        on_event(GenerationStarted(images=len(requests)))
        paths: list[Path] = []
        for path in self.sample_cache.images(self.generator, requests, self.knobs, weights_name(self.generator.family)):
            on_event(ImageGenerated(path=path))
            paths.append(path)
        count = len(self.seeds)
        return {word: paths[index * count : (index + 1) * count] for index, word in enumerate(words)}

    def match_nouns(self, paths: Sequence[Path]) -> Tensor:
        """Compute CLIP-T of images with every noun's prompt. Shape K, float64."""
        images_BD, prompts_KD = self.sample_cache.embed(self.encoders.clip, paths), self.noun_prompts
        return (images_BD.double() @ prompts_KD.double().T).mean(dim=0)

    @cached_property
    def noun_prompts(self) -> Tensor:
        """The nouns' prompts, embedded by CLIP. Shape K x D."""
        return self.encoders.clip.embed_prompts([prompt_of(noun) for noun in self.nouns])


def prompt_of(word: str) -> str:
    """Return the prompt of a word."""
    return fill(PROMPT, Subject(token=word))


def image_similarity_scale(groups: Sequence[Tensor]) -> tuple[float, float]:
    """Average the similarity of images of different nouns, and of images of one noun.

    Only images of different seeds are compared, as images of one seed share their noise.

    Args:
        groups: For each noun, the embeddings of its images. Shape B x D.
    """
    same = [real_similarity(group_BD) or 0.0 for group_BD in groups]
    different: list[float] = []
    for one_BD, other_BD in itertools.combinations(groups, 2):
        cosines_BB = one_BD.double() @ other_BD.double().T
        different.append(float((cosines_BB.sum() - cosines_BB.trace()) / (cosines_BB.numel() - len(cosines_BB))))
    return statistics.mean(different), statistics.mean(same)


def prompt_match_scale(matches: Mapping[str, Tensor], nouns: Sequence[str]) -> tuple[float, float]:
    """Average how well nouns' images match other nouns' prompts, and how well their own.

    Args:
        matches: Noun -> CLIP-T of its images with every noun's prompt. Shape K.
        nouns: The K nouns.
    """
    own = [float(match_K[nouns.index(noun)]) for noun, match_K in matches.items()]
    other = [
        (float(match_K.sum()) - own_match) / (len(nouns) - 1)
        for match_K, own_match in zip(matches.values(), own, strict=True)
    ]
    return statistics.mean(other), statistics.mean(own)


def normalize(value: float, low: float, high: float) -> float | None:
    """Map low..high to 0..1; None where they are too near to each other for a scale."""
    return (value - low) / (high - low) if high - low >= MINIMUM_SCALE_WIDTH else None
