"""The main job: a recipe and a run's folder in, a trained adapter out, one yielded step at a time."""

from __future__ import annotations

import hashlib
import json
from collections import abc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mascot import prior
from mascot.adapter import Adapter, Manifest
from mascot.captions import caption_photos, class_prompt, fill
from mascot.dataset import Conditions, Dataset, make_dataset
from mascot.errors import UserError
from mascot.families import load_family
from mascot.generator import Generator, Knobs, Shot, settings_text, write_picture
from mascot.latents import seeded
from mascot.photos import PhotoSet, read_photos
from mascot.protocols import Batch, Family, Learner, Phase, Stage
from mascot.recipe import Recipe
from mascot.run import Run, replacing
from mascot.trainer import Loop, Step, uninterrupted


def choose_device(wanted: str) -> str:
    """Turn `auto` into the best device there is.

    Raises:
        UserError: the wanted one is not there.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there[wanted]:
        raise UserError(f"this machine has no {wanted} device; give --set device=cpu.")
    return wanted


def load_base(recipe: Recipe) -> Family:
    """Load a recipe's base on its device.

    On a CPU the weights stay in float32 and autocast does the rest: it is as fast, and drawing is the same in any batch.
    """
    device = choose_device(recipe.device)
    if device == "cpu" and recipe.precision == "fp16":
        raise UserError("fp16 does not train on a CPU; give --set precision=bf16 or fp32.")
    return load_family(recipe.base, device=device, precision="fp32" if device == "cpu" else recipe.precision)


def read_subject(recipe: Recipe) -> PhotoSet:
    """Read and caption a recipe's photos, and refuse what cannot work before any weight is loaded."""
    if recipe.prior.count and recipe.prior.weight and recipe.class_noun is None:
        raise UserError("prior preservation needs to know what the subject is: give --class-noun dog (say), or --set prior.count=0.")
    photos = read_photos([Path(path) for path in recipe.photos], background=recipe.dataset.background)
    photos = caption_photos(photos, recipe.dataset.templates)
    for photo in photos.photos:
        _ = [fill(caption, recipe.subject) for caption in photo.captions]
    for prompt in recipe.previews.prompts:
        fill(prompt, recipe.subject)
    return photos


@dataclass(kw_only=True)
class Personalization:
    """One run, prepared step by step; each part is made when it is first needed."""

    recipe: Recipe
    run: Run
    photos: PhotoSet
    family: Family

    @property
    def stage(self) -> Stage:
        """The stage that learns."""
        return self.family.stages[0]

    @property
    def phase(self) -> Phase:
        """What the recipe's method does in this stage."""
        method: Any = self.recipe.method
        return method

    @property
    def resolution(self) -> int:
        """Side of the training pictures in pixels."""
        wanted = self.recipe.dataset.resolution or self.stage.resolution
        return max(self.stage.multiple, wanted // self.stage.multiple * self.stage.multiple)

    def check(self) -> None:
        """Refuse now what would otherwise be refused after training, when the report is drawn.

        Raises:
            UserError: the knobs' size or solver, the base's kind of answer or the loss's weighting cannot be used.
        """
        generator = Generator(self.family)
        knobs = generator.settle(self.recipe.knobs)
        height, width = generator.size(knobs)
        self.stage.solver(str(knobs.solver), knobs.steps, height, width)
        objective = self.stage.objective
        objective.weight(objective.levels([seeded(0)]), self.recipe.training.min_snr)

    @cached_property
    def accelerator(self) -> Any:
        """Device, precision and tracker, through accelerate."""
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from accelerate.utils import ProjectConfiguration

        # accelerate keeps one global state; a second run in this process may have another precision.
        AcceleratorState._reset_state(reset_partial_state=True)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        precision = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}[self.recipe.precision]
        folder = str(self.run.folder)
        return Accelerator(
            mixed_precision=precision,
            cpu=choose_device(self.recipe.device) == "cpu",
            log_with="tensorboard" if tensorboard_is_installed() else None,
            project_config=ProjectConfiguration(project_dir=folder, logging_dir=folder),
        )

    @cached_property
    def class_pictures(self) -> list[Image.Image]:
        """Pictures of the class by the untouched base; must be asked for before the learner is attached."""
        recipe = self.recipe
        if not (recipe.prior.count and recipe.prior.weight) or recipe.class_noun is None:
            return []
        assert "learner" not in self.__dict__, "class pictures must be drawn before the method is attached"
        generator = Generator(self.family)
        knobs = Knobs(guidance=recipe.prior.guidance, steps=recipe.prior.steps, height=self.resolution, width=self.resolution)
        return prior.class_pictures(
            recipe.prior,
            identity=self.family.identity,
            prompt=class_prompt(recipe.class_noun),
            resolution=self.resolution,
            precision=recipe.precision if choose_device(recipe.device) != "cpu" else "fp32",
            draw=lambda prompt, seeds: generator.draw([Shot(prompt, seed) for seed in seeds], knobs),
        )

    @cached_property
    def dataset(self) -> Dataset:
        """All examples, encoded once."""
        return make_dataset(
            self.photos.photos,
            self.class_pictures,
            stage=self.stage,
            subject=self.recipe.subject,
            class_caption=class_prompt(self.recipe.class_noun) if self.recipe.class_noun else "",
            settings=self.recipe.dataset,
            prior_weight=self.recipe.prior.weight if self.class_pictures else 0.0,
        )

    @property
    def learns_text(self) -> bool:
        """Whether any text encoder changes."""
        return any(part != self.stage.denoiser for part in self.phase.trains(self.stage))

    @cached_property
    def learner(self) -> Learner:
        """The method, attached."""
        _ = self.dataset
        return self.phase.attach(self.stage, self.recipe.seed)

    @cached_property
    def loop(self) -> Loop:
        """The loop, at step 0, with every encoder that it does not need out of memory."""
        self.check()
        learner = self.learner
        condition = self.stage.condition
        if not self.learns_text:
            conditions = Conditions(self.stage)
            conditions.prepare(self.dataset.pairs)
            condition = conditions
        self.release()
        return Loop(self.stage, learner, self.recipe.training, condition, self.accelerator)

    def release(self) -> None:
        """Let the encoders that training does not need leave memory."""
        self.stage.release_encoders(text=not self.learns_text)

    @cached_property
    def plan(self) -> list[Any]:
        """Which photos each micro-batch shows."""
        training = self.recipe.training
        count = training.steps * training.accumulation
        return self.dataset.schedule(seed=self.recipe.seed, micro_batches=count, batch_size=training.batch_size)

    def batches(self, step: int) -> Sequence[Batch]:
        """The micro-batches of a step, from 0."""
        count = self.recipe.training.accumulation
        numbers = range(step * count, (step + 1) * count)
        return [self.dataset.batch(self.plan[n], seed=self.recipe.seed, number=n, share=1 / count) for n in numbers]

    def teach(self) -> abc.Generator[Step]:
        """Train to the end, keeping log, previews and checkpoints; an interruption, or closing this, leaves a checkpoint."""
        run, every = self.run, self.recipe.previews.every
        loop = self.loop
        checkpoint = run.last_checkpoint()
        if checkpoint is not None:
            loop.load(checkpoint)
        run.rewind_steps(loop.done)
        if every and loop.done == 0:
            self.preview(0)
        self.start_tracker()
        with run.steps.open("a", encoding="utf-8") as log:
            try:
                steps = loop.steps(self.batches)
                while (step := self.take(steps, log)) is not None:
                    if every and step.number % every == 0:
                        self.preview(step.number)
                    if step.number % self.recipe.training.checkpoint_every == 0 or step.number == self.recipe.training.steps:
                        log.flush()
                        self.save()
                    yield step
            except (KeyboardInterrupt, GeneratorExit):
                log.flush()
                self.save()
                raise
        self.accelerator.end_training()

    def take(self, steps: Iterator[Step], log: Any) -> Step | None:
        """Train and record one step; an interruption waits until both are done, so that a step is whole or never was."""
        with uninterrupted():
            step = next(steps, None)
            if step is not None:
                self.record(step, log)
        return step

    def start_tracker(self) -> None:
        """Open TensorBoard's files where it is installed."""
        if tensorboard_is_installed():
            self.accelerator.init_trackers(self.run.tensorboard.name)

    def record(self, step: Step, log: Any) -> None:
        """Write one step to the log and to the tracker."""
        row = {"step": step.number, "loss": step.loss, "subject_loss": step.subject_loss, "norm": step.norm}
        row |= {f"rate.{part}": rate for part, rate in step.rates.items()}
        log.write(json.dumps(row) + "\n")
        if tensorboard_is_installed():
            self.accelerator.log({key: value for key, value in row.items() if key != "step"}, step=step.number)

    def save(self) -> None:
        """Keep the present step as a checkpoint, unless it is kept already."""
        if self.run.checkpoint(self.loop.done).exists():
            return
        with replacing(self.run.checkpoint(self.loop.done)) as temporary:
            self.loop.save(temporary)
        self.run.forget_old_checkpoints()

    def preview(self, step: int) -> None:
        """Draw the previews with what has been learned so far, through the one generator."""
        recipe = self.recipe
        shots = [Shot(fill(prompt, recipe.subject), recipe.previews.seed + i) for i, prompt in enumerate(recipe.previews.prompts)]
        generator = Generator(self.family)
        knobs = generator.settle(recipe.knobs.model_copy(update={"height": self.resolution, "width": self.resolution}))
        for i, picture in enumerate(generator.draw(shots, knobs)):
            text = settings_text(shots[i], knobs, (self.resolution, self.resolution), recipe.base, f"step {step}")
            write_picture(picture, self.run.preview(step, i), text)
        self.release()

    def adapter(self) -> Adapter:
        """What has been learned, as a file to be."""
        tensors, metadata = self.learner.export()
        recipe = self.recipe
        settings: Any = recipe.method
        manifest = Manifest(
            method=settings.name,
            base=recipe.base,
            base_identity=self.family.identity,
            token=recipe.token,
            class_noun=recipe.class_noun,
            resolution=self.resolution,
            step=self.loop.done,
            recipe=recipe.model_dump(mode="json", exclude={"photos", "device"}),
        )
        return Adapter(tensors=tensors, metadata=metadata, manifest=manifest)


def tensorboard_is_installed() -> bool:
    """Whether the `trackers` extra is there."""
    from importlib.util import find_spec

    return find_spec("tensorboard") is not None


def photo_hashes(photos: PhotoSet) -> list[list[str]]:
    """The name and the content of each picture, in order: a resumed run must see the same."""
    return [[photo.path.name, hashlib.sha256(photo.picture.tobytes()).hexdigest()[:16]] for photo in photos.photos]
