"""What words mean to a base: read by its text encoders, drawn by the base itself, on the scale of what it makes of nouns.

Rare is not yet empty: a word may be an airline, or a rifle. So each candidate is read and drawn beside nouns that the base knows: a good
token reads like no noun, its pictures are unlike each other, and they match no noun's prompt.

Shape suffixes: B pictures, K nouns, F the numbers of a conditioning in one row, D width of an embedding.
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
from mascot.evaluation.selection.rare_words import Spelling, is_one_token, rare_words, spell
from mascot.evaluation.selection.word_lists import NOUNS
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.sample_cache import SampleCache, weights_name
from mascot.models.pipeline_stage import PipelineStage
from mascot.progress import GenerationStarted, ImageGenerated, OnEvent, ignore
from mascot.protocols import Family, Framing, Subject

REFERENCES = 8
"""Nouns that are drawn, to see what pictures of something are like."""


READ = 4
"""Candidates that are read for each one that is drawn: reading is cheap."""


CANDIDATES = 16
"""Words that are drawn."""


IMAGES = 4
"""Pictures of each word."""


LITTLE = 0.5
"""A token that means less than this, of a noun's 1, is said to mean little."""


SPREAD = 0.02
"""Nouns and other things must differ by this cosine at least; between closer ends nothing can be placed."""


PHOTO = "a photo of a {subject}"


KNOBS = Knobs(guidance=5.0, steps=12)
"""Few steps: what a word means shows early."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSignal:
    """One sign that a word means something."""

    value: float
    """What was measured: a cosine."""
    meaning: float | None
    """The same on a scale: 0 as for different things, 1 as for a noun; None where the base's own nouns give no scale."""
    noun: str | None = None
    """The noun that it is nearest to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCandidate:
    """A word, and what it means to a base. Low numbers are good."""

    token: str
    spellings: tuple[Spelling, ...]
    read: TokenSignal
    """How near its conditioning is to the nearest noun's."""
    alike: TokenSignal
    """How alike its pictures are to each other."""
    matched: TokenSignal
    """How well its pictures match the best of all nouns' prompts."""
    images: tuple[Path, ...]

    @property
    def meaning(self) -> float:
        """The mean of its signs, from 0: nothing in particular; 1 is as much as a noun.

        Each sign alone is weak: the best of fifty matches is high by chance, and four pictures are few.
        """
        signs = (self.read, self.alike, self.matched)
        return statistics.mean(max(0.0, sign.meaning) for sign in signs if sign.meaning is not None)

    @property
    def why(self) -> str:
        """Why it stands where it does, in one sentence."""
        alike = f"its {len(self.images)} pictures are {share(self.alike)} as alike as a noun's"
        matched = f"they match {self.matched.noun} best, {share(self.matched)} as well as a noun's own match it"
        lead = "means little" if self.meaning < LITTLE else "means something"
        return f"{lead}: it reads most like {self.read.noun} ({share(self.read)} of the way to it), {alike}, and {matched}."


def share(sign: TokenSignal) -> str:
    """Write a sign in percent of a noun's."""
    return "(this base's nouns give no scale)" if sign.meaning is None else f"{max(0.0, sign.meaning):.0%}"


def tokenizers_of(family: Family) -> Mapping[str, Any]:
    """The tokenizers that hear a base's prompts, by the names of their text encoders."""
    stage = family.stages[0]  # the later stages of a cascade hear through the first one
    assert isinstance(stage, PipelineStage)
    return stage.tokenizers


class TokenReader:
    """Asks a base's text encoders how near words are to the nouns that it knows; nothing is drawn.

    Raises UserError where the base's vocabulary has no nouns to compare with.
    """

    def __init__(self, family: Family) -> None:
        self.stage, self.tokenizers = family.stages[0], tokenizers_of(family)
        self.nouns = tuple(noun for noun in NOUNS if is_one_token(self.tokenizers, noun))
        if len(self.nouns) < 2:
            raise UserError(
                "this base's vocabulary has no nouns to compare tokens with; choose a token yourself (--token)."
            )

    @cached_property
    def rare(self) -> list[str]:
        """The base's rare words. Raises UserError where there are none."""
        words = rare_words(self.tokenizers)
        if not words:
            raise UserError(
                "no short rare word is one token to all text encoders of this base; choose a token yourself (--token)."
            )
        return words

    def least(self, *, count: int, seed: int) -> list[str]:
        """The `count` rare words that read least like a noun, the least first, of a sample without replacement, as in the paper."""
        sampled = random.Random(seed).sample(self.rare, min(len(self.rare), READ * count))
        return sorted(sampled, key=lambda word: (self.read(word).value, word))[:count]

    def read(self, word: str) -> TokenSignal:
        """The highest cosine of a word's conditioning and a noun's, after what all nouns have in common is taken off."""
        cosines: list[Tensor] = []
        told = self.condition(word)
        for name, (centre_F, rows_KF) in self.noun_conditionings.items():
            cosines.append(rows_KF @ F.normalize(told[name] - centre_F, dim=0))
        cosine_K = torch.stack(cosines).mean(dim=0)
        if word in self.nouns:
            cosine_K[self.nouns.index(word)] = -1
        best = int(cosine_K.argmax())
        return TokenSignal(value=float(cosine_K[best]), meaning=float(cosine_K[best]), noun=self.nouns[best])

    @cached_property
    def noun_conditionings(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """By name of a tensor: the nouns' mean, F, and each noun's direction from it, K x F.

        Tensors that do not tell nouns apart are left out.
        """
        told = [self.condition(noun) for noun in self.nouns]
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for name in told[0]:
            rows_KF = torch.stack([conditioning[name] for conditioning in told])
            centre_F = rows_KF.mean(dim=0)
            if not torch.allclose(rows_KF, centre_F):
                found[name] = centre_F, F.normalize(rows_KF - centre_F, dim=1)
        assert found, "a base hears its prompts"
        return found

    @torch.no_grad()
    def condition(self, word: str) -> dict[str, Tensor]:
        """What the base's first denoiser is told of a word alone, each tensor in one row, float32, on the CPU."""
        side = self.stage.resolution
        framing = Framing(original=(side, side), target=(side, side))
        return {
            name: value.float().cpu().flatten()
            for name, value in self.stage.condition([prompt_of(word)], [framing]).items()
        }


class TokenExaminer:
    """Asks a base what words mean to it, on the scale of what it makes of nouns; pictures are kept in a gallery.

    Picture k of every word has the seed `seed + k`. Raises UserError where the base's vocabulary has no nouns to compare with.
    """

    def __init__(
        self,
        generator: Generator,
        encoders: EncoderPair,
        sample_cache: SampleCache,
        *,
        knobs: Knobs = KNOBS,
        images: int = IMAGES,
        seed: int = 0,
    ) -> None:
        assert images > 1, "one picture is unlike nothing"
        self.generator, self.encoders, self.sample_cache, self.knobs = generator, encoders, sample_cache, knobs
        self.seeds = range(seed, seed + images)
        self.reader = TokenReader(generator.family)
        self.nouns = self.reader.nouns

    def examine(self, words: Sequence[str], on_event: OnEvent = ignore) -> list[TokenCandidate]:
        """Read and draw words, and say what each means to the base, in their order."""
        generated = self.generate([*words, *self.references], on_event)
        seen = {word: self.sample_cache.embed(self.encoders.identity, paths) for word, paths in generated.items()}
        matches = {word: self.match(paths) for word, paths in generated.items()}
        different, same = ends_of_alike([seen[noun] for noun in self.references])
        other, own = ends_of_match({noun: matches[noun] for noun in self.references}, self.nouns)
        candidates: list[TokenCandidate] = []
        for word in words:
            alike, best = real_similarity(seen[word]), int(matches[word].argmax())
            assert alike is not None
            match = float(matches[word][best])
            candidates.append(
                TokenCandidate(
                    token=word,
                    spellings=spell(self.reader.tokenizers, word),
                    read=self.reader.read(word),
                    alike=TokenSignal(value=alike, meaning=normalized(alike, different, same)),
                    matched=TokenSignal(value=match, meaning=normalized(match, other, own), noun=self.nouns[best]),
                    images=tuple(generated[word]),
                )
            )
        return candidates

    def find(self, *, count: int = 5, candidates: int = CANDIDATES, on_event: OnEvent = ignore) -> list[TokenCandidate]:
        """Find the `count` best tokens, best first: of the rare words, the `candidates` that read least like a noun are drawn.

        Raises:
            UserError: no word of the base's vocabulary is rare, short and unknown; or pictures cannot be drawn or kept.
        """
        chosen = self.reader.least(count=candidates, seed=self.seeds[0])
        return sorted(self.examine(chosen, on_event), key=lambda candidate: (candidate.meaning, candidate.token))[
            :count
        ]

    @property
    def references(self) -> tuple[str, ...]:
        """The nouns that are drawn."""
        return self.nouns[:REFERENCES]

    def generate(self, words: Sequence[str], on_event: OnEvent = ignore) -> dict[str, list[Path]]:
        """Draw each word in as many pictures as there are seeds."""
        words = list(dict.fromkeys(words))
        requests = [ImageRequest(prompt_of(word), seed) for word in words for seed in self.seeds]
        on_event(GenerationStarted(images=len(requests)))
        paths: list[Path] = []
        for path in self.sample_cache.images(self.generator, requests, self.knobs, weights_name(self.generator.family)):
            on_event(ImageGenerated(path=path))
            paths.append(path)
        count = len(self.seeds)
        return {word: paths[place * count : (place + 1) * count] for place, word in enumerate(words)}

    def match(self, paths: Sequence[Path]) -> Tensor:
        """CLIP-T of some pictures with every noun's prompt. Shape K, float64."""
        pictures_BD, prompts_KD = self.sample_cache.embed(self.encoders.clip, paths), self.noun_prompts
        return (pictures_BD.double() @ prompts_KD.double().T).mean(dim=0)

    @cached_property
    def noun_prompts(self) -> Tensor:
        """The nouns' prompts as CLIP embeds them. Shape K x D."""
        return self.encoders.clip.embed_prompts([prompt_of(noun) for noun in self.nouns])


def prompt_of(word: str) -> str:
    """The prompt by which a word is read and drawn."""
    return fill(PHOTO, Subject(token=word))


def ends_of_alike(groups: Sequence[Tensor]) -> tuple[float, float]:
    """How alike pictures of different nouns are, and pictures of one noun; only pictures of different seeds are compared."""
    same = [real_similarity(group_BD) or 0.0 for group_BD in groups]
    different: list[float] = []
    for one_BD, other_BD in itertools.combinations(groups, 2):
        cosines_BB = one_BD.double() @ other_BD.double().T
        different.append(float((cosines_BB.sum() - cosines_BB.trace()) / (cosines_BB.numel() - len(cosines_BB))))
    return statistics.mean(different), statistics.mean(same)


def ends_of_match(matches: Mapping[str, Tensor], nouns: Sequence[str]) -> tuple[float, float]:
    """How well nouns' pictures match other nouns' prompts on average, and their own; a match has shape K, one for each of the nouns."""
    own = [float(match_K[nouns.index(noun)]) for noun, match_K in matches.items()]
    other = [
        (float(match_K.sum()) - mine) / (len(nouns) - 1) for match_K, mine in zip(matches.values(), own, strict=True)
    ]
    return statistics.mean(other), statistics.mean(own)


def normalized(value: float, nothing: float, noun: float) -> float | None:
    """Put a value on the scale from nothing (0) to a noun (1); None where the two are too near each other to tell."""
    return (value - nothing) / (noun - nothing) if noun - nothing >= SPREAD else None
