"""Validation set: the fixed prompts and seeds of validation images, and how they are measured.

None of the prompts is one that reports are measured on.

Shape suffixes: B images, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor

from mascot.data.photos import Photo
from mascot.data.prompt_templates import fill
from mascot.diffusion.noise import seeded
from mascot.evaluation.metrics.default_encoders import EncoderPair
from mascot.evaluation.metrics.prompt_fidelity import prompt_fidelity
from mascot.evaluation.metrics.subject_fidelity import real_similarity, similarity
from mascot.evaluation.selection.criterion import ReferenceScores, ValidationResult, mean_of
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.prompts.live_nouns import is_live
from mascot.generation.prompts.prompt_sets import STARTER_VALIDATION
from mascot.protocols import Subject
from mascot.recipe.recipe import Recipe

SEED = 7_000
"""Seed of the first validation image; previews and reports start from other seeds."""


@dataclass(frozen=True, kw_only=True)
class SubjectValidation:
    """The prompts, photos and encoders that one subject is validated with."""

    subject: Subject
    prompts: tuple[str, ...]
    """The validation prompts in the run's order."""
    photos: Sequence[Image.Image]
    """The photos of the subject, RGB."""
    encoders: EncoderPair

    @cached_property
    def photo_embeddings(self) -> Tensor:
        """The photos, embedded by the identity encoder. Shape B x D."""
        return self.encoders.identity.embed(self.photos)

    def prompt(self, number: int, subject: Subject) -> str:
        """Return the prompt of an image by number, about `subject`."""
        return fill(self.prompts[number % len(self.prompts)], subject)

    @property
    def class_subject(self) -> Subject:
        """The class noun without the token, which the encoders do not know."""
        return Subject(token=str(self.subject.class_noun))

    def measure(self, images: Sequence[Image.Image], references: ReferenceScores | None) -> ValidationResult:
        """Measure validation images from number 0 on.

        Similarities to a photo that are below those between photos are raised to them, because they
        are no copies.
        """
        generated_BD = self.encoders.identity.embed(images)
        nearest_B = (generated_BD @ self.photo_embeddings.T).max(1).values
        if references is not None and references.real_nearest_photo is not None:
            nearest_B = nearest_B.clamp(min=references.real_nearest_photo)
        return ValidationResult(
            likeness=similarity(generated_BD, self.photo_embeddings),
            prompt_fidelity=prompt_fidelity(self.encoders.clip.embed(images), self.prompt_embeddings(len(images))),
            nearest_photo=float(nearest_B.mean()),
        )

    def references(self, base_images: Sequence[Image.Image]) -> ReferenceScores:
        """Measure the base model's images, the photos and noise, which normalize later results."""
        generated_BD, prompts_BD = self.encoders.clip.embed(base_images), self.prompt_embeddings(len(base_images))
        cosines_BB = self.photo_embeddings @ self.photo_embeddings.T
        cosines_BB.fill_diagonal_(-1)
        noise_BD = self.encoders.clip.embed([noise_image(number) for number in range(len(base_images))])
        return ReferenceScores(
            base_likeness=similarity(self.encoders.identity.embed(base_images), self.photo_embeddings),
            real_likeness=real_similarity(self.photo_embeddings),
            base_prompt_fidelity=prompt_fidelity(generated_BD, prompts_BD),
            noise_prompt_fidelity=prompt_fidelity(noise_BD, prompts_BD),
            real_nearest_photo=float(cosines_BB.max(1).values.mean()) if len(self.photos) > 1 else None,
        )

    def prompt_embeddings(self, count: int) -> Tensor:
        """Embed the prompts of the first `count` images with the class noun alone. Shape B x D."""
        return self.encoders.clip.embed_prompts([self.prompt(number, self.class_subject) for number in range(count)])


@dataclass(frozen=True, kw_only=True)
class ValidationSet:
    """The prompts, photos and encoders that one run is validated with.

    With S subjects, image k shows subject k modulo S, so that any first part is fair to all.
    """

    recipe: Recipe
    photos: Sequence[Photo]
    """The photos of all subjects."""
    resolution: int
    """Side of validation images in pixels."""
    encoders: EncoderPair

    @cached_property
    def subjects(self) -> tuple[SubjectValidation, ...]:
        """What each subject is validated with."""
        return tuple(
            SubjectValidation(
                subject=subject,
                prompts=validation_prompts(self.recipe, subject),
                photos=[photo.image for photo in self.photos if photo.subject == index],
                encoders=self.encoders,
            )
            for index, subject in enumerate(self.recipe.subject.all)
        )

    @property
    def count(self) -> int:
        """Number of images that show each subject by each of its prompts once."""
        return len(self.subjects) * max(len(subject.prompts) for subject in self.subjects)

    def generate(
        self, generator: Generator, knobs: Knobs, numbers: Sequence[int], *, with_token: bool = True
    ) -> list[Image.Image]:
        """Generate validation images by number: all prompts in order, then again with other seeds.

        Without the token, prompts have the class noun alone.
        """
        requests: list[ImageRequest] = []
        for number in numbers:
            shown = self.subjects[number % len(self.subjects)]
            named = shown.subject if with_token else shown.class_subject
            requests.append(ImageRequest(shown.prompt(number // len(self.subjects), named), SEED + number))
        return list(
            generator.generate(requests, knobs.model_copy(update={"height": self.resolution, "width": self.resolution}))
        )

    def generate_class(self, generator: Generator) -> list[Image.Image]:
        """Generate each prompt once with the class noun alone, for the base model."""
        return self.generate(generator, self.recipe.knobs, range(self.count), with_token=False)

    def measure(self, images: Sequence[Image.Image], references: ReferenceScores | None) -> ValidationResult:
        """Measure validation images from number 0 on: means over subjects, and each by itself."""
        known = references.each if references is not None else [None] * len(self.subjects)
        triples = zip(self.subjects, self.split(images), known, strict=True)
        return mean_of([subject.measure(own, reference) for subject, own, reference in triples])

    def references(self, base_images: Sequence[Image.Image]) -> ReferenceScores:
        """Measure the base model's images, the photos and noise, which normalize later results."""
        pairs = zip(self.subjects, self.split(base_images), strict=True)
        first, *others = [subject.references(own) for subject, own in pairs]
        return replace(first, others=tuple(others))

    def split(self, images: Sequence[Image.Image]) -> list[Sequence[Image.Image]]:
        """Split images from number 0 on by the subject that they show."""
        return [images[index :: len(self.subjects)] for index in range(len(self.subjects))]


def validation_prompts(recipe: Recipe, subject: Subject) -> tuple[str, ...]:
    """List a subject's prompts in a random order of the run, so that any first part is fair."""
    prompts = STARTER_VALIDATION.for_subject(live=is_live(subject.class_noun))
    order = sorted(range(len(prompts)), key=lambda i: seeded(recipe.seed, "validation", i).initial_seed())
    return tuple(prompts[i] for i in order)


def validation_images(recipe: Recipe) -> int:
    """Count the images of one validation: those of each subject by each of its prompts."""
    subjects = recipe.subject.all
    return len(subjects) * max(len(validation_prompts(recipe, subject)) for subject in subjects)


def noise_image(number: int) -> Image.Image:
    """Make an image of uniform noise, 64 x 64 pixels, as the floor of prompt fidelity."""
    values = torch.randint(0, 256, (64, 64, 3), generator=seeded("noise", number), dtype=torch.uint8)
    return Image.fromarray(values.numpy())
