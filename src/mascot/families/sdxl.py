"""Stable Diffusion XL (Podell et al. 2023, arXiv 2307.01952): two CLIP text encoders; the UNet is also told sizes and crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from mascot.families import Precision, fingerprint
from mascot.pipelines import DTYPES, Autoencoder, check_whole, open_pipeline, reload_part, weight_files
from mascot.protocols import Conditioning, Framing, Stage
from mascot.unets import UNetStage

NAME = "sdxl"
ENCODERS = ("text_encoder", "text_encoder_2")
PARTS = ("unet", "vae", *ENCODERS)
KINDS: Mapping[str, Any] = {"vae": AutoencoderKL, "text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}


@dataclass(kw_only=True)
class StableDiffusionXLStage(UNetStage):
    """The one stage (the refiner is a base of its own)."""

    tokenizers: Mapping[str, CLIPTokenizer]
    """Text encoder's name -> its tokenizer."""

    def condition(self, prompts: Sequence[str], framings: Sequence[Framing]) -> Conditioning:
        """Both encoders' last but one hidden states side by side, the second's pooled projection, and the six numbers of the framing.

        The six are original height and width, top and left of the crop, target height and width, in pixels (section 2.2).
        """
        answers = [self.read(name, prompts) for name in ENCODERS]
        return {
            "encoder_hidden_states": torch.cat([answer.hidden_states[-2] for answer in answers], dim=-1),
            "text_embeds": answers[-1].text_embeds,
            "time_ids": torch.tensor(
                [[*f.original, *f.corner, *f.target] for f in framings], dtype=torch.float32, device=self.device
            ),
        }  # fmt: skip

    def read(self, name: str, prompts: Sequence[str]) -> Any:
        """What one text encoder makes of prompts, padded to full length."""
        tokenizer = self.tokenizers[name]
        length = tokenizer.model_max_length
        ids = tokenizer(list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids
        return self.text_part(name)(ids.to(self.device), output_hidden_states=True)

    def predict(self, noisy_BCHW: Tensor, level_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Ask the UNet once; the answer is float32."""
        told = {"text_embeds": conditioning["text_embeds"].to(self.dtype), "time_ids": conditioning["time_ids"].to(self.dtype)}
        return self.ask(noisy_BCHW, level_B, conditioning["encoder_hidden_states"], added_cond_kwargs=told)

    def prompt_length(self, prompt: str) -> tuple[int, int]:
        """Tokens of a prompt with both ends, and how many are heard: of the tokenizer that cuts most."""
        lengths = [(len(t(prompt).input_ids), int(t.model_max_length)) for t in self.tokenizers.values()]
        return max(lengths, key=lambda pair: pair[0] - pair[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class StableDiffusionXL:
    """One loaded base of this family."""

    identity: str
    stages: tuple[Stage, ...]
    name: str = NAME


def load(source: str, *, device: str, precision: Precision) -> StableDiffusionXL:
    """Load a folder, a single-file checkpoint or a hub id.

    Raises:
        UserError: the weights are missing, incomplete or unreadable.
    """
    dtype = DTYPES[precision]
    pipeline = open_pipeline(StableDiffusionXLPipeline, source, add_watermarker=False)
    tokenizers = {"text_encoder": pipeline.tokenizer, "text_encoder_2": pipeline.tokenizer_2}
    parts: dict[str, nn.Module] = {name: getattr(pipeline, name) for name in KINDS}
    check_whole(source, [pipeline.unet, pipeline.vae], {name: parts[name] for name in ENCODERS}, tokenizers)
    unet = pipeline.unet.to(device).eval().requires_grad_(requires_grad=False)
    unet = unet if dtype == torch.float32 else unet.to(dtype)
    if device == "cpu":
        # The backward pass of torch's fused attention is slow on CPUs for the short sequences of small bases.
        unet.set_attn_processor(AttnProcessor())

    def load_part(name: str) -> nn.Module:
        return parts.pop(name, None) or reload_part(StableDiffusionXLPipeline, source, name, KINDS[name])

    stage = StableDiffusionXLStage(
        source=source,
        device=torch.device(device),
        dtype=dtype,
        unet=unet,
        tokenizers=tokenizers,
        scheduler=pipeline.scheduler,
        encoders=ENCODERS,
        pictures=Autoencoder(load=lambda: load_part("vae"), device=torch.device(device)),
        load_text=load_part,
    )
    return StableDiffusionXL(identity=fingerprint(weight_files(source, PARTS)), stages=(stage,))
