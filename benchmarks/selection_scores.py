"""Scores of checkpoints and knobs on a list of prompts, with cached images.

Shape suffixes: B images, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from torch import Tensor

from benchmarks.selection_rules import Choice, ScoredChoice
from benchmarks.selection_runs import SubjectRun
from mascot.adapters.adapter_file import Adapter
from mascot.data.prompt_templates import fill
from mascot.evaluation.metrics.default_encoders import EncoderPair
from mascot.evaluation.metrics.memorization import real_nearest
from mascot.evaluation.metrics.prompt_fidelity import prompt_fidelity
from mascot.evaluation.metrics.subject_fidelity import real_similarity, similarity
from mascot.evaluation.selection.criterion import ReferenceScores, ValidationResult, score
from mascot.evaluation.selection.validation_set import noise_image
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.sample_cache import SampleCache, weights_name
from mascot.protocols import Family, Subject


@dataclass(kw_only=True)
class CachedGenerator:
    """A base with one adapter at a time; images and embeddings are cached."""

    family: Family
    sample_cache: SampleCache
    encoders: EncoderPair
    generator: Generator = field(init=False)
    applied: Path | None = field(init=False, default=None)
    """File of the adapter that is applied now."""

    def __post_init__(self) -> None:
        """Begin without an adapter."""
        self.generator = Generator(self.family)

    def apply(self, adapter: Path | None) -> None:
        """Apply another adapter, or none, in place of the current one."""
        if adapter != self.applied:
            self.generator.remove_adapter()
            self.generator = Generator(self.family, None if adapter is None else Adapter.read(adapter))
            self.applied = adapter

    def embeddings(self, adapter: Path | None, requests: Sequence[ImageRequest], knobs: Knobs) -> tuple[Tensor, Tensor]:
        """Generate the images that are not cached, and embed all.

        Returns:
            The identity and the CLIP embeddings, each B x D.
        """
        self.apply(adapter)
        files = self.sample_cache.generate(self.generator, requests, knobs, weights_name(self.family, adapter))
        return (
            self.sample_cache.embed(self.encoders.identity, files),
            self.sample_cache.embed(self.encoders.clip, files),
        )


@dataclass(frozen=True, kw_only=True)
class ChoiceScorer:
    """Scores the checkpoints of one subject on prompts.

    Each round has all prompts once; rounds differ in their seeds.
    """

    generator: CachedGenerator
    run: SubjectRun
    prompts: tuple[str, ...]
    rounds: int
    seed: int

    @cached_property
    def class_subject(self) -> Subject:
        """The class noun alone, with which the base generates and the encoders read prompts."""
        return Subject(token=self.run.held_out.class_noun)

    @cached_property
    def photos(self) -> Tensor:
        """Identity embeddings of the photos."""
        return self.generator.sample_cache.embed(self.generator.encoders.identity, self.run.held_out.photos)

    @cached_property
    def prompt_embeddings(self) -> Tensor:
        """CLIP embeddings of each image's prompt."""
        prompts = [fill(prompt, self.class_subject) for prompt in self.prompts]
        return self.generator.encoders.clip.embed_prompts(prompts).repeat(self.rounds, 1)

    @property
    def count(self) -> int:
        """Number of images of all rounds."""
        return len(self.prompts) * self.rounds

    @property
    def usual_knobs(self) -> Knobs:
        """The recipe's knobs, with the base's default solver."""
        return self.generator.generator.with_defaults(self.run.recipe.knobs)

    def requests(self, subject: Subject, count: int) -> list[ImageRequest]:
        """Return the first `count` images to generate."""
        seeded = [(prompt, self.seed + number) for number in range(self.rounds) for prompt in self.prompts]
        return [ImageRequest(fill(prompt, subject), seed) for prompt, seed in seeded[:count]]

    def measure(self, choice: Choice, count: int | None = None) -> ValidationResult:
        """Generate and measure the first `count` images, or all."""
        count = count or self.count
        adapter, requests = self.run.adapter(choice.step), self.requests(self.run.recipe.subject, count)
        identity_BD, clip_BD = self.generator.embeddings(adapter, requests, choice.knobs)
        return ValidationResult(
            likeness=similarity(identity_BD, self.photos),
            prompt_fidelity=prompt_fidelity(clip_BD, self.prompt_embeddings[:count]),
            nearest_photo=float((identity_BD @ self.photos.T).amax(dim=1).mean()),
        )

    @cached_property
    def references(self) -> ReferenceScores:
        """Scores of the base model, the photos and noise, by which choices are normalized."""
        requests = self.requests(self.class_subject, self.count)
        identity_BD, clip_BD = self.generator.embeddings(None, requests, self.run.recipe.knobs)
        noise = [noise_image(number) for number in range(self.count)]
        noise_BD = self.generator.sample_cache.embed_images(self.generator.encoders.clip, noise)
        return ReferenceScores(
            base_likeness=similarity(identity_BD, self.photos),
            real_likeness=real_similarity(self.photos),
            base_prompt_fidelity=prompt_fidelity(clip_BD, self.prompt_embeddings),
            noise_prompt_fidelity=prompt_fidelity(noise_BD, self.prompt_embeddings),
            real_nearest_photo=real_nearest(self.photos),
        )

    def score(self, choice: Choice) -> ScoredChoice:
        """Measure a choice on all images and score it."""
        result = self.measure(choice)
        return ScoredChoice(choice=choice, result=result, score=score(result, self.references))
