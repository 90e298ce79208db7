"""DeepFloyd IF's first stage (2023), the public form of Imagen (Saharia et al. 2022, arXiv 2205.11487): 64 pixels, no autoencoder, a T5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import IFPipeline
from torch import Tensor, nn
from transformers import T5EncoderModel

from mascot.families import Precision, fingerprint
from mascot.pipelines import DTYPES, Pixels, check_whole, open_pipeline, reload_part, weight_files
from mascot.protocols import Conditioning, Framing, Stage
from mascot.unets import UNetStage

NAME = "deepfloyd_if"
PARTS = ("unet", "text_encoder")
OPTIONS: Mapping[str, Any] = {"safety_checker": None, "requires_safety_checker": False, "feature_extractor": None, "watermarker": None}
T5_LENGTH = 77
"""Tokens of a prompt that the T5 hears (the pipeline's own)."""


@dataclass(kw_only=True)
class DeepFloydStage(UNetStage):
    """The stage that draws 64 pixels; its T5 never learns."""

    tokenizer: Any

    @torch.no_grad()
    def condition(self, prompts: Sequence[str], framings: Sequence[Framing]) -> Conditioning:
        """The T5's states, padding left out of its attention."""
        del framings
        told = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=T5_LENGTH, add_special_tokens=True, return_tensors="pt"
        )
        mask = told.attention_mask.to(self.device)
        return {"encoder_hidden_states": self.text_part("text_encoder")(told.input_ids.to(self.device), attention_mask=mask)[0]}

    def predict(self, noisy_BCHW: Tensor, level_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Ask the UNet once; of its six channels the first three are the noise, the rest a learned variance that is cut off."""
        return self.ask(noisy_BCHW, level_B, conditioning["encoder_hidden_states"])[:, : noisy_BCHW.shape[1]]

    def prompt_length(self, prompt: str) -> tuple[int, int]:
        """Tokens of a prompt with its end, and how many are heard."""
        return len(self.tokenizer(prompt).input_ids), T5_LENGTH


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepFloyd:
    """One loaded base of this family."""

    identity: str
    stages: tuple[Stage, ...]
    name: str = NAME


def load(source: str, *, device: str, precision: Precision) -> DeepFloyd:
    """Load a folder or a hub id.

    Raises:
        UserError: the weights are missing, incomplete or unreadable.
    """
    dtype = DTYPES[precision]
    pipeline = open_pipeline(IFPipeline, source, **OPTIONS)
    parts: dict[str, nn.Module] = {"text_encoder": pipeline.text_encoder}
    check_whole(source, [pipeline.unet], parts, {})

    def load_text(name: str) -> nn.Module:
        return parts.pop(name, None) or reload_part(IFPipeline, source, name, T5EncoderModel)

    stage = DeepFloydStage(
        source=source,
        device=torch.device(device),
        dtype=dtype,
        pictures=Pixels(),
        load_text=load_text,
        unet=pipeline.unet.to(device, dtype).eval().requires_grad_(requires_grad=False),
        tokenizer=pipeline.tokenizer,
        scheduler=pipeline.scheduler,
        encoders=(),
    )
    return DeepFloyd(identity=fingerprint(weight_files(source, PARTS)), stages=(stage,))
