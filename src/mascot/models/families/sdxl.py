"""Stable Diffusion XL (Podell et al. 2023, arXiv 2307.01952): two CLIP text encoders; the UNet is also told sizes and crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from mascot.models.pipeline_files import DTYPES, PipelineLayout, Precision, fingerprint, weight_files
from mascot.models.pipeline_stage import LoadedFamily
from mascot.models.unet_stage import UNetStage
from mascot.protocols import Conditioning, Framing

NAME = "sdxl"


ENCODERS = ("text_encoder", "text_encoder_2")


PARTS = ("unet", "vae", *ENCODERS)


LAYOUT = PipelineLayout(
    kind=StableDiffusionXLPipeline, denoiser="unet", clips=ENCODERS, options={"add_watermarker": False}
)


@dataclass(kw_only=True)
class StableDiffusionXLStage(UNetStage):
    """The one stage (the refiner is a base of its own)."""

    def condition(self, prompts: Sequence[str], framings: Sequence[Framing]) -> Conditioning:
        """Both encoders' last but one hidden states side by side, the second's pooled projection, and the six numbers of the framing.

        The six are original height and width, top and left of the crop, target height and width, in pixels (section 2.2).
        """
        answers = [self.read_clip(name, prompts) for name in ENCODERS]
        return {
            "encoder_hidden_states": torch.cat([prediction.hidden_states[-2] for prediction in answers], dim=-1),
            "text_embeds": answers[-1].text_embeds,
            "time_ids": torch.tensor(
                [[*f.original, *f.corner, *f.target] for f in framings], dtype=torch.float32, device=self.device
            ),
        }  # fmt: skip

    def predict(self, noisy_BCHW: Tensor, timestep_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Ask the UNet once; the answer is float32."""
        told = {name: conditioning[name].to(self.dtype_of(self.unet)) for name in ("text_embeds", "time_ids")}
        return self.ask(noisy_BCHW, timestep_B, conditioning["encoder_hidden_states"], added_cond_kwargs=told)

    def prompt_length(self, prompt: str) -> tuple[int, int]:
        """Tokens of a prompt with both ends, and how many are heard: of the tokenizer that cuts most."""
        lengths = [self.count_tokens(name, prompt) for name in ENCODERS]
        return max(lengths, key=lambda pair: pair[0] - pair[1])


def load(source: str, *, device: str, precision: Precision) -> LoadedFamily:
    """Load a folder, a single-file checkpoint or a hub id.

    Raises:
        UserError: the weights are missing, incomplete or unreadable.
    """
    stage = StableDiffusionXLStage.open(LAYOUT, source, device=device, dtype=DTYPES[precision])
    stage.attend_plainly()
    return LoadedFamily(name=NAME, identity=fingerprint(weight_files(source, PARTS)), stages=(stage,))
