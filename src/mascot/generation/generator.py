"""Generate images with a base model and an adapter; no other code generates images.

Previews, class images, scores and commands all use it.

Shape suffixes: B batch, C channel, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from mascot.adapters.adapter_file import Adapter
from mascot.diffusion.guidance import stack_conditioning
from mascot.diffusion.image_start import ImageStart
from mascot.diffusion.noise import gaussian, seeded
from mascot.diffusion.sampling import denoise
from mascot.errors import UserError, check_interrupted, is_out_of_memory
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.prompts.prompt_reading import PromptReader, Reading
from mascot.generation.stack.applied_stack import AppliedStack, apply_stack
from mascot.generation.stack.stacked_adapter import Stack, StackedAdapter
from mascot.generation.start_image import SourceImage, StartImage, broadcast
from mascot.models.devices import available_memory, gib, inference_bytes
from mascot.progress import ImageFitted, OnEvent, ignore
from mascot.protocols import Conditioning, Family, Framing, Stage

SMALLER = (
    "generate smaller images: --size of mascot generate, or dataset.resolution, knobs.height and knobs.width of a "
    "recipe; or close other programs"
)
"""What helps where one image takes too much memory, as the end of an error message."""


ROOMY = 2
"""From this many times the base's own side on, memory is counted before anything is generated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePrompts:
    """What one stage generates: the image size, and the conditioning of each prompt."""

    stage: Stage
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    conditioning: Mapping[str, Conditioning]
    """Prompt to its conditioning, a batch of one."""
    negative: Mapping[str, Conditioning]
    """Prompt to the negative prompt's conditioning in as many chunks, a batch of one."""
    start: ImageStart | None = None
    """The encoded image that denoising starts from, a batch of one; None starts from noise."""
    shown: Conditioning = field(default_factory=dict[str, Tensor])
    """What an inpainting base sees of that image, a batch of one."""

    def shapes(self, prompt: str) -> list[torch.Size]:
        """Return the shapes of a prompt's conditioning: prompts of one shape make a batch."""
        return [value.shape for value in self.conditioning[prompt].values()]


class Generator:
    """A loaded base model, with or without adapters, that generates images.

    Each image has its own seeded noise. It is the same bytes at the same batch size, and the same
    up to rounding at any other. In float32 the difference was at most 1 of 255 levels with the base
    model, and 2 with an adapter over 4 steps. A random-weight network with a strong adapter can
    magnify a rounding difference over 30 steps until single pixels show it.

    The stages of a cascade run one after the other, each on the image of the stage before. Sizes
    are those of the last stage.

    Prompts are read as users type them, with weights and in chunks (see `parse_prompt`). Without
    `typed` they are read as captions are read in training. The number of chunks decides an image,
    so it depends on the prompt and its negative prompt alone, and not on others in the batch.
    """

    def __init__(
        self,
        family: Family,
        adapter: Adapter | Stack | None = None,
        *,
        batch_size: int = 8,
        typed: bool = True,
        on_event: OnEvent = ignore,
    ) -> None:
        self.family, self.batch_size, self.on_event = family, batch_size, on_event
        self.prompt_reader = PromptReader(family, typed=typed)
        stack = (StackedAdapter(adapter=adapter),) if isinstance(adapter, Adapter) else adapter or ()
        sides = [one.adapter.manifest.resolution for one in stack if one.adapter.manifest]
        self.resolution = max(sides, default=family.stages[-1].resolution)
        self.applied = apply_stack(stack, family)

    def generate(
        self, requests: Sequence[ImageRequest], knobs: Knobs, start: StartImage | None = None
    ) -> Iterator[Image.Image]:
        """Generate all requests in order, in batches; from an image, where one is given.

        A batch that does not fit the memory is halved and tried again. An image to start from must
        have the size of the knobs.

        Raises:
            UserError: the size or the solver does not suit the base, one image does not fit the
                memory, the start's strength leaves no step, or what is generated are no finite
                numbers.
        """
        knobs = self.with_defaults(knobs)
        height, width = self.size(knobs)
        assert start is None or start.image.size == (width, height), "see `fit_start`"
        self.scale_adapter(knobs)
        stages = self.read_prompts([request.prompt for request in requests], knobs, height, width)
        if height * width > (ROOMY * self.family.stages[-1].resolution) ** 2:
            check_memory(stages, available_memory(device_of(stages[-1].stage)))
        if start is not None:
            stages = [with_start(prompts, start, knobs) for prompts in stages]
        size, done = self.batch_size, 0
        while done < len(requests):
            check_interrupted()
            batch = batch_of_one_shape(requests[done : done + size - done % size], stages)
            try:
                images = self.generate_batch(batch, knobs, stages)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    raise UserError(f"one image does not fit the memory; {SMALLER}.") from None
                size = max(1, size // 2)
                continue
            yield from images if start is None else map(start.restore_outside, images)
            done += len(batch)

    def scale_adapter(self, knobs: Knobs) -> None:
        """Set the strength of the adapters in the denoiser and in the text encoders."""
        self.applied.scale(knobs.unet_scale, knobs.text_scale)

    def remove_adapter(self) -> None:
        """Remove the adapters; from here on the base model generates."""
        self.applied.remove()
        self.applied = AppliedStack(self.family)

    def with_defaults(self, knobs: Knobs) -> Knobs:
        """Return the knobs with a solver: their own, or the base's default."""
        default = self.family.stages[0].default_solver
        return knobs if knobs.solver is not None else knobs.model_copy(update={"solver": default})

    def size(self, knobs: Knobs) -> tuple[int, int]:
        """Return the height and width of the final image in pixels.

        Raises:
            UserError: a side is not a multiple of what the stages need.
        """
        sides = knobs.height or self.resolution, knobs.width or self.resolution
        multiple = size_multiple(self.family)
        if any(side % multiple for side in sides):
            raise UserError(describe_wrong_size(*sides, multiple))
        return sides

    def reading(self, prompt: str, knobs: Knobs) -> Reading:
        """Tell how a prompt and the negative prompt are read for one image.

        Raises:
            UserError: a prompt cannot be read (see `PromptReader.parse`).
        """
        return self.prompt_reader.reading(prompt, used_negative(self.family, knobs))

    @torch.no_grad()
    def read_prompts(self, prompts: Sequence[str], knobs: Knobs, height: int, width: int) -> list[StagePrompts]:
        """Compute each stage's conditioning of each distinct prompt, one prompt at a time.

        `height` and `width` are those of the final image, in pixels. Events: `PromptTruncated`,
        `PromptRead`.
        """
        self.prompt_reader.report([*prompts, knobs.negative], self.on_event)
        unwanted = used_negative(self.family, knobs)
        stages: list[StagePrompts] = []
        for stage in self.family.stages:
            ratio = upscale_factor(self.family, stage)
            size = height // ratio, width // ratio
            framing = Framing(original=size, target=size)
            positive, negative = self.prompt_reader.condition(stage, prompts, unwanted, framing)
            stages.append(
                StagePrompts(stage=stage, height=size[0], width=size[1], conditioning=positive, negative=negative)
            )
        return stages

    @torch.no_grad()
    def generate_batch(
        self, requests: Sequence[ImageRequest], knobs: Knobs, stages: Sequence[StagePrompts]
    ) -> list[Image.Image]:
        """Denoise through every stage, from seeded noise and the image of the stage before."""
        knobs, x = self.with_defaults(knobs), None
        for number, prompts in enumerate(stages):
            # The first stage's key has no number: a base generates alike with and without later
            # stages.
            generators = [seeded("picture", request.seed, *([number] if number else [])) for request in requests]
            x = denoise_stage(prompts, requests, knobs, generators, x)
        assert x is not None
        pixels_BCHW = stages[-1].stage.decode(x)
        if not torch.isfinite(pixels_BCHW).all():
            raise UserError(
                "what is generated are no finite numbers, which would be black images; lower the guidance scale or "
                "the adapter's scales, train with lower learning rates, or use another base."
            )
        return [to_image(pixels) for pixels in pixels_BCHW]


def describe_wrong_size(height: int, width: int, multiple: int) -> str:
    """Say that a side does not divide by a number, and which sizes next to it would do."""
    lower, upper = (
        "x".join(str(max(multiple, (side + more) // multiple * multiple)) for side in (width, height))
        for more in (0, multiple - 1)
    )
    return (
        f"a side of {width}x{height} does not divide by {multiple}; choose sides that do, such as "
        f"{' or '.join(dict.fromkeys((lower, upper)))}, with --size, or with knobs.width and knobs.height in a recipe."
    )


def used_negative(family: Family, knobs: Knobs) -> str:
    """Return the negative prompt, or an empty one where no guidance uses it."""
    scale = knobs.true_guidance if family.stages[0].embeds_guidance else knobs.guidance
    return knobs.negative if scale != 1 else ""


def batch_of_one_shape(requests: Sequence[ImageRequest], stages: Sequence[StagePrompts]) -> Sequence[ImageRequest]:
    """Return the first requests whose prompts have as many chunks, which one batch can hold."""
    shapes = [[prompts.shapes(request.prompt) for prompts in stages] for request in requests]
    return requests[: next((index for index, other in enumerate(shapes) if other != shapes[0]), len(requests))]


def fit_start(
    source: SourceImage | None, generator: Generator, knobs: Knobs, *, sized: bool
) -> tuple[StartImage | None, Knobs]:
    """Size an image for a generator; returns it with the knobs of its size. None stays None.

    `sized` says that the user chose the size in the knobs; otherwise the image decides it. Event:
    `ImageFitted`, for each thing that was done to the image.

    Raises:
        UserError: the size does not suit the base, or leaves nothing of the mask.
    """
    if source is None:
        return None, knobs
    multiple = size_multiple(generator.family)
    size = generator.size(knobs) if sized else source.fit_size(generator.resolution, multiple)
    start = source.cut(size, generator.family.stages[0])
    for note in start.notes:
        generator.on_event(ImageFitted(message=note))
    return start, knobs.model_copy(update={"height": size[0], "width": size[1]})


def size_multiple(family: Family) -> int:
    """Return the number that the sides of the final image must be divisible by, in pixels."""
    return math.lcm(*(stage.multiple * upscale_factor(family, stage) for stage in family.stages))


def upscale_factor(family: Family, stage: Stage) -> int:
    """Return the ratio of the final image's side to a stage's side."""
    last = family.stages[-1].resolution
    assert last % stage.resolution == 0
    return last // stage.resolution


def with_start(prompts: StagePrompts, start: StartImage, knobs: Knobs) -> StagePrompts:
    """Add an image to start from, encoded for a stage.

    Raises:
        UserError: the strength leaves no step, or encoding does not fit the memory.
    """
    try:
        encoded, shown = start.encode(prompts.stage, prompts.height, prompts.width, knobs)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"encoding the image does not fit the memory; {SMALLER}.") from None
    return replace(prompts, start=encoded, shown=shown)


def check_memory(stages: Sequence[StagePrompts], available: int) -> None:
    """Refuse images whose denoising cannot fit the memory, before any is begun.

    It is counted without computing. What cannot be counted is tried.

    Raises:
        UserError: one image alone needs more than the available bytes.
    """
    for prompts in stages:
        stage = prompts.stage
        shape = stage.latent_shape(prompts.height, prompts.width)
        conditioning = next(iter(prompts.conditioning.values()))
        try:
            needed = inference_bytes(partial(denoise_once, stage, shape, conditioning))
        except (RuntimeError, ValueError):
            continue
        if needed > available:
            raise UserError(
                f"one image of {prompts.width}x{prompts.height} needs about {gib(needed)} of memory, of which "
                f"{gib(available)} are available; {SMALLER}."
            )


def denoise_once(stage: Stage, shape: tuple[int, int, int], conditioning: Conditioning) -> Tensor:
    """Predict once for an empty image."""
    device = device_of(stage)
    x = torch.zeros(1, *shape, device=device)
    image = stage.image_conditioning(x, [seeded("size")])
    return stage.predict(x, torch.full((1,), 500.0, device=device), {**conditioning, **image})


def device_of(stage: Stage) -> torch.device:
    """Return the device of a stage's denoiser."""
    return next(stage.parts[stage.denoiser].parameters()).device


def denoise_stage(
    prompts: StagePrompts,
    requests: Sequence[ImageRequest],
    knobs: Knobs,
    generators: Sequence[torch.Generator],
    before_BCHW: Tensor | None,
) -> Tensor:
    """Denoise one stage's images, and return its latents. Shape B x C x H x W.

    `before_BCHW` holds the result of the stage before, None for the first stage. Each image has its
    own random generator.
    """
    stage = prompts.stage
    shape = stage.latent_shape(prompts.height, prompts.width)
    solver = stage.solver(str(knobs.solver), knobs.steps, prompts.height, prompts.width)
    noise = gaussian(shape, generators)
    # Every pixel becomes a block, which the stage's own reduction turns back into that pixel. So
    # the image's size alone decides the reduction.
    image = (
        {}
        if before_BCHW is None
        else stage.image_conditioning(functional.interpolate(before_BCHW, shape[1:], mode="nearest"), generators)
    )
    image = {**image, **broadcast(prompts.shown, len(requests))}
    positive = {**stack_conditioning([prompts.conditioning[request.prompt] for request in requests]), **image}
    negative = {**stack_conditioning([prompts.negative[request.prompt] for request in requests]), **image}
    return denoise(
        stage,
        noise,
        solver,
        positive=positive,
        negative=negative,
        guidance_scale=knobs.guidance,
        true_guidance=knobs.true_guidance,
        start=prompts.start,
    )


def to_image(pixels_CHW: Tensor) -> Image.Image:
    """Convert pixels in 0..1 to a PIL image."""
    values = (pixels_CHW.permute(1, 2, 0) * 255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(np.ascontiguousarray(values.cpu().numpy()))
