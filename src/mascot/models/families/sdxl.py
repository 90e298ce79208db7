"""Stable Diffusion XL (Podell et al. 2023, arXiv 2307.01952).

Two CLIP text encoders condition a UNet in latent space, which also reads image sizes and crops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers import StableDiffusionXLInpaintPipeline, StableDiffusionXLPipeline
from torch import Tensor

from mascot.models.base_files.base_reading import DIFFUSION, BaseReading
from mascot.models.pipeline_files import DTYPES, PipelineLayout, Precision, fingerprint, weight_files
from mascot.models.pipeline_stage import LoadedFamily, check_clip_skip
from mascot.models.unet_stage import UNetStage
from mascot.protocols import Conditioning, Framing

NAME = "sdxl"
ENCODERS = ("text_encoder", "text_encoder_2")
PARTS = ("unet", "vae", *ENCODERS)
READINGS = (*DIFFUSION, "clip_skip")
LAYOUT = PipelineLayout(
    pipeline_class=StableDiffusionXLPipeline,
    denoiser="unet",
    clip_encoders=ENCODERS,
    options={"add_watermarker": False},
)


@dataclass(kw_only=True)
class StableDiffusionXLStage(UNetStage):
    """The only stage of an SDXL base (the refiner is a base of its own)."""

    def condition(self, prompts: Sequence[str], framings: Sequence[Framing]) -> Conditioning:
        """Return hidden states, the second encoder's pooled projection, and each framing's numbers.

        The hidden states are the last but one of both encoders, or earlier ones by clip skip,
        joined along the width. The six numbers are original height and width, top and left of the
        crop, target height and width, in pixels (Podell et al. 2023, section 2.2).
        """
        outputs = [self.read_clip(name, prompts) for name in ENCODERS]
        sizes = [[*framing.original, *framing.corner, *framing.target] for framing in framings]
        return {
            "encoder_hidden_states": torch.cat(
                [output.hidden_states[-2 - self.clip_skip] for output in outputs], dim=-1
            ),
            "text_embeds": outputs[-1].text_embeds,
            "time_ids": torch.tensor(sizes, dtype=torch.float32, device=self.device),
        }

    def predict(self, noisy_BCHW: Tensor, timestep_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Run the UNet once; the prediction is float32."""
        added = {name: conditioning[name].to(self.dtype_of(self.unet)) for name in ("text_embeds", "time_ids")}
        states_BND = conditioning["encoder_hidden_states"]
        return self.run_unet(noisy_BCHW, timestep_B, states_BND, added_cond_kwargs=added)

    def truncations(self, prompt: str) -> Mapping[str, tuple[int, int, str]]:
        """Return what each text encoder leaves out of a prompt."""
        return self.truncations_in(prompt, dict.fromkeys(ENCODERS))


def load(source: str, *, device: str, precision: Precision, reading: BaseReading) -> LoadedFamily:
    """Load a folder, a single-file checkpoint or a hub id.

    Raises:
        UserError: the weights are missing, incomplete or unreadable, or cannot be read so.
    """
    stage = StableDiffusionXLStage.open(LAYOUT, source, device=device, dtype=DTYPES[precision])
    stage.inpainting_pipeline = StableDiffusionXLInpaintPipeline
    stage.use_plain_attention()
    identity = stage.read_as(reading, fingerprint(weight_files(source, PARTS)))
    check_clip_skip(stage, stage.clip_skip, last=2)
    return LoadedFamily(name=NAME, identity=identity, stages=(stage,))
