"""DeepFloyd IF (2023), the public form of Imagen (Saharia et al. 2022, arXiv 2205.11487): no autoencoder, a T5, and a cascade of stages.

The first stage draws 64 pixels from a prompt; the second, where the base has one, enlarges that picture to 256.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import IFPipeline, IFSuperResolutionPipeline
from torch import Generator, Tensor
from torch.nn import functional

from mascot.diffusion.noise import gaussian
from mascot.errors import UserError
from mascot.models.pipeline_files import DTYPES, PipelineLayout, Precision, fingerprint, weight_files
from mascot.models.pipeline_stage import LoadedFamily
from mascot.models.unet_stage import UNetStage
from mascot.protocols import Conditioning, Framing

NAME = "deepfloyd_if"


PARTS = ("unet", "text_encoder")


T5 = "text_encoder"


OPTIONS: Mapping[str, Any] = {
    "safety_checker": None,
    "requires_safety_checker": False,
    "feature_extractor": None,
    "watermarker": None,
}


FIRST = PipelineLayout(kind=IFPipeline, denoiser="unet", listeners=(T5,), autoencoder=False, options=OPTIONS)


SECOND = PipelineLayout(
    kind=IFSuperResolutionPipeline,
    denoiser="unet",
    autoencoder=False,
    schedulers=("scheduler", "image_noising_scheduler"),
    # Its T5 is the first stage's, so it is not read a second time (10 GB); people download this stage without it, too.
    options={**OPTIONS, "text_encoder": None, "tokenizer": None},
)


T5_LENGTH = 77
"""Tokens of a prompt that the T5 hears (the pipeline's own)."""


AUGMENTATION: Final = 0
"""How much noise is put on the small picture that the second stage sees: a level of its noising scheduler, whose variance there is 4e-5.

DreamBooth's supplement (Ruiz et al. 2023) cuts it from 1e-3 to 1e-5 for fine-tuning, so that a subject's details come through from the
small picture; this is the least that the scheduler knows. A level that did not learn would be asked with the base's habits alone, so the
stage draws at the same one. diffusers draws at 250 (variance 0.15) unless told otherwise.
"""


@dataclass(kw_only=True)
class FirstStage(UNetStage):
    """The stage that draws a small picture from a prompt; its T5 never learns."""

    @torch.no_grad()
    def condition(self, prompts: Sequence[str], framings: Sequence[Framing]) -> Conditioning:
        """The T5's states, padding left out of its attention."""
        del framings
        told = self.tokenizers[T5](
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=T5_LENGTH,
            add_special_tokens=True,
            return_tensors="pt",
        )
        mask = told.attention_mask.to(self.device)
        return {"encoder_hidden_states": self.text_part(T5)(told.input_ids.to(self.device), attention_mask=mask)[0]}

    def predict(self, noisy_BCHW: Tensor, timestep_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Ask the UNet once; of its six channels the first three are the noise, the rest a learned variance that is cut off."""
        return self.ask(noisy_BCHW, timestep_B, conditioning["encoder_hidden_states"])[:, : noisy_BCHW.shape[1]]

    def prompt_length(self, prompt: str) -> tuple[int, int]:
        """Tokens of a prompt with its end, and how many are heard."""
        return self.count_tokens(T5, prompt, T5_LENGTH)


@dataclass(kw_only=True)
class SecondStage(UNetStage):
    """The stage that draws a large picture from a prompt and a small picture; it hears prompts through the first stage's T5."""

    image_noising_scheduler: Any
    first: FirstStage

    @property
    def ratio(self) -> int:
        """Pixels of its picture to a pixel of the first stage's, along a side."""
        return self.resolution // self.first.resolution

    @property
    def multiple(self) -> int:
        """Sides divide by this, so that both stages have whole cells."""
        return math.lcm(super().multiple, self.ratio * self.first.multiple)

    def condition(self, prompts: Sequence[str], framings: Sequence[Framing]) -> Conditioning:
        """The T5's states, as the first stage hears them."""
        return self.first.condition(prompts, framings)

    def prompt_length(self, prompt: str) -> tuple[int, int]:
        """Tokens of a prompt with its end, and how many are heard."""
        return self.first.prompt_length(prompt)

    def release_encoders(self, *, text: bool) -> None:
        """Let the first stage's T5 leave memory on request: there is no other encoder."""
        self.first.release_encoders(text=text)

    def image_conditioning(self, x0_BCHW: Tensor, generators: Sequence[Generator]) -> Conditioning:
        """The picture as the first stage would have drawn it, enlarged to its own size again and lightly noised.

        The picture has the size that is to be drawn, pixels in -1..1. It is reduced by averaging blocks of pixels, so a small picture
        whose pixels were made blocks is seen as it was. Enlarging is diffusers' own: bilinear, corner to corner.
        """
        small = functional.avg_pool2d(x0_BCHW, self.ratio)
        large = functional.interpolate(small, x0_BCHW.shape[-2:], mode="bilinear", align_corners=True)
        timestep_B = torch.full((len(large),), AUGMENTATION, device=large.device)
        noise = gaussian(large.shape[1:], generators).to(large)
        return {"small": self.image_noising_scheduler.add_noise(large, noise, timestep_B), "small_level": timestep_B}

    def predict(self, noisy_BCHW: Tensor, timestep_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Ask the UNet once, with the small picture below the noisy one; the learned variance is cut off."""
        both = torch.cat([noisy_BCHW.to(self.device), conditioning["small"].to(self.device, noisy_BCHW.dtype)], dim=1)
        prediction = self.ask(
            both,
            timestep_B,
            conditioning["encoder_hidden_states"],
            class_labels=conditioning["small_level"].to(self.device),
        )
        return prediction[:, : noisy_BCHW.shape[1]]

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels and sides of the noise; the other half of the UNet's channels is the small picture."""
        channels, *sides = super().latent_shape(height, width)
        return channels // 2, sides[0], sides[1]


def load(source: str, *, device: str, precision: Precision, continuation: str | None = None) -> LoadedFamily:
    """Load a folder or a hub id; `continuation` is that of the second stage, where there is one.

    Raises:
        UserError: the weights are missing, incomplete or unreadable, or the stages do not belong together.
    """
    dtype = DTYPES[precision]
    first = FirstStage.open(FIRST, source, device=device, dtype=dtype)
    files = weight_files(source, PARTS)
    if continuation is None:
        return LoadedFamily(name=NAME, identity=fingerprint(files), stages=(first,))
    second = SecondStage.open(SECOND, continuation, device=device, dtype=dtype, first=first)
    check_fit(first, second)
    return LoadedFamily(name=NAME, identity=fingerprint([*files, *second_files(continuation)]), stages=(first, second))


def second_files(source: str) -> list[Path]:
    """The files that make a second stage what it is."""
    *weights, scheduler = weight_files(source, ("unet",))
    return [*weights, scheduler, scheduler.parents[1] / "image_noising_scheduler" / scheduler.name]


def check_fit(first: FirstStage, second: SecondStage) -> None:
    """Refuse two stages that were not made for each other.

    Raises:
        UserError: the second does not enlarge the first's pictures, or hears another text encoder.
    """
    one, two = first.unet.config, second.unet.config
    if second.ratio < 2 or second.resolution % first.resolution:
        why = f"it draws {second.resolution} px, not a multiple of {first.resolution}"
    elif two["in_channels"] != 2 * one["in_channels"]:
        why = f"it reads {two['in_channels']} channels, not twice {one['in_channels']}"
    elif two["encoder_hid_dim"] != one["encoder_hid_dim"]:
        why = f"it hears {two['encoder_hid_dim']} numbers a word, not {one['encoder_hid_dim']}"
    else:
        return
    raise UserError(f"{second.source} does not continue {first.source} ({why}); join the two stages of one cascade.")
