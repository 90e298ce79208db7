"""Base + adapter + prompts + seeds + knobs -> pictures: the only path that draws, for previews, class pictures, scores and commands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from mascot.adapter import Adapter
from mascot.errors import UserError
from mascot.latents import gaussian, seeded
from mascot.methods import restore_of
from mascot.protocols import Conditioning, Family, Framing, Restored, Stage
from mascot.run import replacing


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


class Generator:
    """A loaded base, with or without an adapter, that draws.

    Picture i has its own seeded noise: it is the same bytes at the same batch size, and the same up to rounding in any other. In
    float32 that was at most 1 of 255 levels on an untouched base and 2 with an adapter over 4 steps; a random-weight network with a
    strong adapter can magnify a rounding difference over 30 steps until single pixels show it.
    """

    def __init__(self, family: Family, adapter: Adapter | None = None, *, batch_size: int = 8) -> None:
        self.family, self.batch_size = family, batch_size
        self.resolution = adapter.manifest.resolution if adapter and adapter.manifest else self.stage.resolution
        self.worn: Restored | None = None
        if adapter is not None:
            check_base(adapter, family)
            method = adapter.manifest.method if adapter.manifest else None
            self.worn = restore_of(method)(self.stage, adapter.tensors, adapter.metadata)

    @property
    def stage(self) -> Stage:
        """The stage that draws first."""
        return self.family.stages[0]

    def draw(self, shots: Sequence[Shot], knobs: Knobs) -> Iterator[Image.Image]:
        """Draw all shots in order, in batches; a batch that does not fit the accelerator's memory is halved and tried again.

        Raises:
            UserError: the size does not suit the base, or a prompt is empty of pictures for other reasons it names.
        """
        knobs = self.settle(knobs)
        height, width = self.size(knobs)
        if self.worn is not None:
            others = {part: knobs.text_scale for part in self.stage.parts if part != self.stage.denoiser}
            self.worn.scale({self.stage.denoiser: knobs.unet_scale, **others})
        known = self.read_prompts([shot.prompt for shot in shots] + [knobs.negative], height, width)
        size, start = self.batch_size, 0
        while start < len(shots):
            batch = shots[start : start + size]
            try:
                pictures = self.draw_batch(batch, knobs, known, height, width)
            except torch.OutOfMemoryError:
                if size == 1:
                    raise UserError("one picture does not fit the accelerator's memory; draw smaller (--size) or in bf16.") from None
                size = max(1, size // 2)
                continue
            yield from pictures
            start += len(batch)

    def settle(self, knobs: Knobs) -> Knobs:
        """The same knobs with the solver named."""
        return knobs if knobs.solver is not None else knobs.model_copy(update={"solver": self.stage.default_solver})

    def size(self, knobs: Knobs) -> tuple[int, int]:
        """Height and width in pixels."""
        sides = knobs.height or self.resolution, knobs.width or self.resolution
        if any(side % self.stage.multiple for side in sides):
            raise UserError(f"a side of {sides[1]}x{sides[0]} does not divide by {self.stage.multiple}; choose sides that do.")
        return sides

    @torch.no_grad()
    def read_prompts(self, prompts: Sequence[str], height: int, width: int) -> dict[str, Conditioning]:
        """Condition each distinct prompt once, alone."""
        framing = Framing(original=(height, width), target=(height, width))
        return {prompt: self.stage.condition([prompt], [framing]) for prompt in dict.fromkeys(prompts)}

    @torch.no_grad()
    def draw_batch(self, shots: Sequence[Shot], knobs: Knobs, known: dict[str, Conditioning], height: int, width: int) -> list[Image.Image]:
        """Solve from seeded noise to pictures."""
        generators = [seeded("picture", shot.seed) for shot in shots]
        positive = stack([known[shot.prompt] for shot in shots])
        both = self.told(positive, [known[knobs.negative]] * len(shots), knobs.guidance)
        solver = self.stage.solver(str(self.settle(knobs).solver), knobs.steps, height, width)
        x = gaussian(self.stage.latent_shape(height, width), generators) * float(solver.init_noise_sigma)
        for time in solver.timesteps:
            answer = self.guided(solver.scale_model_input(x, time), time, both, knobs.guidance)
            x = solver.step(answer, time, x, return_dict=False)[0]
        return [to_picture(pixels) for pixels in self.stage.decode(x)]

    def told(self, positive: Conditioning, negative: Sequence[Conditioning], guidance: float) -> Conditioning:
        """What the denoiser is told: the prompts alone, with the guidance scale, or below the negative prompts."""
        if self.stage.embeds_guidance:
            return {**positive, "guidance": torch.full((len(negative),), guidance)}
        return stack([*negative, positive]) if guidance != 1 else positive

    def guided(self, x_BCHW: Tensor, time: Tensor, conditioning: Conditioning, guidance: float) -> Tensor:
        """Ask with and without the prompt and go further the way that the prompt leads."""
        if guidance == 1 or self.stage.embeds_guidance:
            return self.stage.predict(x_BCHW, time.expand(len(x_BCHW)), conditioning).cpu()
        answer = self.stage.predict(torch.cat([x_BCHW, x_BCHW]), time.expand(2 * len(x_BCHW)), conditioning).cpu()
        without, given = answer.chunk(2)
        return without + guidance * (given - without)


def stack(rows: Sequence[Conditioning]) -> Conditioning:
    """Put conditionings one below the other."""
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


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
