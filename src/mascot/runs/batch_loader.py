"""The training examples of one stage, and the batches that each step takes from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from mascot.data.crops import Size
from mascot.data.dataset import ClassImages, Dataset, make_dataset
from mascot.data.encoding_cache import CachedConditioning, CachedEncoders
from mascot.data.photos import PhotoSet
from mascot.protocols import Batch, Condition
from mascot.recipe.recipe import Recipe
from mascot.runs.batch_plan import plan_batches


@dataclass(kw_only=True)
class BatchLoader:
    """Builds the batches of one stage; its examples are encoded on first use."""

    recipe: Recipe
    photos: PhotoSet
    encoders: CachedEncoders
    """The stage's encoders, with the encodings that other runs have cached."""
    resolution: int
    """Side of this stage's training images in pixels."""
    class_images: ClassImages

    @cached_property
    def dataset(self) -> Dataset:
        """All examples, encoded once."""
        recipe = self.recipe
        return make_dataset(
            self.photos.photos,
            self.class_images,
            encoders=self.encoders,
            subject=recipe.subject,
            settings=recipe.dataset.model_copy(update={"resolution": self.resolution}),
            prior_weight=recipe.prior.weight
            if any(self.class_images.values()) or recipe.prior.uses_base_outputs
            else 0.0,
            preserve=recipe.prior.uses_base_outputs,
        )

    @cached_property
    def plan(self) -> list[tuple[Size, tuple[int, ...]]]:
        """The photos of each micro-batch, as image size and example indices."""
        training = self.recipe.training
        count = training.steps * training.gradient_accumulation_steps
        return plan_batches(self.dataset, seed=self.recipe.seed, micro_batches=count, batch_size=training.batch_size)

    def batches(self, step: int) -> Sequence[Batch]:
        """Build the micro-batches of one step of this stage, from 0; always the same ones."""
        count = self.recipe.training.gradient_accumulation_steps
        numbers = range(step * count, (step + 1) * count)
        return [self.dataset.batch(self.plan[n], seed=self.recipe.seed, number=n, share=1 / count) for n in numbers]

    def condition(self, *, trains_text: bool, first: int = 0) -> Condition:
        """Return the function from prompts to conditioning, for the steps from `first`.

        It runs the text encoders if they are trained; otherwise it looks up embeddings, computed
        once. Those of captions that vary are computed when they are drawn.
        """
        if trains_text:
            return self.encoders.stage.condition
        conditioning = CachedConditioning(self.encoders)
        conditioning.prepare(self.dataset.framed_prompts)
        if self.dataset.varies and first < self.recipe.training.steps:
            batch = self.batches(first)[0]  # of the memory estimate, whose own tensors hold no values
            conditioning.prepare(list(zip(batch.prompts, batch.framings, strict=True)))
        return conditioning
