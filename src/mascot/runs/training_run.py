"""The main job: a recipe and a run's folder in, a trained adapter out, one yielded step at a time."""

from __future__ import annotations

import json
from collections import abc
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from PIL import Image

from mascot.adapters.adapter_file import Adapter, Manifest, join_stages
from mascot.data import class_images
from mascot.data.encoding_cache import CachedEncoders, EncodingCache
from mascot.data.photos import PhotoSet
from mascot.data.prompt_templates import class_prompt, fill
from mascot.diffusion.noise import seeded
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs, settings_text
from mascot.models.devices import choose_device
from mascot.protocols import AttachedMethod, Batch, Family, Method, Stage
from mascot.recipe.recipe import Recipe
from mascot.runs.batch_loader import BatchLoader
from mascot.runs.phase_schedule import PhaseSpan, spans
from mascot.runs.resume import uninterrupted
from mascot.storage.atomic_write import atomic_write
from mascot.storage.image_files import write_image
from mascot.storage.run_folder import Run
from mascot.training import memory_estimate
from mascot.training.checkpoint import load_parameters, save_parameters
from mascot.training.loop import Loop, Step
from mascot.training.memory_estimate import MemoryEstimate


@dataclass(kw_only=True)
class TrainingRun:
    """One run: `begin` puts it where its last checkpoint left it, `teach` trains to the end."""

    recipe: Recipe
    run: Run
    photos: PhotoSet
    family: Family
    encodings: EncodingCache = field(default_factory=EncodingCache)
    """What the untouched base's encoders said before, in another run."""
    why: str = ""
    """Why the token is what it is, where the user named none."""
    attached_methods: dict[int, AttachedMethod] = field(default_factory=dict[int, AttachedMethod])
    """Stage -> what learns, or has learned, in it."""
    at: int = -1
    """The stretch that the loop is for."""
    loop: Loop = field(init=False)
    kept: int | None = None
    """The step whose result is kept, where it is not the last."""
    needs: MemoryEstimate | None = None
    """What the present stretch needs, where that could be estimated."""

    @property
    def method(self) -> Method:
        """The recipe's method."""
        method: Any = self.recipe.method
        return method

    @cached_property
    def spans(self) -> tuple[PhaseSpan, ...]:
        """The whole run, in order."""
        return spans(len(self.family.stages), self.method, self.recipe.training.steps)

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.spans[-1].last

    @property
    def stage(self) -> Stage:
        """The stage that learns now."""
        return self.family.stages[self.spans[max(0, self.at)].stage]

    @property
    def attached(self) -> AttachedMethod:
        """What learns now."""
        return self.attached_methods[self.spans[self.at].stage]

    @property
    def resolution(self) -> int:
        """Side of the finished pictures in pixels."""
        last = self.family.stages[-1]
        wanted = self.recipe.dataset.resolution or last.resolution
        return max(last.multiple, wanted // last.multiple * last.multiple)

    @cached_property
    def batch_loaders(self) -> tuple[BatchLoader, ...]:
        """What each stage learns from."""
        last, images = self.family.stages[-1], self.class_images
        return tuple(
            BatchLoader(
                recipe=self.recipe, photos=self.photos, encoders=CachedEncoders(stage, number, self.encodings), class_images=images,
                resolution=self.resolution * stage.resolution // last.resolution,
            )
            for number, stage in enumerate(self.family.stages)
        )  # fmt: skip

    @property
    def batch_loader(self) -> BatchLoader:
        """What the present stage learns from."""
        return self.batch_loaders[self.spans[max(0, self.at)].stage]

    def check(self) -> None:
        """Refuse now what would otherwise be refused after class pictures were drawn, or after training.

        Raises:
            UserError: the base has nothing that could learn by this method, or the knobs' size or solver, the base's kind of answer or
                the loss's weighting cannot be used.
        """
        self.recipe.training.check()
        for span in self.spans:
            span.phase.trains(self.family.stages[span.stage])
        generator = Generator(self.family)
        knobs = generator.with_defaults(self.recipe.knobs)
        height, width = generator.size(knobs)
        for stage in self.family.stages:
            stage.solver(str(knobs.solver), knobs.steps, height, width)
            stage.objective.weight(stage.objective.sample_timesteps([seeded(0)]), self.recipe.training.min_snr)

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
            cpu=self.device == "cpu",
            log_with="tensorboard" if tensorboard_is_installed() else None,
            project_config=ProjectConfiguration(project_dir=folder, logging_dir=folder),
        )

    @cached_property
    def class_images(self) -> list[Image.Image]:
        """Pictures of the class by the untouched base; must be asked for before a learner is attached."""
        recipe = self.recipe
        if not recipe.prior.draws or recipe.class_noun is None:
            return []
        assert not self.attached_methods, "class pictures must be drawn before the method is attached"
        generator = Generator(self.family)
        knobs = Knobs(guidance=recipe.prior.guidance, steps=recipe.prior.steps, height=self.resolution, width=self.resolution)
        return class_images.class_images(
            recipe.prior,
            identity=self.family.identity,
            prompt=class_prompt(recipe.class_noun),
            resolution=self.resolution,
            precision=recipe.precision if choose_device(recipe.device) != "cpu" else "fp32",
            generate=lambda prompt, seeds: generator.generate([ImageRequest(prompt, seed) for seed in seeds], knobs),
        )

    def begin(self) -> None:
        """Attach the method and go to where the last checkpoint left off, if there is one; nothing is trained yet."""
        self.check()
        for batch_loader in self.batch_loaders:  # encoded by the untouched base, whose encoders may then go
            _ = batch_loader.dataset
        checkpoint = self.run.last_checkpoint()
        if checkpoint is None:
            self.enter(0)
            return
        done = self.run.step_of(checkpoint)
        while self.at < 0 or (self.spans[self.at].last < done and self.at + 1 < len(self.spans)):
            self.enter(self.at + 1)
        for stage in range(self.spans[self.at].stage):
            load_parameters(self.attached_methods[stage], checkpoint, f"stage{stage}")
        self.loop.load(checkpoint)

    def enter(self, number: int) -> None:
        """Attach a stretch's phase and make its loop, with every encoder that it does not need out of memory."""
        self.at = number
        span = self.spans[number]
        before = self.attached_methods.get(span.stage)
        self.attached_methods[span.stage] = span.phase.attach(self.stage, self.recipe.subject, self.recipe.seed, before)
        condition = self.batch_loader.condition(learns_text=self.trains_text(span.stage))
        self.release()
        training = self.recipe.training
        self.loop = Loop(self.stage, self.attached, training, condition, self.accelerator, first=span.first, last=span.last)
        if span.last > span.first and not training.compile:
            self.needs = self.loop.needs(self.batches(span.first)[0])
            memory_estimate.check(self.needs, memory_estimate.available(self.device))

    def release(self) -> None:
        """Let the encoders that training does not need leave memory; text that has learned stays."""
        for number, stage in enumerate(self.family.stages):
            stage.release_encoders(text=not self.trains_text(number))

    def trains_text(self, number: int) -> bool:
        """Whether any text encoder of a stage changes, or has changed."""
        stage, begun = self.family.stages[number], [span.phase for span in self.spans[: self.at + 1] if span.stage == number]
        return any(part != stage.denoiser for phase in begun for part in phase.trains(stage))

    def time_one_step(self) -> float:
        """Seconds of a step of the present stretch: the second of two that are gone through and not taken."""
        first = self.spans[self.at].first
        return [self.loop.time_one_step(self.batches(first)) for _ in range(2)][-1]

    def batches(self, step: int) -> Sequence[Batch]:
        """The micro-batches of a step of the run, from 0."""
        return self.batch_loader.batches(step - self.spans[self.at].stage * self.recipe.training.steps)

    def teach(self) -> abc.Generator[Step]:
        """Train to the end, keeping log, previews and checkpoints; an interruption, or closing this, leaves a checkpoint."""
        run, every = self.run, self.recipe.previews.every
        run.rewind_steps(self.loop.done)
        if every and self.loop.done == 0:
            self.preview(0)
        self.start_tracker()
        with run.steps.open("a", encoding="utf-8") as log:
            try:
                while (step := self.take(log)) is not None:
                    if every and step.number % every == 0:
                        self.preview(step.number)
                    if step.number % self.recipe.training.checkpoint_every == 0 or step.number == self.steps:
                        log.flush()
                        self.save()
                    yield step
            except (KeyboardInterrupt, GeneratorExit):
                log.flush()
                self.save()
                raise

    def finish(self) -> None:
        """Make what was learned what is kept."""
        self.loop.finish()
        self.accelerator.end_training()

    def take(self, log: Any) -> Step | None:
        """Train and record one step; an interruption waits until both are done, so that a step is whole or never was."""
        with uninterrupted():
            while self.loop.done == self.spans[self.at].last and self.at + 1 < len(self.spans):
                self.loop.finish()
                self.enter(self.at + 1)
            step = next(self.loop.steps(self.batches), None)
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
        row |= {f"rate.{part}": learning_rate for part, learning_rate in step.rates.items()}
        log.write(json.dumps(row) + "\n")
        if tensorboard_is_installed():
            self.accelerator.log({key: value for key, value in row.items() if key != "step"}, step=step.number)

    def save(self) -> None:
        """Keep the present step as a checkpoint, unless it is kept already."""
        if self.run.checkpoint(self.loop.done).exists():
            return
        with atomic_write(self.run.checkpoint(self.loop.done)) as temporary:
            self.loop.save(temporary)
            for stage in range(self.spans[self.at].stage):
                save_parameters(self.attached_methods[stage], temporary, f"stage{stage}")
        self.run.forget_old_checkpoints()

    def preview(self, step: int) -> None:
        """Draw the previews with what has been learned so far, through the one generator."""
        recipe = self.recipe
        requests = [
            ImageRequest(fill(prompt, recipe.subject), recipe.previews.seed + i) for i, prompt in enumerate(recipe.previews.prompts)
        ]
        generator = Generator(self.family)
        knobs = generator.with_defaults(recipe.knobs.model_copy(update={"height": self.resolution, "width": self.resolution}))
        with self.loop.drawing():
            for i, image in enumerate(generator.generate(requests, knobs)):
                text = settings_text(requests[i], knobs, (self.resolution, self.resolution), recipe.base, f"step {step}")
                write_image(image, self.run.preview(step, i), text)
        self.release()

    def adapter(self) -> Adapter:
        """What has been learned, as a file to be."""
        tensors, metadata = join_stages([self.attached_methods[stage].export() for stage in sorted(self.attached_methods)])
        return Adapter(tensors=tensors, metadata=metadata, manifest=self.manifest(self.method.name))

    def manifest(self, method: str) -> Manifest:
        """What an adapter file says about its making; `method` reads it."""
        recipe = self.recipe
        return Manifest(
            method=method,
            base=recipe.base,
            base_identity=self.family.identity,
            token=recipe.subject.token,
            class_noun=recipe.class_noun,
            resolution=self.resolution,
            step=self.loop.done if self.kept is None else self.kept,
            recipe=recipe.model_dump(mode="json", exclude={"photos", "device"}),
        )

    @property
    def device(self) -> str:
        """Where it runs."""
        return choose_device(self.recipe.device)

    def write_companions(self) -> list[tuple[str, str]]:
        """Write what the method makes besides the adapter; returns what there is to say about it."""
        rows: list[tuple[str, str]] = []
        for number, attached in sorted(self.attached_methods.items()):
            place = f"_{number + 1}" if number else ""
            for name, companion in attached.companions().items():
                manifest = self.manifest(companion.method) if companion.method and not number else None
                adapter = Adapter(tensors=companion.tensors, metadata=companion.metadata, manifest=manifest)
                adapter.write(self.run.companion(f"{name}{place}"))
                rows += companion.facts
            if attached.whole and not self.run.model(place).exists():  # a run that is finished again ends in the same one
                self.family.stages[number].save(self.run.model(place))
        return rows

    def detach(self) -> None:
        """Give the untouched base back."""
        for attached in self.attached_methods.values():
            attached.detach()
        self.attached_methods.clear()


def tensorboard_is_installed() -> bool:
    """Whether the `trackers` extra is there."""
    from importlib.util import find_spec

    return find_spec("tensorboard") is not None
