"""Choosing while training: draws and measures validation prompts at a handful of steps, keeps the best, then turns the knobs.

What is drawn here goes through the one generator; the prompts are none of those that reports are made with.
"""

from __future__ import annotations

import json
from collections.abc import Generator as Generates
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor

from mascot.adapters.adapter_file import Adapter
from mascot.data.prompt_templates import fill
from mascot.diffusion.noise import seeded
from mascot.errors import UserError
from mascot.evaluation.metrics.default_encoders import EncoderPair, load_encoders
from mascot.evaluation.metrics.prompt_fidelity import prompt_fidelity
from mascot.evaluation.metrics.subject_fidelity import real_similarity, similarity
from mascot.evaluation.selection.checkpoint_selection import CheckpointSelector
from mascot.evaluation.selection.criterion import ReferenceScores, ValidationResult
from mascot.evaluation.selection.knob_search import KnobRecommendation, knob_grid, search_knobs
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.prompt_sets import STARTER_VALIDATION, is_live
from mascot.protocols import Subject
from mascot.runs.training_run import TrainingRun
from mascot.storage.atomic_write import atomic_write
from mascot.training.checkpoint import load_parameters, save_parameters

SEED = 7_000
"""Of the first validation picture: none that previews or reports begin with."""


ROUNDS = 2
"""Pictures of each validation prompt by which the last knobs are told apart."""


def passes_per_image(knobs: Knobs, *, told: bool) -> int:
    """How often a picture asks the denoiser; `told` denoisers hear the guidance scale and are asked once a step."""
    return knobs.steps * (1 if told or knobs.guidance == 1 else 2)


def budget(job: TrainingRun) -> int:
    """Pictures that choosing may draw: as many passes as training takes, a backward pass counted as two, times what the recipe allows."""
    recipe, training = job.recipe, job.recipe.training
    prior_examples = 2 if recipe.prior.draws or recipe.prior.preserves else 1
    passes = 3 * job.steps * training.gradient_accumulation_steps * training.batch_size * prior_examples
    return int(recipe.selection.cost * passes / passes_per_image(recipe.knobs, told=job.family.stages[-1].embeds_guidance))


@dataclass(kw_only=True)
class Validation:
    """One run's choice, made as it goes; `selection.json` in the run's folder holds all that it depends on."""

    job: TrainingRun
    results: int
    """Checkpoints that the budget allows to look at; 0 looks at none."""
    left: int
    """Pictures that are left for the knobs."""
    why_not: str = ""
    """Why nothing is chosen, where nothing is."""
    encoders: EncoderPair | None = None
    selector: CheckpointSelector | None = field(default=None, init=False)

    @classmethod
    def plan(cls, job: TrainingRun) -> Validation:
        """See what the budget allows."""
        settings, count, allowed = job.recipe.selection, len(validation_prompts(job)), budget(job)
        results = min(settings.checkpoints, allowed // count - 1)
        why_not = ""
        if not settings.active:
            why_not = "choosing was switched off; the last step is kept."
        elif job.recipe.class_noun is None:
            why_not = "without a class noun the untouched base cannot be asked for the same; the last step is kept."
        elif results < 1:
            why_not = "training was too short to choose anything at its own cost; the last step is kept."
        if why_not:
            return cls(job=job, results=0, left=0, why_not=why_not)
        try:
            encoders = load_encoders(job.recipe.base, settings.identity, settings.clip, job.device)
        except UserError as error:  # training is worth having without
            return cls(job=job, results=0, left=0, why_not=f"nothing was chosen, the last step is kept: {error}")
        return cls(job=job, results=results, left=allowed - (results + 1) * count if settings.knobs else 0, encoders=encoders)

    @property
    def images(self) -> int:
        """Pictures that choosing draws at most."""
        return (self.results + bool(self.results)) * len(validation_prompts(self.job)) + self.left

    @property
    def encoders(self) -> EncoderPair:
        """What measures; only asked for where something is looked at."""
        assert self.encoders is not None
        return self.encoders

    @cached_property
    def photos(self) -> Tensor:
        """The photos, embedded."""
        return self.encoders.identity.embed([photo.image for photo in self.job.photos.photos])

    @cached_property
    def steps(self) -> frozenset[int]:
        """The steps that are looked at: evenly over the last phase of the last stage."""
        last = self.job.spans[-1]
        length = last.last - last.first
        return frozenset(last.first + round(length * (i + 1) / self.results) for i in range(self.results)) if self.results else frozenset()

    def begin(self) -> bool:
        """Frame the scale by the untouched base, or go on from what the run has; returns whether training has ended already."""
        if not self.results:
            return False
        run, done = self.job.run, self.job.loop.done
        if run.selection.exists():
            try:
                self.selector = CheckpointSelector.from_json(json.loads(run.selection.read_text(encoding="utf-8"))["chooser"])
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{run.selection} is damaged; start a new --out.") from error
            self.selector.forget_after(done)
        else:
            with base_only(self.job):
                images = self.generate(
                    Generator(self.job.family), self.job.recipe.knobs, range(len(validation_prompts(self.job))), trained=False
                )
            self.selector = CheckpointSelector(references=self.references(images), patience=self.job.recipe.selection.patience)
            self.keep()
        if done in self.steps and all(validate.step != done for validate in self.selector.results):
            self.validate(done)  # stopped between the step and its look
        return self.selector.has_stopped_paying

    def references(self, images: Sequence[Image.Image]) -> ReferenceScores:
        """Place the untouched base and the photos."""
        generated_BD, words_BD = self.encoders.clip.embed(images), self.words(range(len(images)))
        count = len(self.photos)
        cosines_BB = self.photos @ self.photos.T
        cosines_BB.fill_diagonal_(-1)
        return ReferenceScores(
            base_likeness=similarity(self.encoders.identity.embed(images), self.photos),
            real_likeness=real_similarity(self.photos),
            base_prompt=prompt_fidelity(generated_BD, words_BD),
            floor_prompt=prompt_fidelity(self.encoders.clip.embed([noise(number) for number in range(len(images))]), words_BD),
            real_nearest=float(cosines_BB.max(1).values.mean()) if count > 1 else None,
        )

    def after(self, step: int) -> bool:
        """Look where it is time to; returns whether training shall stop."""
        if self.selector is None or step not in self.steps:
            return False
        self.validate(step)
        return self.selector.has_stopped_paying and step < self.job.steps

    def validate(self, step: int) -> None:
        """Draw, measure, and keep what is the best so far."""
        assert self.selector is not None
        with self.job.loop.drawing():
            generator = Generator(self.job.family)
            measured = self.measure(self.generate(generator, self.job.recipe.knobs, range(len(validation_prompts(self.job)))))
            if self.selector.add(step, measured):
                with atomic_write(self.job.run.best(step)) as folder:
                    folder.mkdir()
                    for number, attached in self.job.attached_methods.items():
                        save_parameters(attached, folder, f"stage{number}")
        self.job.release()
        self.keep()

    def keep(self) -> None:
        """Write all that the next decision depends on, and drop what is no longer the best."""
        assert self.selector is not None
        run, best = self.job.run, self.selector.best
        run.write_text(run.selection, json.dumps({"chooser": self.selector.to_json()}, indent=2) + "\n")
        run.forget_other_bests(best.step if best is not None else None)

    def with_defaults(self) -> str:
        """Give the learners what the best checkpoint had; returns why."""
        if self.selector is None:
            return self.why_not
        best = self.selector.best
        if best is not None:
            self.job.kept = best.step
            for number, attached in self.job.attached_methods.items():
                load_parameters(attached, self.job.run.best(best.step), f"stage{number}")
        return self.selector.reason

    def recommend(self, generator: Generator) -> KnobRecommendation | None:
        """Search the knobs with what pictures are left; None where there are too few."""
        prompts, usual = validation_prompts(self.job), generator.with_defaults(self.job.recipe.knobs)
        if self.selector is None or self.left < len(prompts):
            return None
        kept: dict[Knobs, list[Image.Image]] = {}

        def measure(knobs: Knobs, count: int) -> ValidationResult:
            had = kept.setdefault(knobs, [])
            had += self.generate(generator, knobs, range(len(had), count))
            return self.measure(had)

        return search_knobs(
            measure, self.selector.references, knob_grid(usual), budget=self.left, first=max(2, len(prompts) // 2), last=ROUNDS * len(prompts)
        )

    def generate(self, generator: Generator, knobs: Knobs, numbers: Sequence[int], *, trained: bool = True) -> list[Image.Image]:
        """Draw validation pictures by their numbers: prompts in a fixed order, then again with other seeds."""
        recipe, prompts = self.job.recipe, validation_prompts(self.job)
        subject = recipe.subject if trained else Subject(token=str(recipe.class_noun))
        size = {"height": self.job.resolution, "width": self.job.resolution}
        requests = [ImageRequest(fill(prompts[number % len(prompts)], subject), SEED + number) for number in numbers]
        return list(generator.generate(requests, knobs.model_copy(update=size)))

    def measure(self, images: Sequence[Image.Image]) -> ValidationResult:
        """Measure validation pictures, from number 0 on."""
        generated_BD = self.encoders.identity.embed(images)
        nearest_B = (generated_BD @ self.photos.T).max(1).values
        if self.selector is not None and self.selector.references.real_nearest is not None:
            nearest_B = nearest_B.clamp(min=self.selector.references.real_nearest)
        return ValidationResult(
            likeness=similarity(generated_BD, self.photos),
            prompt=prompt_fidelity(self.encoders.clip.embed(images), self.words(range(len(images)))),
            nearest=float(nearest_B.mean()),
        )

    def words(self, numbers: Sequence[int]) -> Tensor:
        """What the pictures' prompts mean, read with the class noun alone: the encoders have never read the token."""
        prompts, plain = validation_prompts(self.job), Subject(token=str(self.job.recipe.class_noun))
        return self.encoders.clip.embed_prompts([fill(prompts[number % len(prompts)], plain) for number in numbers])


def validation_prompts(job: TrainingRun) -> tuple[str, ...]:
    """The validation prompts, in an order of the run's own, so that a part of them is a fair sample."""
    prompts = STARTER_VALIDATION.for_subject(live=is_live(job.recipe.class_noun))
    order = sorted(range(len(prompts)), key=lambda i: seeded(job.recipe.seed, "validation", i).initial_seed())
    return tuple(prompts[i] for i in order)


def noise(number: int) -> Image.Image:
    """A picture of nothing, 64 pixels square."""
    values = torch.randint(0, 256, (64, 64, 3), generator=seeded("noise", number), dtype=torch.uint8)
    return Image.fromarray(values.numpy())


@contextmanager
def base_only(job: TrainingRun) -> Generates[None]:
    """The base without anything that learns."""
    with ExitStack() as stack:
        for attached in job.attached_methods.values():
            stack.enter_context(attached.base_only())
        yield


def with_knobs(adapter: Adapter, recommendation: KnobRecommendation | None) -> Adapter:
    """The adapter, which says what to draw it with."""
    if recommendation is None or adapter.manifest is None:
        return adapter
    knobs = recommendation.knobs.model_copy(update={"height": None, "width": None})
    return replace(adapter, manifest=adapter.manifest.model_copy(update={"knobs": knobs.model_dump(mode="json")}))
