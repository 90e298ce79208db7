"""One training run: its inputs, its phases, and the phase that it is in."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, cast

from PIL import Image

from mascot.adapters.adapter_file import Adapter, split_stages
from mascot.data.encoding_cache import CachedEncoders, EncodingCache
from mascot.data.photos import PhotoSet
from mascot.generation.measured_time import MeasuredTime
from mascot.methods.registry import take_over_of
from mascot.models import devices
from mascot.models.devices import choose_device
from mascot.progress import OnEvent, ignore
from mascot.protocols import AttachedMethod, Batch, Family, Method, Stage
from mascot.recipe.recipe import Recipe
from mascot.runs.batch_loader import BatchLoader
from mascot.runs.inputs import image_resolution, make_class_images
from mascot.runs.phase_schedule import PhaseSpan, plan_spans
from mascot.storage.run_folder import Run
from mascot.training import memory_estimate
from mascot.training.accelerator import open_accelerator
from mascot.training.cost import memory_needs, time_one_step
from mascot.training.loop import Loop
from mascot.training.memory_estimate import MemoryEstimate

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(kw_only=True)
class TrainingRun:
    """State of one training run: what it is trained on, and which phase and stage it is in.

    `training_steps.py` trains it, and `export.py` writes the result.
    """

    recipe: Recipe
    files: Run
    """The run's folder."""
    photos: PhotoSet
    family: Family
    start: Adapter | None = None
    """The adapter that training starts from; None starts from the base or a checkpoint."""
    encodings: EncodingCache = field(default_factory=EncodingCache)
    """Latents and text embeddings of the base model, shared with other runs on the same base."""
    token_reason: str = ""
    """Why the token was chosen; empty if the user named one."""
    on_event: OnEvent = ignore
    settings: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """The effective settings, as the report shows them."""
    attached: dict[int, AttachedMethod] = field(default_factory=dict[int, AttachedMethod])
    """Stage index to the method that trains it, or has trained it."""
    index: int = -1
    """Index of the present span; -1 before the first is entered."""
    loop: Loop = field(init=False)
    is_extended: bool = False
    """Whether the run is resumed with more steps than before."""
    kept_step: int | None = None
    """The step whose parameters are kept; None keeps the last."""
    time: MeasuredTime = field(default_factory=MeasuredTime)
    needs: MemoryEstimate | None = None
    """Memory that the present span needs; None if it cannot be estimated."""

    @property
    def method(self) -> Method:
        """The recipe's method."""
        return cast("Method", self.recipe.method)

    @property
    def device(self) -> str:
        """The device that the run is trained on."""
        return choose_device(self.recipe.device)

    @cached_property
    def spans(self) -> tuple[PhaseSpan, ...]:
        """All phases on all stages, in order."""
        started = self.recipe.start_from is not None
        return plan_spans(len(self.family.stages), self.method, self.recipe.training.steps, started=started)

    @property
    def span(self) -> PhaseSpan:
        """The present span; the first one before any is entered."""
        return self.spans[max(0, self.index)]

    @property
    def stage(self) -> Stage:
        """The stage of the present span."""
        return self.family.stages[self.span.stage]

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.spans[-1].last

    @cached_property
    def resolution(self) -> int:
        """Side of the finished images in pixels."""
        return image_resolution(self.recipe, self.family)

    @cached_property
    def accelerator(self) -> Accelerator:
        """Device placement, mixed precision and tracker."""
        return open_accelerator(self.recipe.precision, device=self.device, folder=self.files.folder)

    @cached_property
    def class_images(self) -> dict[str, list[Image.Image]]:
        """Images of each class by the base model; first read them before a method is attached."""
        assert not self.attached, "class images must be generated before the method is attached"
        return make_class_images(self.recipe, self.family, self.resolution, self.photos.class_images)

    @cached_property
    def batch_loaders(self) -> tuple[BatchLoader, ...]:
        """One loader for each stage, at the stage's own resolution."""
        last, images = self.family.stages[-1], self.class_images
        return tuple(
            BatchLoader(
                recipe=self.recipe,
                photos=self.photos,
                encoders=CachedEncoders(stage, number, self.encodings),
                resolution=self.resolution * stage.resolution // last.resolution,
                class_images=images,
            )
            for number, stage in enumerate(self.family.stages)
        )

    def enter(self, index: int) -> None:
        """Attach the phase of a span and make its loop; UserError if memory is too small."""
        self.index = index
        span, training = self.span, self.recipe.training
        previous = self.attached.get(span.stage)
        self.attached[span.stage] = span.phase.attach(self.stage, self.recipe.subject, self.recipe.seed, previous)
        if self.start is not None and span.last > span.first:
            start_from_adapter(self, self.start)
        first = span.first - span.stage * training.steps
        condition = self.batch_loaders[span.stage].condition(trains_text=trains_text(self, span.stage), first=first)
        self.time.measure_images(self.family, self.recipe.knobs, self.resolution, compiled=training.compile)
        release_encoders(self)
        attached = self.attached[span.stage]
        self.loop = Loop(self.stage, attached, training, condition, self.accelerator, first=span.first, last=span.last)
        if span.last > span.first and not training.compile:
            self.needs = memory_needs(self.loop, self.batches(span.first)[0])
            if self.needs is not None:
                memory_estimate.check_memory(self.needs, devices.available_memory(self.device))

    def batches(self, step: int) -> Sequence[Batch]:
        """Build the micro-batches of a step of the run, from 0."""
        return self.batch_loaders[self.span.stage].batches(step - self.span.stage * self.recipe.training.steps)

    def time_one_step(self) -> float:
        """Measure the seconds of a step of the present span without taking it; second of two."""
        return [time_one_step(self.loop, self.batches(self.span.first)) for _ in range(2)][-1]

    @contextmanager
    def generating(self) -> Generator[None]:
        """Make the base, as trained so far, ready to generate images while the context lasts."""
        with self.loop.generating():
            yield
        release_encoders(self)

    @contextmanager
    def base_only(self) -> Generator[None]:
        """Switch off everything that is trained while the context lasts."""
        with ExitStack() as stack:
            for attached in self.attached.values():
                stack.enter_context(attached.base_only())
            yield

    def finish(self) -> None:
        """Keep the parameters that images are generated with, and close the tracker."""
        self.loop.finish()
        self.accelerator.end_training()

    def detach(self) -> None:
        """Restore the base model."""
        for attached in self.attached.values():
            attached.detach()
        self.attached.clear()


def release_encoders(run: TrainingRun) -> None:
    """Drop encoders that training does not need from memory.

    Text encoders stay if they are trained, or if captions vary from step to step.
    """
    for number, stage in enumerate(run.family.stages):
        stage.release_encoders(text=not (trains_text(run, number) or run.batch_loaders[number].dataset.varies))


def start_from_adapter(run: TrainingRun, adapter: Adapter) -> None:
    """Start the present stage's attached method from its share of an adapter.

    A stage that the adapter does not change starts from the base.
    """
    tensors, metadata = split_stages(adapter.tensors, adapter.metadata, len(run.family.stages))[run.span.stage]
    if tensors:
        take_over_of(run.method.name)(run.attached[run.span.stage], tensors, metadata)


def trains_text(run: TrainingRun, number: int) -> bool:
    """Tell whether a text encoder of a stage is trained now, or was in an earlier span."""
    stage = run.family.stages[number]
    begun = [span.phase for span in run.spans[: run.index + 1] if span.stage == number]
    return any(part != stage.denoiser for phase in begun for part in phase.trains(stage))
