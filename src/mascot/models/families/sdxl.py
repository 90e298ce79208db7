"""Stable Diffusion XL (Podell et al. 2023, arXiv 2307.01952).

Two CLIP text encoders condition a UNet in latent space, which also reads image sizes and crops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import StableDiffusionXLInpaintPipeline, StableDiffusionXLPipeline
from torch import Tensor

from mascot.diffusion.prompt_chunks import Chunk, join_states
from mascot.models.base_files.base_reading import DIFFUSION, BaseReading
from mascot.models.pipeline_files import DTYPES, PipelineLayout, Precision, fingerprint, weight_files
from mascot.models.pipeline_stage import LoadedFamily, check_clip_skip
from mascot.models.unet_stage import UNetStage
from mascot.protocols import Conditioning, Framing

NAME = "sdxl"
ENCODERS = ("text_encoder", "text_encoder_2")
CHUNKED = ENCODERS
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
        return self.join([self.states(output) for output in outputs], outputs[-1].text_embeds, framings)

    def states(self, output: Any) -> Tensor:
        """Return the states in a text encoder's output that the UNet reads. Shape B x N x D."""
        return output.hidden_states[-2 - self.clip_skip]

    def join(self, states: Sequence[Tensor], pooled_BD: Tensor, framings: Sequence[Framing]) -> Conditioning:
        """Join both encoders' states along the width, and add the pooled projection and sizes."""
        sizes = [[*framing.original, *framing.corner, *framing.target] for framing in framings]
        return {
            "encoder_hidden_states": torch.cat([*states], dim=-1),
            "text_embeds": pooled_BD,
            "time_ids": torch.tensor(sizes, dtype=torch.float32, device=self.device),
        }

    @property
    def chunk_lengths(self) -> Mapping[str, int]:
        """The most tokens of a chunk, by text encoder."""
        return {name: self.chunk_length(name) for name in CHUNKED}

    def condition_chunks(self, text: str, chunks: Mapping[str, Sequence[Chunk]], framing: Framing) -> Conditioning:
        """Return the weighted states of all chunks, and the first chunk's pooled projection."""
        del text
        outputs = {name: self.read_chunks(name, chunks[name]) for name in ENCODERS}
        states = [join_states([self.states(one) for one in outputs[name]], chunks[name]) for name in ENCODERS]
        return self.join(states, outputs[ENCODERS[-1]][0].text_embeds, [framing])

    def predict(self, noisy_BCHW: Tensor, timestep_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Run the UNet once; the prediction is float32."""
        added = {name: conditioning[name].to(self.dtype_of(self.unet)) for name in ("text_embeds", "time_ids")}
        states_BND = conditioning["encoder_hidden_states"]
        return self.run_unet(noisy_BCHW, timestep_B, states_BND, image=conditioning, added_cond_kwargs=added)

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
