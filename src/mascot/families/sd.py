"""Stable Diffusion 1.x and 2.x, and the embedded starter: one CLIP text encoder, a UNet in latent space, noise or velocity answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from mascot.families import Precision, fingerprint
from mascot.pipelines import DTYPES, Autoencoder, check_whole, open_pipeline, reload_part, weight_files
from mascot.protocols import Conditioning, Framing, Stage
from mascot.unets import UNetStage

NAME = "sd"
PARTS = ("unet", "vae", "text_encoder")
OPTIONS: Mapping[str, Any] = {"safety_checker": None, "requires_safety_checker": False}


@dataclass(kw_only=True)
class StableDiffusionStage(UNetStage):
    """The one stage."""

    tokenizer: CLIPTokenizer

    def condition(self, prompts: Sequence[str], framings: Sequence[Framing]) -> Conditioning:
        """The text encoder's last hidden states, padded to full length; framings are not told to this family."""
        del framings
        length = self.tokenizer.model_max_length
        ids = self.tokenizer(list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids
        return {"encoder_hidden_states": self.text_part("text_encoder")(ids.to(self.device)).last_hidden_state}

    def predict(self, noisy_BCHW: Tensor, level_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Ask the UNet once; the answer is float32."""
        return self.ask(noisy_BCHW, level_B, conditioning["encoder_hidden_states"])

    def prompt_length(self, prompt: str) -> tuple[int, int]:
        """Tokens of a prompt with both ends, and how many are heard."""
        return len(self.tokenizer(prompt).input_ids), int(self.tokenizer.model_max_length)


@dataclass(frozen=True, slots=True, kw_only=True)
class StableDiffusion:
    """One loaded base of this family."""

    identity: str
    stages: tuple[Stage, ...]
    name: str = NAME


def load(source: str, *, device: str, precision: Precision) -> StableDiffusion:
    """Load a folder, a single-file checkpoint or a hub id.

    Raises:
        UserError: the weights are missing, incomplete or unreadable.
    """
    dtype = DTYPES[precision]
    dropped = {} if Path(source).is_file() else {"feature_extractor": None, "image_encoder": None}
    pipeline = open_pipeline(StableDiffusionPipeline, source, **OPTIONS, **dropped)
    encoders, tokenizers = {"text_encoder": pipeline.text_encoder}, {"text_encoder": pipeline.tokenizer}
    check_whole(source, [pipeline.unet, pipeline.vae], encoders, tokenizers)
    parts: dict[str, nn.Module] = {"vae": pipeline.vae, "text_encoder": pipeline.text_encoder}
    kinds: Mapping[str, Any] = {"vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    unet = pipeline.unet.to(device).eval().requires_grad_(requires_grad=False)
    unet = unet if dtype == torch.float32 else unet.to(dtype)
    if device == "cpu":
        # The backward pass of torch's fused attention is slow on CPUs for the short sequences of small bases.
        unet.set_attn_processor(AttnProcessor())
    single = {"safety_checker": None} if Path(source).is_file() else {}

    def load_part(name: str) -> nn.Module:
        return parts.pop(name, None) or reload_part(StableDiffusionPipeline, source, name, kinds[name], **single)

    stage = StableDiffusionStage(
        source=source,
        device=torch.device(device),
        dtype=dtype,
        unet=unet,
        tokenizer=pipeline.tokenizer,
        scheduler=pipeline.scheduler,
        encoders=("text_encoder",),
        pictures=Autoencoder(load=lambda: load_part("vae"), device=torch.device(device)),
        load_text=load_part,
    )
    return StableDiffusion(identity=fingerprint(weight_files(source, PARTS)), stages=(stage,))
