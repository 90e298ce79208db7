"""What one stage learns from: its pictures and captions as examples, and the order in which they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from PIL import Image

from mascot.data.dataset import Dataset, make_dataset
from mascot.data.encoding_cache import CachedConditioning, CachedEncoders
from mascot.data.photos import PhotoSet
from mascot.data.prompt_templates import class_prompt
from mascot.protocols import Batch, Condition
from mascot.recipe.recipe import Recipe


@dataclass(kw_only=True)
class BatchLoader:
    """A stage's examples, encoded when they are first asked for."""

    recipe: Recipe
    photos: PhotoSet
    encoders: CachedEncoders
    """The stage's, with what they said before."""
    resolution: int
    """Side of this stage's training pictures in pixels."""
    class_images: Sequence[Image.Image]

    @cached_property
    def dataset(self) -> Dataset:
        """All examples, encoded once."""
        recipe = self.recipe
        return make_dataset(
            self.photos.photos,
            self.class_images,
            encoders=self.encoders,
            subject=recipe.subject,
            class_caption=class_prompt(recipe.class_noun) if recipe.class_noun else "",
            settings=recipe.dataset.model_copy(update={"resolution": self.resolution}),
            prior_weight=recipe.prior.weight if self.class_images or recipe.prior.preserves else 0.0,
            preserve=recipe.prior.preserves,
        )

    @cached_property
    def plan(self) -> list[Any]:
        """Which photos each micro-batch shows."""
        training = self.recipe.training
        count = training.steps * training.gradient_accumulation_steps
        return self.dataset.schedule(seed=self.recipe.seed, micro_batches=count, batch_size=training.batch_size)

    def batches(self, step: int) -> Sequence[Batch]:
        """The micro-batches of one of this stage's steps, from 0; their randomness begins anew at each call."""
        count = self.recipe.training.gradient_accumulation_steps
        numbers = range(step * count, (step + 1) * count)
        return [self.dataset.batch(self.plan[n], seed=self.recipe.seed, number=n, share=1 / count) for n in numbers]

    def condition(self, *, trains_text: bool) -> Condition:
        """What turns prompts into conditioning: the text encoders where they learn, else what they said once."""
        if trains_text:
            return self.encoders.stage.condition
        conditions = CachedConditioning(self.encoders)
        conditions.prepare(self.dataset.pairs)
        return conditions
