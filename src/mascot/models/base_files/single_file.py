"""Stable Diffusion 1, 2 and XL from a single file in the original layout; no hub is needed.

diffusers' own functions rename the tensors. The settings come from the file's shapes, and the
tokenizers from the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from mascot.errors import UserError
from mascot.models.base_files.architectures import (
    autoencoder_settings,
    denoiser_settings,
    has_two_encoders,
    text_settings,
)
from mascot.models.base_files.base_reading import BaseReading, Prediction
from mascot.models.base_files.clip_vocabulary import END, clip_tokenizer
from mascot.models.base_files.file_contents import (
    AUTOENCODER,
    CLIP,
    FIRST_OF_TWO,
    OPEN_CLIP,
    SECOND_OF_TWO,
    TEXT_PREFIX,
    UNET,
    FileContents,
)
from mascot.models.base_files.measured_prediction import measured_prediction
from mascot.storage import tensor_files

SCHEDULE: Final[Mapping[str, Any]] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
"""The noise schedule of every Stable Diffusion before its third version."""

SIDES: Final[Mapping[str, int]] = {"one": 64, "velocity": 96, "two": 128}
"""Side of the latents that a base was trained on: Stable Diffusion 1 and 2, 2 with velocity, XL."""


def text_prefixes(contents: FileContents) -> dict[str, str]:
    """Return the text encoders by folder name, and the prefix of their tensors in the file."""
    if has_two_encoders(contents.shapes):
        return {"text_encoder": FIRST_OF_TWO, "text_encoder_2": SECOND_OF_TWO}
    open_clip = any(name.startswith(OPEN_CLIP) for name in contents.shapes)
    return {"text_encoder": OPEN_CLIP if open_clip else CLIP}


def read_module(contents: FileContents, part: str) -> nn.Module:
    """Read one part of a single file, in float32 on the CPU.

    Raises:
        UserError: the file lacks some of its tensors.
    """
    if part == "unet":
        settings = denoiser_settings(contents.shapes, latents_side(contents))
        with init_empty_weights(include_buffers=False):
            module: nn.Module = UNet2DConditionModel.from_config(settings)  # pyright: ignore[reportAssignmentType]
        tensors = convert_ldm_unet_checkpoint(read_tensors(contents, UNET), settings)
    elif part == "vae":
        settings = autoencoder_settings(contents.shapes)
        with init_empty_weights(include_buffers=False):
            module = AutoencoderKL.from_config(settings)  # pyright: ignore[reportAssignmentType]
        tensors = convert_ldm_vae_checkpoint(read_tensors(contents, AUTOENCODER), settings)
    else:
        module, tensors = read_text_encoder(contents, text_prefixes(contents)[part], part)
    needed = module.state_dict().keys()
    missing = sorted(needed - tensors.keys())
    if missing:
        raise UserError(f"the base {contents.path} cannot be loaded ({missing[0]} is missing); download it again.")
    module.load_state_dict({name: tensors[name] for name in needed}, assign=True)
    return module.eval()


def read_text_encoder(contents: FileContents, prefix: str, part: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """Make a CLIP text encoder without weights; returns it and its tensors by their new names."""
    kind = CLIPTextModelWithProjection if part == "text_encoder_2" else CLIPTextModel
    with init_empty_weights(include_buffers=False):
        module: Any = kind(CLIPTextConfig(**text_settings(contents.shapes, prefix)))  # pyright: ignore[reportArgumentType]
    tensors = read_tensors(contents, prefix)
    if prefix in {OPEN_CLIP, SECOND_OF_TWO}:
        tensors = convert_open_clip_checkpoint(module, tensors, prefix=prefix)
    else:
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    inside = TEXT_PREFIX if hasattr(module, "text_model") else ""
    # Files of some tools lack the prefix, which only some versions of transformers expect.
    renamed = {
        name if name.startswith("text_projection") else inside + name.removeprefix(TEXT_PREFIX): tensor
        for name, tensor in tensors.items()
    }
    return module, renamed


def read_tensors(contents: FileContents, prefix: str) -> dict[str, Tensor]:
    """Read the tensors whose names start with a prefix, in float32."""
    tensors, _ = tensor_files.read_tensors(contents.path, prefix=prefix)
    return {name: tensors[name].float() for name in contents.shapes if name.startswith(prefix)}


def latents_side(contents: FileContents) -> int:
    """Return the side of the latents that the base was trained on."""
    if has_two_encoders(contents.shapes):
        return SIDES["two"]
    second = any(name.startswith(OPEN_CLIP) for name in contents.shapes)
    return SIDES["velocity" if second and contents.prediction == "v" else "one"]


def find_prediction(contents: FileContents, parts: Mapping[str, Any]) -> Prediction:
    """Find what the denoiser predicts: what the file says, or what is measured.

    It is measured for Stable Diffusion 2 alone, which was published in both kinds. Where other
    files say nothing, they predict noise.
    """
    config = parts["unet"].config
    if contents.prediction != "auto" or OPEN_CLIP not in text_prefixes(contents).values():
        return contents.prediction
    if config["in_channels"] != config["out_channels"]:
        return "epsilon"
    tokens = parts["tokenizer"]("", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        states = parts["text_encoder"](tokens).last_hidden_state
    prediction = measured_prediction(parts["unet"], states, DDIMScheduler(**SCHEDULE).alphas_cumprod)
    if prediction == "v":
        parts["unet"].register_to_config(sample_size=SIDES["velocity"])
    return prediction


def make_scheduler(contents: FileContents, prediction: Prediction) -> Any:
    """Make the scheduler, whose settings say what the denoiser predicts."""
    reading = BaseReading(prediction=prediction, zero_terminal_snr=contents.zero_terminal_snr)
    if has_two_encoders(contents.shapes):
        return reading.adjusted(EulerDiscreteScheduler(**SCHEDULE, timestep_spacing="leading"))
    return reading.adjusted(DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False))


def read_single_file(pipeline_class: Any, contents: FileContents, options: Mapping[str, object]) -> Any:
    """Read a whole pipeline from a single file, in float32 on the CPU.

    Raises:
        UserError: the file lacks some tensors.
    """
    prefixes = text_prefixes(contents)
    parts: dict[str, Any] = {part: read_module(contents, part) for part in ("unet", "vae", *prefixes)}
    for part, prefix in prefixes.items():
        rows = int(parts[part].config.vocab_size)
        padding = "!" if prefix in {OPEN_CLIP, SECOND_OF_TWO} else END
        parts[part.replace("text_encoder", "tokenizer")] = clip_tokenizer(rows, padding=padding)
    scheduler = make_scheduler(contents, find_prediction(contents, parts))
    return pipeline_class(**parts, scheduler=scheduler, **options)
