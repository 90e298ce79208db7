"""Base + adapter + prompts + seeds + knobs -> pictures: the only path that draws, for previews, class pictures, scores and commands."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from mascot.adapters.adapter_file import Adapter, split_stages
from mascot.diffusion.guidance import stack
from mascot.diffusion.noise import gaussian, seeded
from mascot.diffusion.sampling import denoise
from mascot.errors import UserError
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.methods.registry import restore_of
from mascot.protocols import AppliedAdapter, Conditioning, Family, Framing, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePrompts:
    """What one stage generates: the image size, and the conditioning of each prompt."""

    stage: Stage
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    conditioning: Mapping[str, Conditioning]
    """Prompt -> its conditioning, a batch of one."""


class Generator:
    """A loaded base, with or without an adapter, that draws.

    Picture i has its own seeded noise: it is the same bytes at the same batch size, and the same up to rounding in any other. In
    float32 that was at most 1 of 255 levels on an untouched base and 2 with an adapter over 4 steps; a random-weight network with a
    strong adapter can magnify a rounding difference over 30 steps until single pixels show it.

    The stages of a cascade draw one after the other, each seeing the picture of the one before; sizes are those of the last one's.
    """

    def __init__(self, family: Family, adapter: Adapter | None = None, *, batch_size: int = 8) -> None:
        self.family, self.batch_size = family, batch_size
        self.resolution = adapter.manifest.resolution if adapter and adapter.manifest else family.stages[-1].resolution
        self.applied: tuple[AppliedAdapter | None, ...] = (None,) * len(family.stages)
        if adapter is not None:
            check_base(adapter, family)
            self.applied = apply_adapter(adapter, family)

    def generate(self, requests: Sequence[ImageRequest], knobs: Knobs) -> Iterator[Image.Image]:
        """Draw all shots in order, in batches; a batch that does not fit the accelerator's memory is halved and tried again.

        Raises:
            UserError: the size does not suit the base, or a prompt is empty of pictures for other reasons it names.
        """
        knobs = self.with_defaults(knobs)
        height, width = self.size(knobs)
        for stage, applied in zip(self.family.stages, self.applied, strict=True):
            if applied is not None:
                others = {part: knobs.text_scale for part in stage.parts if part != stage.denoiser}
                applied.scale({stage.denoiser: knobs.unet_scale, **others})
        stages = self.read_prompts([request.prompt for request in requests] + [knobs.negative], height, width)
        size, start = self.batch_size, 0
        while start < len(requests):
            batch = requests[start : start + size]
            try:
                images = self.generate_batch(batch, knobs, stages)
            except torch.OutOfMemoryError:
                if size == 1:
                    raise UserError(
                        "one picture does not fit the accelerator's memory; draw smaller (--size) or in bf16."
                    ) from None
                size = max(1, size // 2)
                continue
            yield from images
            start += len(batch)

    def remove_adapter(self) -> None:
        """Leave the base as it was before the adapter; from here on it is the base that draws."""
        for applied in self.applied:
            if applied is not None:
                applied.remove()
        self.applied = (None,) * len(self.family.stages)

    def with_defaults(self, knobs: Knobs) -> Knobs:
        """The same knobs with the solver named."""
        return (
            knobs
            if knobs.solver is not None
            else knobs.model_copy(update={"solver": self.family.stages[0].default_solver})
        )

    def size(self, knobs: Knobs) -> tuple[int, int]:
        """Height and width of the final picture in pixels.

        Raises:
            UserError: some stage cannot draw its share of them.
        """
        sides = knobs.height or self.resolution, knobs.width or self.resolution
        multiple = math.lcm(*(stage.multiple * self.shrink(stage) for stage in self.family.stages))
        if any(side % multiple for side in sides):
            raise UserError(f"a side of {sides[1]}x{sides[0]} does not divide by {multiple}; choose sides that do.")
        return sides

    def shrink(self, stage: Stage) -> int:
        """How many pixels of the final picture one pixel of a stage's picture becomes, along a side."""
        last = self.family.stages[-1].resolution
        assert last % stage.resolution == 0
        return last // stage.resolution

    @torch.no_grad()
    def read_prompts(self, prompts: Sequence[str], height: int, width: int) -> list[StagePrompts]:
        """Compute each stage's conditioning of each distinct prompt, alone, for a final image of this size in pixels."""
        made: list[StagePrompts] = []
        for stage in self.family.stages:
            size = height // self.shrink(stage), width // self.shrink(stage)
            framing = Framing(original=size, target=size)
            conditioning = {prompt: stage.condition([prompt], [framing]) for prompt in dict.fromkeys(prompts)}
            made.append(StagePrompts(stage=stage, height=size[0], width=size[1], conditioning=conditioning))
        return made

    @torch.no_grad()
    def generate_batch(
        self, requests: Sequence[ImageRequest], knobs: Knobs, stages: Sequence[StagePrompts]
    ) -> list[Image.Image]:
        """Denoise through every stage, from seeded noise and the image of the stage before."""
        knobs, x = self.with_defaults(knobs), None
        for number, prompts in enumerate(stages):
            # The first stage's key has no number, so that a base draws alike with and without the stages that continue it.
            generators = [seeded("picture", request.seed, *([number] if number else [])) for request in requests]
            x = denoise_stage(prompts, requests, knobs, generators, x)
        assert x is not None
        return [to_image(pixels) for pixels in stages[-1].stage.decode(x)]


def denoise_stage(
    prompts: StagePrompts,
    requests: Sequence[ImageRequest],
    knobs: Knobs,
    generators: Sequence[torch.Generator],
    before_BCHW: Tensor | None,
) -> Tensor:
    """Denoise one stage's images, as its denoiser sees them; `before_BCHW` are those of the stage before, if there is one."""
    stage = prompts.stage
    shape = stage.latent_shape(prompts.height, prompts.width)
    solver = stage.solver(str(knobs.solver), knobs.steps, prompts.height, prompts.width)
    noise = gaussian(shape, generators)
    # Every pixel becomes a block, which the stage's own reduction turns back into that pixel: the image alone tells the size.
    image = (
        {}
        if before_BCHW is None
        else stage.image_conditioning(functional.interpolate(before_BCHW, shape[1:], mode="nearest"), generators)
    )
    positive = {**stack([prompts.conditioning[request.prompt] for request in requests]), **image}
    negative = {**stack([prompts.conditioning[knobs.negative]] * len(requests)), **image}
    return denoise(stage, noise, solver, positive=positive, negative=negative, guidance=knobs.guidance)


def apply_adapter(adapter: Adapter, family: Family) -> tuple[AppliedAdapter | None, ...]:
    """Put an adapter on every stage that it teaches; None for the others.

    Raises:
        UserError: it does not fit; no stage wears anything then.
    """
    restore = restore_of(adapter.manifest.method if adapter.manifest else None)
    shares = split_stages(adapter.tensors, adapter.metadata, len(family.stages))
    applied: list[AppliedAdapter | None] = []
    try:
        for number, (stage, (tensors, metadata)) in enumerate(zip(family.stages, shares, strict=True)):
            # An adapter without any tensor is refused by its method, as the first stage's.
            teaches = tensors or (number == 0 and not adapter.tensors)
            applied.append(restore(stage, tensors, metadata) if teaches else None)
    except UserError:
        for one in applied:
            if one is not None:
                one.remove()
        raise
    return tuple(applied)


def to_image(pixels_CHW: Tensor) -> Image.Image:
    """Pixels in 0..1 as a PIL picture."""
    values = (pixels_CHW.permute(1, 2, 0) * 255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(np.ascontiguousarray(values.cpu().numpy()))


def check_base(adapter: Adapter, family: Family) -> None:
    """Refuse an adapter of ours on another base: it would draw nonsense without a word."""
    manifest = adapter.manifest
    if manifest is not None and manifest.base_identity != family.identity:
        raise UserError(
            f"this adapter was trained on {manifest.base} ({manifest.base_identity}), not on this base ({family.identity}); "
            f"give --base {manifest.base} as it was then."
        )
