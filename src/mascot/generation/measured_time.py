"""The time of a run's parts, measured on this machine before the first step."""

from __future__ import annotations

import time
from collections.abc import Generator as Context
from contextlib import contextmanager
from dataclasses import dataclass, field

from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.protocols import Family

SHORT, LONG = 1, 3
"""Solver steps of the two batches that are timed; their difference is the time of the steps."""

SMALL_DENOISER = 100_000_000
"""Weights up to which a whole batch is timed; a larger denoiser is as busy with one image."""


@dataclass(kw_only=True)
class MeasuredTime:
    """Seconds of the parts of a run; None where a part is not measured."""

    started: float = field(default_factory=time.perf_counter)
    """When the run was opened."""
    with_images: bool = False
    """Whether images are timed too, before the first step."""
    training: float = 0.0
    """Seconds that the steps which are left will take, from one that was timed."""
    encoding: float = 0.0
    """Seconds in which photos and class images were encoded."""
    forward_pass: float | None = None
    """Seconds of one forward pass of the denoisers, for one image."""
    image: float = 0.0
    """Seconds that an image takes beside its forward passes: prompt, decoding."""

    @property
    def so_far(self) -> float:
        """Seconds since the run was opened."""
        return time.perf_counter() - self.started

    @contextmanager
    def encodes(self) -> Context[None]:
        """Add the time within the context to that of encoding."""
        started = time.perf_counter()
        yield
        self.encoding += time.perf_counter() - started

    def measure_images(self, family: Family, knobs: Knobs, resolution: int, *, compiled: bool) -> None:
        """Time images of two lengths with the base as it is now, once, and if that is wanted.

        A compiled denoiser is not timed, as it would be compiled again for other batches.
        """
        if not self.with_images or self.forward_pass is not None or compiled:
            return
        generator = Generator(family)
        knobs = knobs.model_copy(update={"height": resolution, "width": resolution})
        denoisers = [stage.parts[stage.denoiser] for stage in generator.family.stages]
        small = sum(weight.numel() for part in denoisers for weight in part.parameters()) <= SMALL_DENOISER
        count = generator.batch_size if small else 1
        if small:  # the first image of a process takes longer than the others
            time_batch(generator, knobs, 1, SHORT)
        short, long = (time_batch(generator, knobs, count, steps) / count for steps in (SHORT, LONG))
        step = max(0.0, long - short) / (LONG - SHORT)
        self.forward_pass = step / passes_of_a_step(generator, knobs)
        self.image = max(0.0, short - SHORT * step)

    def image_seconds(self, generator: Generator, knobs: Knobs) -> float:
        """Return the seconds of one image at some knobs."""
        passes = knobs.steps * passes_of_a_step(generator, knobs)
        return (self.forward_pass or 0.0) * passes + self.image


def passes_of_a_step(generator: Generator, knobs: Knobs) -> int:
    """Count the forward passes of a solver step: two with guidance, one without."""
    return 1 if generator.family.stages[-1].embeds_guidance or knobs.guidance == 1 else 2


def time_batch(generator: Generator, knobs: Knobs, count: int, steps: int) -> float:
    """Generate a batch, and return the seconds that it took."""
    requests = [ImageRequest("a photo", seed) for seed in range(count)]
    started = time.perf_counter()
    _ = list(generator.generate(requests, knobs.model_copy(update={"steps": steps})))
    return time.perf_counter() - started
