"""TODO diffusion.sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mascot.diffusion.noise import gaussian
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.protocols import Conditioning, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTask:
    """What one stage draws: how large, and what each prompt tells it."""

    stage: Stage
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    known: Mapping[str, Conditioning]


def denoise(
    scene: StageTask, requests: Sequence[ImageRequest], knobs: Knobs, generators: Sequence[torch.Generator], before_BCHW: Tensor | None
) -> Tensor:
    """One stage's pictures, as its denoiser sees them; `before_BCHW` are those of the stage before, where there is one."""
    stage = scene.stage
    shape = stage.latent_shape(scene.height, scene.width)
    solver = stage.solver(str(knobs.solver), knobs.steps, scene.height, scene.width)
    x = gaussian(shape, generators) * float(solver.init_noise_sigma)
    # Every pixel becomes a block, which the stage's own reduction turns back into that pixel: `image_conditioning` is told the size by the picture alone.
    seen = {} if before_BCHW is None else stage.image_conditioning(functional.interpolate(before_BCHW, shape[1:], mode="nearest"), generators)
    positive = {**stack([scene.known[request.prompt] for request in requests]), **seen}
    negative = {**stack([scene.known[knobs.negative]] * len(requests)), **seen}
    both = cfg_conditioning(stage, positive, negative, knobs.guidance)
    for time in solver.timesteps:
        prediction = guided_prediction(stage, solver.scale_model_input(x, time), time, both, knobs.guidance)
        x = solver.step(prediction, time, x, return_dict=False)[0]
    return x


def cfg_conditioning(stage: Stage, positive: Conditioning, negative: Conditioning, guidance: float) -> Conditioning:
    """What the denoiser is told: the prompts alone, with the guidance scale, or below the negative prompts."""
    if stage.embeds_guidance:
        return {**positive, "guidance": torch.full((len(next(iter(positive.values()))),), guidance)}
    return stack([negative, positive]) if guidance != 1 else positive


def guided_prediction(stage: Stage, x_BCHW: Tensor, time: Tensor, conditioning: Conditioning, guidance: float) -> Tensor:
    """Ask with and without the prompt and go further the way that the prompt leads."""
    if guidance == 1 or stage.embeds_guidance:
        return stage.predict(x_BCHW, time.expand(len(x_BCHW)), conditioning).cpu()
    prediction = stage.predict(torch.cat([x_BCHW, x_BCHW]), time.expand(2 * len(x_BCHW)), conditioning).cpu()
    without, given = prediction.chunk(2)
    return without + guidance * (given - without)


def stack(rows: Sequence[Conditioning]) -> Conditioning:
    """Put conditionings one below the other."""
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
