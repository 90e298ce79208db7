"""DeepFloyd IF (2023), the public form of Imagen (Saharia et al. 2022, arXiv 2205.11487).

A cascade in pixel space: no autoencoder, one T5, and UNet stages. The first stage generates 64
pixels from a prompt. The second, where the base has one, enlarges that image to 256.
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
READINGS = ()
PARTS = ("unet", "text_encoder")
T5 = "text_encoder"
OPTIONS: Mapping[str, object] = {
    "safety_checker": None,
    "requires_safety_checker": False,
    "feature_extractor": None,
    "watermarker": None,
}
FIRST = PipelineLayout(
    pipeline_class=IFPipeline, denoiser="unet", frozen_encoders=(T5,), has_autoencoder=False, options=OPTIONS
)
SECOND = PipelineLayout(
    pipeline_class=IFSuperResolutionPipeline,
    denoiser="unet",
    has_autoencoder=False,
    schedulers=("scheduler", "image_noising_scheduler"),
    # Its T5 is the first stage's, so it is not read a second time (10 GB). People also download
    # this stage without it.
    options={**OPTIONS, "text_encoder": None, "tokenizer": None},
)

T5_LENGTH = 77
"""Tokens of a prompt that the T5 reads (the pipeline's own)."""

AUGMENTATION: Final = 0
"""The timestep of the noise on the low-resolution image; its variance there is 4e-5.

This is the noise conditioning augmentation of cascades (Ho et al. 2021, arXiv 2106.15282).
DreamBooth's supplement (Ruiz et al. 2022, arXiv 2208.12242) cuts it from 1e-3 to 1e-5 for
fine-tuning, so that a subject's details survive the enlargement. This is the least that the
scheduler offers. The stage generates at the same timestep, because at another one it would not have
been trained. diffusers generates at 250 (variance 0.15) by default.
"""


@dataclass(kw_only=True)
class FirstStage(UNetStage):
    """The stage that generates a small image from a prompt; its T5 is never trained."""

    @torch.no_grad()
    def condition(self, prompts: Sequence[str], framings: Sequence[Framing]) -> Conditioning:
        """Return the T5's states, with padding masked in its attention; framings are not used."""
        del framings
        tokens = self.tokenizers[T5](
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=T5_LENGTH,
            add_special_tokens=True,
            return_tensors="pt",
        )
        mask = tokens.attention_mask.to(self.device)
        return {
            "encoder_hidden_states": self.text_encoder(T5)(tokens.input_ids.to(self.device), attention_mask=mask)[0]
        }

    def predict(self, noisy_BCHW: Tensor, timestep_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Run the UNet once; its learned variance, three of six channels, is dropped."""
        return self.run_unet(noisy_BCHW, timestep_B, conditioning["encoder_hidden_states"])[:, : noisy_BCHW.shape[1]]

    def truncations(self, prompt: str) -> Mapping[str, tuple[int, int, str]]:
        """Return what the T5 leaves out of a prompt."""
        return self.truncations_in(prompt, {T5: T5_LENGTH})


@dataclass(kw_only=True)
class SecondStage(UNetStage):
    """The super-resolution stage: generates a large image from a prompt and a small image.

    It uses the first stage's T5.
    """

    image_noising_scheduler: Any
    first: FirstStage

    @property
    def ratio(self) -> int:
        """Pixels of its image per pixel of the first stage's, along a side."""
        return self.resolution // self.first.resolution

    @property
    def multiple(self) -> int:
        """Sides must divide by this, in pixels, so that both stages have whole cells."""
        return math.lcm(super().multiple, self.ratio * self.first.multiple)

    def condition(self, prompts: Sequence[str], framings: Sequence[Framing]) -> Conditioning:
        """Return the T5's states, from the first stage."""
        return self.first.condition(prompts, framings)

    def truncations(self, prompt: str) -> Mapping[str, tuple[int, int, str]]:
        """Return what the first stage's T5 leaves out of a prompt."""
        return self.first.truncations(prompt)

    def release_encoders(self, *, text: bool) -> None:
        """Drop the first stage's T5 with `text`: there is no other encoder."""
        self.first.release_encoders(text=text)

    def image_conditioning(self, x0_BCHW: Tensor, generators: Sequence[Generator]) -> Conditioning:
        """Return the first stage's view of an image, enlarged and lightly noised.

        The image has the size that is generated, with pixels in -1..1. Averaging blocks of pixels
        reduces it, so a small image that was enlarged by repeating pixels comes back exactly.
        Enlarging is diffusers' own: bilinear, with aligned corners.
        """
        small = functional.avg_pool2d(x0_BCHW, self.ratio)
        large = functional.interpolate(small, x0_BCHW.shape[-2:], mode="bilinear", align_corners=True)
        timestep_B = torch.full((len(large),), AUGMENTATION, device=large.device)
        noise = gaussian(large.shape[1:], generators).to(large)
        noisy = self.image_noising_scheduler.add_noise(large, noise, timestep_B)
        return {"low_resolution": noisy, "low_resolution_timestep": timestep_B}

    def predict(self, noisy_BCHW: Tensor, timestep_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Run the UNet once on noisy and low-resolution image, stacked by channel.

        The learned variance is dropped.
        """
        low = conditioning["low_resolution"].to(self.device, noisy_BCHW.dtype)
        prediction = self.run_unet(
            torch.cat([noisy_BCHW.to(self.device), low], dim=1),
            timestep_B,
            conditioning["encoder_hidden_states"],
            class_labels=conditioning["low_resolution_timestep"].to(self.device),
        )
        return prediction[:, : noisy_BCHW.shape[1]]

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape C, H, W of the noise.

        The other half of the UNet's channels is the low-resolution image.
        """
        channels, *sides = super().latent_shape(height, width)
        return channels // 2, sides[0], sides[1]


def load(source: str, *, device: str, precision: Precision, continuation: str | None = None) -> LoadedFamily:
    """Load a folder or a hub id; `continuation` is the source of the second stage, if there is one.

    Raises:
        UserError: the weights are missing, incomplete or unreadable, or the stages do not belong
            together.
    """
    dtype = DTYPES[precision]
    first = FirstStage.open(FIRST, source, device=device, dtype=dtype)
    files = weight_files(source, PARTS)
    if continuation is None:
        return LoadedFamily(name=NAME, identity=fingerprint(files), stages=(first,))
    second = SecondStage.open(SECOND, continuation, device=device, dtype=dtype, first=first)
    check_cascade(first, second)
    files += second_stage_files(continuation)
    return LoadedFamily(name=NAME, identity=fingerprint(files), stages=(first, second))


def second_stage_files(source: str) -> list[Path]:
    """List the files that define a second stage: its weights and both schedulers' settings."""
    *weights, scheduler = weight_files(source, ("unet",))
    return [*weights, scheduler, scheduler.parents[1] / "image_noising_scheduler" / scheduler.name]


def check_cascade(first: FirstStage, second: SecondStage) -> None:
    """Refuse two stages that were not made for each other.

    Raises:
        UserError: the second stage does not enlarge the first's images, or reads another text
            encoder.
    """
    one, two = first.unet.config, second.unet.config
    if second.ratio < 2 or second.resolution % first.resolution:
        why = f"it generates {second.resolution} px, not a multiple of {first.resolution}"
    elif two["in_channels"] != 2 * one["in_channels"]:
        why = f"it reads {two['in_channels']} channels, not twice {one['in_channels']}"
    elif two["encoder_hid_dim"] != one["encoder_hid_dim"]:
        why = f"it reads {two['encoder_hid_dim']} numbers a token, not {one['encoder_hid_dim']}"
    else:
        return
    raise UserError(f"{second.source} does not continue {first.source} ({why}); join the two stages of one cascade.")
