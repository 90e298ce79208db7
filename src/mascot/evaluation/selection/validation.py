"""Validation while training: select the checkpoint, stop early, then select the inference knobs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from PIL import Image

from mascot.adapters.adapter_file import Adapter
from mascot.errors import UserError, check_interrupted
from mascot.evaluation.metrics.default_encoders import load_encoders
from mascot.evaluation.selection.checkpoint_selection import CheckpointSelector
from mascot.evaluation.selection.criterion import ValidationResult
from mascot.evaluation.selection.knob_search import (
    KnobRecommendation,
    knob_grid,
    most_images,
    search_knobs,
    starting_settings,
)
from mascot.evaluation.selection.validation_set import ValidationSet, validation_images
from mascot.generation.generator import Generator
from mascot.generation.knobs import Knobs
from mascot.runs.training_run import TrainingRun
from mascot.storage.atomic_write import atomic_write
from mascot.storage.run_folder import delete_other_bests
from mascot.storage.untrusted_files import UnreadableFile, read_json_object
from mascot.training.checkpoint import load_parameters, save_parameters

ROUNDS = 2
"""Number of images of each validation prompt in the last round of the knob search."""


def rounds_of(prompts: int) -> tuple[int, int]:
    """Return the images of each setting in the first and in the last round of the knob search."""
    return max(2, prompts // 2), ROUNDS * prompts


def forward_passes(knobs: Knobs, *, embeds_guidance: bool) -> int:
    """Count the denoiser's forward passes for one image.

    Classifier-free guidance takes two passes a step, an embedded guidance scale one.
    """
    scale = knobs.true_guidance if embeds_guidance else knobs.guidance
    return knobs.steps * (1 if scale == 1 else 2)


def image_budget(run: TrainingRun) -> int:
    """Count the images that selection may generate.

    They take as many forward passes as training does, times `selection.cost`. A backward pass
    counts as two forward passes.
    """
    recipe, training = run.recipe, run.recipe.training
    examples = 2 if recipe.prior.uses_class_images or recipe.prior.uses_base_outputs else 1
    passes = 3 * run.steps * training.gradient_accumulation_steps * training.batch_size * examples
    per_image = forward_passes(recipe.knobs, embeds_guidance=run.family.stages[-1].embeds_guidance)
    return int(recipe.selection.cost * passes / per_image)


@dataclass(kw_only=True)
class Validation:
    """Selects the checkpoint and the knobs of one run.

    `selection.json` in the run's folder stores everything that its decisions depend on.
    """

    run: TrainingRun
    checkpoints: int
    """Number of checkpoints that are validated; 0 switches selection off."""
    knob_images: int
    """Number of images that are left for the knob search."""
    reason_for_none: str = ""
    """Why nothing is selected; empty where something is."""
    lacks_encoders: bool = False
    """Whether nothing is selected because the encoders cannot be loaded."""
    opened_set: ValidationSet | None = None
    """The validation set; None where nothing is selected."""
    selector: CheckpointSelector | None = field(default=None, init=False)

    @classmethod
    def plan(cls, run: TrainingRun) -> Validation:
        """Plan what the budget allows; where nothing can be selected, the last step is kept."""
        recipe, settings = run.recipe, run.recipe.selection
        count, allowed = validation_images(recipe), image_budget(run)
        checkpoints, reason = min(settings.checkpoints, allowed // count - 1), ""
        if not settings.active:
            reason = "selection was switched off; the last step is kept."
        elif not recipe.subjects.class_nouns:
            reason = "without a class noun the base model cannot be asked for the same; the last step is kept."
        elif run.spans[-1].first == run.spans[-1].last:
            reason = "the last phase has no step of its own; the last step is kept."
        elif checkpoints < 1:
            reason = "training was too short to select anything at its own cost; the last step is kept."
        if reason:
            return cls(run=run, checkpoints=0, knob_images=0, reason_for_none=reason)
        try:
            encoders = load_encoders(recipe.base, settings.identity, settings.clip, run.device)
        except UserError as error:  # training is worth having without
            check_interrupted()
            reason = f"nothing was selected, the last step is kept: {error}"
            return cls(run=run, checkpoints=0, knob_images=0, reason_for_none=reason, lacks_encoders=True)
        photos = run.photos.photos
        opened_set = ValidationSet(recipe=recipe, photos=photos, resolution=run.resolution, encoders=encoders)
        left = allowed - (checkpoints + 1) * count if settings.knobs else 0
        return cls(run=run, checkpoints=checkpoints, knob_images=left, opened_set=opened_set)

    @property
    def images(self) -> int:
        """Number of images that selection generates at most."""
        return (self.checkpoints + bool(self.checkpoints)) * validation_images(self.run.recipe) + self.knob_images

    @property
    def validation_set(self) -> ValidationSet:
        """The validation set; it exists wherever something is validated."""
        assert self.opened_set is not None
        return self.opened_set

    @cached_property
    def steps(self) -> frozenset[int]:
        """The steps that are validated, spread evenly over the last phase of the last stage.

        The step that ends an earlier phase is none of them: what it trained is other parameters.
        """
        span, count = self.run.spans[-1], self.checkpoints
        spread = {span.first + round((span.last - span.first) * (i + 1) / count) for i in range(count)}
        return frozenset(spread - {span.first} if span.first else spread)

    def begin(self) -> bool:
        """Measure the base model, or go on from the run's folder.

        Returns whether training has ended already.
        """
        if not self.checkpoints:
            return False
        run, done = self.run, self.run.loop.done
        if run.files.selection.exists():
            self.selector = read_selector(run.files.selection)
            self.selector.go_on(after=done, patience=run.recipe.selection.patience, anew=run.is_extended)
            for earlier in self.selector.results:
                run.on_event(earlier.event)
        else:
            with run.base_only():
                images = self.validation_set.generate_class(Generator(run.family, on_event=run.on_event))
            references, patience = self.validation_set.references(images), run.recipe.selection.patience
            self.selector = CheckpointSelector(
                references=references, patience=patience, names=run.recipe.subjects.names
            )
            self.write()
        if done in self.steps and all(result.step != done for result in self.selector.results):
            self.validate(done)  # stopped between the step and its validation
        return self.selector.should_stop

    def after_step(self, step: int) -> bool:
        """Validate the step if it is scheduled; returns True to stop training early."""
        if self.selector is None or step not in self.steps:
            return False
        self.validate(step)
        return self.selector.should_stop and step < self.run.steps

    def validate(self, step: int) -> None:
        """Generate and measure validation images, and save the parameters if they are the best."""
        assert self.selector is not None
        with self.run.generating():
            numbers = range(self.validation_set.count)
            images = self.validation_set.generate(Generator(self.run.family), self.run.recipe.knobs, numbers)
            result = self.validation_set.measure(images, self.selector.references)
            if self.selector.add(step, result):
                with atomic_write(self.run.files.best(step)) as folder:
                    folder.mkdir()
                    for number, attached in self.run.attached.items():
                        save_parameters(attached, folder, f"stage{number}")
        self.write()
        self.run.on_event(self.selector.results[-1].event)

    def write(self) -> None:
        """Write the results, and delete saved parameters that are no longer the best."""
        assert self.selector is not None
        files, best = self.run.files, self.selector.best
        files.write_text(files.selection, json.dumps({"selector": self.selector.to_json()}, indent=2) + "\n")
        delete_other_bests(files, best.step if best is not None else None)

    def restore_best(self) -> str:
        """Load the best checkpoint's parameters; returns the reason for the choice."""
        if self.selector is None:
            return self.reason_for_none
        best = self.selector.best
        if best is not None:
            self.run.kept_step = best.step
            for number, attached in self.run.attached.items():
                folder = self.run.files.best(best.step)
                damaged = UserError(
                    f"{folder} is damaged; delete {self.run.files.selection}, and --resume keeps the last step."
                )
                load_parameters(attached, folder, f"stage{number}", damaged)
        return self.selector.reason

    def recommend(self, generator: Generator) -> KnobRecommendation | None:
        """Search the knobs with the images that are left; returns None where there are too few."""
        selector = self.selector
        if selector is None or self.knob_images < self.validation_set.count:
            return None
        count, generated = self.validation_set.count, dict[Knobs, list[Image.Image]]()

        def measure(knobs: Knobs, number: int) -> ValidationResult:
            images = generated.setdefault(knobs, [])
            images += self.validation_set.generate(generator, knobs, range(len(images), number))
            return self.validation_set.measure(images, selector.references)

        grid, (first, last) = settings_to_try(self.run, generator), rounds_of(count)
        return search_knobs(measure, selector.references, grid, budget=self.knob_images, first=first, last=last)


def likely_images(validation: Validation) -> int:
    """Count the images that selection generates, if it validates every checkpoint."""
    count = validation_images(validation.run.recipe)
    validated = (validation.checkpoints + bool(validation.checkpoints)) * count
    if validation.knob_images < count:
        return validated
    (first, last), grid = rounds_of(count), settings_to_try(validation.run, Generator(validation.run.family))
    settings = starting_settings(len(grid), validation.knob_images, first, last)
    return validated + min(validation.knob_images, most_images(settings, first, last))


def settings_to_try(run: TrainingRun, generator: Generator) -> list[Knobs]:
    """List the settings of a run's knob search, the recipe's own first."""
    own, embeds_guidance = generator.with_defaults(run.recipe.knobs), run.family.stages[-1].embeds_guidance
    return knob_grid(own, run.method.changes, embeds_guidance=embeds_guidance)


def read_selector(path: Path) -> CheckpointSelector:
    """Read the results of an earlier process from `selection.json`.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return CheckpointSelector.from_json(read_json_object(path)["selector"])
    except (UnreadableFile, ValueError, KeyError) as error:
        raise UserError(
            f"{path} is damaged; delete it, and --resume validates anew from the last checkpoint on."
        ) from error


def with_knobs(adapter: Adapter, recommendation: KnobRecommendation | None) -> Adapter:
    """Record recommended knobs in an adapter's manifest; the image size stays the recipe's."""
    if recommendation is None or adapter.manifest is None:
        return adapter
    knobs = recommendation.knobs.model_dump(mode="json")
    return replace(adapter, manifest=adapter.manifest.model_copy(update={"knobs": knobs}))
