"""Proof that an adapter's file holds what was trained, and that it changes what is generated.

One small image by the trained base is compared with one by the file, and with one by the base
alone: same prompt, same seed, few solver steps, without guidance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from mascot.adapters.adapter_file import Adapter
from mascot.data.prompt_templates import fill
from mascot.errors import UserError
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.prompts.prompt_sets import together
from mascot.generation.stack.applied_stack import apply_stack
from mascot.generation.stack.stacked_adapter import StackedAdapter
from mascot.progress import AdapterReadBack
from mascot.protocols import Subject

STEPS: Final = 2
"""Solver steps of an image; the layers are used at each of them."""
SMALLEST: Final = 64
"""Least side of an image in pixels."""
ROUNDING: Final = 2
"""Most levels of 255 by which rounding alone may change an image of so few steps."""


@dataclass(frozen=True, slots=True)
class TrainedImage:
    """The small image of a base as it is trained, and what it was generated with."""

    request: ImageRequest
    knobs: Knobs
    values: np.ndarray

    @classmethod
    def generate(cls, generator: Generator, subject: Subject, resolution: int) -> TrainedImage:
        """Generate an image of all subjects by the base as it is now.

        `resolution` is the side of the images that the adapter is for, in pixels.
        """
        request = ImageRequest(fill(f"a photo of {together(subject) if subject.others else '{subject}'}", subject), 0)
        side = small_side(resolution, generator.family.stages[-1].multiple)
        knobs = Knobs(steps=STEPS, guidance=1.0, height=side, width=side)
        return cls(request, knobs, image_values(generator, request, knobs))

    def compare(self, generator: Generator) -> AdapterReadBack:
        """Compare with the images by an adapter that the generator has applied, and by the base."""
        ours = image_values(generator, self.request, self.knobs)
        scales = {"unet_scale": 0.0, "text_scale": 0.0}
        base = image_values(generator, self.request, self.knobs.model_copy(update=scales))
        generator.scale_adapter(self.knobs)
        layer, change = max(generator.applied.changes(), key=lambda pair: pair[1])
        return AdapterReadBack(
            layer=layer,
            layer_change=change,
            image_change=float(np.abs(ours - base).mean()),
            difference=int(np.abs(ours - self.values).max()),
        )


def small_side(resolution: int, multiple: int) -> int:
    """Return a quarter of a side, but no less than SMALLEST where the side allows it."""
    least = max(resolution // 4, min(SMALLEST, resolution))
    return math.ceil(least / multiple) * multiple


def image_values(generator: Generator, request: ImageRequest, knobs: Knobs) -> np.ndarray:
    """Generate one image as signed levels, 0..255. Shape height x width x 3."""
    return np.asarray(next(iter(generator.generate([request], knobs))), np.int16)


def read_back(path: Path, generator: Generator, trained: TrainedImage) -> AdapterReadBack:
    """Apply an adapter's file in place of what the generator has applied, and compare the images.

    Raises:
        UserError: the file gives another image than what was trained.
    """
    generator.remove_adapter()
    generator.applied = apply_stack((StackedAdapter(adapter=Adapter.read(path)),), generator.family)
    found = trained.compare(generator)
    if found.difference > ROUNDING:
        raise UserError(
            f"the adapter's file gives another image than what was trained (up to {found.difference} of 255 levels), "
            "so it is not kept; run the same command with --resume, which writes it again."
        )
    return found
