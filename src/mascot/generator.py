"""Base + adapter + prompts + seeds + knobs -> pictures: the only path that draws, for previews, class pictures, scores and commands."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from mascot.adapters.adapter_file import Adapter
from mascot.diffusion.noise import gaussian, seeded
from mascot.errors import UserError
from mascot.methods.registry import restore_of
from mascot.protocols import Conditioning, Family, Framing, Restored, Stage
from mascot.storage.atomic_write import replacing


class Knobs(BaseModel):
    """What can be turned when drawing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    guidance: float = Field(default=7.5, ge=0, le=100, description="classifier-free guidance scale (Ho & Salimans 2022); 1 draws without")
    unet_scale: float = Field(default=1.0, ge=0, le=4, description="strength of the denoiser's part of the adapter; 0 is the base")
    text_scale: float = Field(default=1.0, ge=0, le=4, description="strength of the text encoder's part of the adapter")
    negative: str = Field(default="", description="what not to draw")
    steps: int = Field(default=30, ge=1, le=1000, description="solver steps")
    solver: str | None = Field(default=None, description="ddim, dpm++, euler or unipc; the base's own when not given")
    height: int | None = Field(default=None, ge=8, le=8192, description="pixels; the adapter's own when not given")
    width: int | None = Field(default=None, ge=8, le=8192, description="pixels; the adapter's own when not given")


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture to draw."""

    prompt: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What one stage draws: how large, and what each prompt tells it."""

    stage: Stage
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    known: Mapping[str, Conditioning]


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
        self.worn: tuple[Restored | None, ...] = (None,) * len(family.stages)
        if adapter is not None:
            check_base(adapter, family)
            self.worn = wear(adapter, family)

    def draw(self, shots: Sequence[Shot], knobs: Knobs) -> Iterator[Image.Image]:
        """Draw all shots in order, in batches; a batch that does not fit the accelerator's memory is halved and tried again.

        Raises:
            UserError: the size does not suit the base, or a prompt is empty of pictures for other reasons it names.
        """
        knobs = self.settle(knobs)
        height, width = self.size(knobs)
        for stage, worn in zip(self.family.stages, self.worn, strict=True):
            if worn is not None:
                others = {part: knobs.text_scale for part in stage.parts if part != stage.denoiser}
                worn.scale({stage.denoiser: knobs.unet_scale, **others})
        scenes = self.scenes([shot.prompt for shot in shots] + [knobs.negative], height, width)
        size, start = self.batch_size, 0
        while start < len(shots):
            batch = shots[start : start + size]
            try:
                pictures = self.draw_batch(batch, knobs, scenes)
            except torch.OutOfMemoryError:
                if size == 1:
                    raise UserError("one picture does not fit the accelerator's memory; draw smaller (--size) or in bf16.") from None
                size = max(1, size // 2)
                continue
            yield from pictures
            start += len(batch)

    def take_off(self) -> None:
        """Leave the base as it was before the adapter; from here on it is the base that draws."""
        for worn in self.worn:
            if worn is not None:
                worn.remove()
        self.worn = (None,) * len(self.family.stages)

    def settle(self, knobs: Knobs) -> Knobs:
        """The same knobs with the solver named."""
        return knobs if knobs.solver is not None else knobs.model_copy(update={"solver": self.family.stages[0].default_solver})

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
    def scenes(self, prompts: Sequence[str], height: int, width: int) -> list[Scene]:
        """What every stage draws for a final picture of so many pixels; each distinct prompt is read once by each stage, alone."""
        scenes: list[Scene] = []
        for stage in self.family.stages:
            size = height // self.shrink(stage), width // self.shrink(stage)
            framing = Framing(original=size, target=size)
            known = {prompt: stage.condition([prompt], [framing]) for prompt in dict.fromkeys(prompts)}
            scenes.append(Scene(stage=stage, height=size[0], width=size[1], known=known))
        return scenes

    @torch.no_grad()
    def draw_batch(self, shots: Sequence[Shot], knobs: Knobs, scenes: Sequence[Scene]) -> list[Image.Image]:
        """Solve each stage from seeded noise and the picture of the stage before."""
        x = None
        for number, scene in enumerate(scenes):
            # The first stage's key has no number, so that a base draws alike with and without the stages that continue it.
            generators = [seeded("picture", shot.seed, *([number] if number else [])) for shot in shots]
            x = solve(scene, shots, self.settle(knobs), generators, x)
        assert x is not None
        return [to_picture(pixels) for pixels in scenes[-1].stage.decode(x)]


def solve(scene: Scene, shots: Sequence[Shot], knobs: Knobs, generators: Sequence[torch.Generator], before_BCHW: Tensor | None) -> Tensor:
    """One stage's pictures, as its denoiser sees them; `before_BCHW` are those of the stage before, where there is one."""
    stage = scene.stage
    shape = stage.latent_shape(scene.height, scene.width)
    solver = stage.solver(str(knobs.solver), knobs.steps, scene.height, scene.width)
    x = gaussian(shape, generators) * float(solver.init_noise_sigma)
    # Every pixel becomes a block, which the stage's own reduction turns back into that pixel: `see` is told the size by the picture alone.
    seen = {} if before_BCHW is None else stage.see(functional.interpolate(before_BCHW, shape[1:], mode="nearest"), generators)
    positive = {**stack([scene.known[shot.prompt] for shot in shots]), **seen}
    negative = {**stack([scene.known[knobs.negative]] * len(shots)), **seen}
    both = told(stage, positive, negative, knobs.guidance)
    for time in solver.timesteps:
        answer = guided(stage, solver.scale_model_input(x, time), time, both, knobs.guidance)
        x = solver.step(answer, time, x, return_dict=False)[0]
    return x


def told(stage: Stage, positive: Conditioning, negative: Conditioning, guidance: float) -> Conditioning:
    """What the denoiser is told: the prompts alone, with the guidance scale, or below the negative prompts."""
    if stage.embeds_guidance:
        return {**positive, "guidance": torch.full((len(next(iter(positive.values()))),), guidance)}
    return stack([negative, positive]) if guidance != 1 else positive


def guided(stage: Stage, x_BCHW: Tensor, time: Tensor, conditioning: Conditioning, guidance: float) -> Tensor:
    """Ask with and without the prompt and go further the way that the prompt leads."""
    if guidance == 1 or stage.embeds_guidance:
        return stage.predict(x_BCHW, time.expand(len(x_BCHW)), conditioning).cpu()
    answer = stage.predict(torch.cat([x_BCHW, x_BCHW]), time.expand(2 * len(x_BCHW)), conditioning).cpu()
    without, given = answer.chunk(2)
    return without + guidance * (given - without)


def stack(rows: Sequence[Conditioning]) -> Conditioning:
    """Put conditionings one below the other."""
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def split_stages(tensors: Mapping[str, Any], metadata: Mapping[str, str], count: int) -> list[tuple[dict[str, Any], dict[str, str]]]:
    """Tensors and metadata of each of a base's `count` stages: those of later stages begin with stage2., stage3., ..., which is taken off.

    Raises:
        UserError: some tensors are for a stage that the base lacks.
    """
    kept = [(dict[str, Any](), dict[str, str]()) for _ in range(count)]
    for place, values in enumerate((tensors, metadata)):
        for key, value in values.items():
            prefix = re.match(r"stage([2-9]|[1-9]\d+)\.", key)
            number = int(prefix[1]) - 1 if prefix else 0
            if number >= count:
                raise UserError(
                    f"this adapter teaches a stage {number + 1}, and this base has {count}; "
                    "give the base that it was trained on, all stages joined by + (--base FIRST+SECOND)."
                )
            kept[number][place][key[prefix.end() :] if prefix else key] = value
    return kept


def wear(adapter: Adapter, family: Family) -> tuple[Restored | None, ...]:
    """Put an adapter on every stage that it teaches; None for the others.

    Raises:
        UserError: it does not fit; no stage wears anything then.
    """
    restore = restore_of(adapter.manifest.method if adapter.manifest else None)
    shares = split_stages(adapter.tensors, adapter.metadata, len(family.stages))
    worn: list[Restored | None] = []
    try:
        for number, (stage, (tensors, metadata)) in enumerate(zip(family.stages, shares, strict=True)):
            # An adapter without any tensor is refused by its method, as the first stage's.
            teaches = tensors or (number == 0 and not adapter.tensors)
            worn.append(restore(stage, tensors, metadata) if teaches else None)
    except UserError:
        for one in worn:
            if one is not None:
                one.remove()
        raise
    return tuple(worn)


def to_picture(pixels_CHW: Tensor) -> Image.Image:
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


def settings_text(shot: Shot, knobs: Knobs, size: tuple[int, int], base: str, adapter: str | None) -> str:
    """Everything that made a picture, in the form that A1111's web UI writes and many tools read."""
    facts: dict[str, Any] = {"Steps": knobs.steps, "Sampler": knobs.solver, "CFG scale": knobs.guidance, "Seed": shot.seed}
    facts |= {"Size": f"{size[1]}x{size[0]}", "Model": base.replace(",", " ")}
    if adapter is not None:
        facts |= {"Adapter": adapter, "UNet scale": knobs.unet_scale, "Text encoder scale": knobs.text_scale}
    negative = f"\nNegative prompt: {knobs.negative}" if knobs.negative else ""
    return f"{shot.prompt}{negative}\n" + ", ".join(f"{name}: {value}" for name, value in facts.items())


def write_picture(picture: Image.Image, path: Path, text: str) -> None:
    """Write a PNG with its settings, whole or not at all."""
    info = PngInfo()
    info.add_itxt("parameters", text)
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=info)
