"""What a single .safetensors file holds, told by the names and shapes in its header alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mascot.errors import UserError
from mascot.models.base_files.base_reading import Prediction
from mascot.storage.tensor_files import read_header
from mascot.storage.untrusted_files import UnreadableFile

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a tensor -> its shape."""

UNET = "model.diffusion_model."
AUTOENCODER = "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
FIRST_OF_TWO, SECOND_OF_TWO = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
ONLY_SECOND = "conditioner.embedders.0.model."
TEXT_PREFIX = "text_model."

OTHER_FILES: Final[Mapping[str, str]] = {
    r"lora_(up|down|A|B|unet|te\d?)\b|lora_(unet|te\d?)_|_lora\.(up|down)\.": "a LoRA",
    r"\.hada_w|\.lokr_w|\.oft_(blocks|diag)": "an adapter like a LoRA",
    r"^(control_model\.|controlnet_)|input_hint_block|\bzero_convs\.": "a ControlNet",
    r"^(image_proj|ip_adapter)\.": "an IP-Adapter",
    r"motion_modules\.": "a motion module",
    r"^vision_model\.": "an image encoder",
    rf"^{re.escape(ONLY_SECOND)}": "a refiner, which only improves the images of another base",
    r"^edm_mean$": "a base with an EDM noise schedule, which mascot does not train",
}
"""Pattern of a tensor's name -> what a file is that holds such a tensor; the first match counts."""

EMBEDDING_NAMES: Final = frozenset({"emb_params", "clip_l", "clip_g", "clip_h", "string_to_param"})
"""Names of the tensors of an embedding file (textual inversion)."""

PARTS: Final[Mapping[str, str]] = {
    rf"^({re.escape(UNET)})?(input_blocks|output_blocks|middle_block)\.|^(unet\.)?(down|up)_blocks\.\d": "a UNet",
    rf"^({re.escape(UNET)}|transformer\.)?(joint_blocks|double_blocks|single_blocks|transformer_blocks|"
    r"single_transformer_blocks)\.": "a transformer",
    r"^(first_stage_model\.|vae\.)?(encoder|decoder)\.(down|up|mid|conv_in|down_blocks|up_blocks)\b": "an autoencoder",
    r"^(cond_stage_model|conditioner|text_encoders?)\.|^(text_model\.)?encoder\.layers\.|^transformer\.resblocks\.|"
    r"^encoder\.block\.\d": "a text encoder",
}
"""Pattern of a tensor's name -> the part of a base that it belongs to."""

PIPELINES: Final[Mapping[str, str]] = {
    SECOND_OF_TWO: "StableDiffusionXLPipeline",
    f"{UNET}joint_blocks.": "StableDiffusion3Pipeline",
    f"{UNET}double_blocks.": "FluxPipeline",
    "double_blocks.": "FluxPipeline",
    "cond_stage_model.": "StableDiffusionPipeline",
}
"""Prefix of a tensor's name in a whole checkpoint -> its pipeline; the first match counts."""

REMEDY = "give a whole checkpoint, a folder in the diffusers layout or a hub id"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileContents:
    """A whole checkpoint: which pipeline it is, and what its header says."""

    path: Path
    pipeline: str
    """The pipeline's class in diffusers."""
    shapes: Shapes
    metadata: Mapping[str, str]

    @property
    def comes_with_settings(self) -> bool:
        """Whether the settings of its parts follow from its shapes, so that no hub is needed."""
        return f"{UNET}input_blocks.0.0.weight" in self.shapes

    @property
    def prediction(self) -> Prediction:
        """What the denoiser predicts: by `v_pred` or the metadata; `auto` if nothing says it."""
        said = self.metadata.get("modelspec.prediction_type", "").lower()
        if "v_pred" in self.shapes or said in {"v", "v_prediction"}:
            return "v"
        return "epsilon" if said in {"epsilon", "eps"} else "auto"

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether the noise schedule ends in pure noise: the key `ztsnr` says so."""
        return "ztsnr" in self.shapes


def read_contents(path: Path) -> FileContents:
    """Read the header of a single file, and tell what base it holds.

    Raises:
        UserError: the file cannot be read, or holds something else: a LoRA, one part of a base, a
            refiner.
    """
    try:
        header = read_header(path)
    except UnreadableFile as error:
        raise UserError(
            f"the base {path} cannot be loaded (it is no complete .safetensors file); download it again."
        ) from error
    shapes = {name: tuple(entry.shape) for name, entry in header.entries.items()}
    check_whole(path, shapes)
    pipeline = next(kind for prefix, kind in PIPELINES.items() if any(name.startswith(prefix) for name in shapes))
    contents = FileContents(path=path, pipeline=pipeline, shapes=shapes, metadata=header.metadata)
    if contents.comes_with_settings:
        kernel, last = shapes[f"{UNET}input_blocks.0.0.weight"], shapes.get(f"{UNET}out.2.weight", (4,))
        check_channels(str(path), kernel[1] if len(kernel) == 4 else 0, last[0])
    return contents


def check_kind(path: Path, shapes: Shapes) -> None:
    """Refuse a file that is no base, by what it is.

    Raises:
        UserError: it is something else.
    """
    for pattern, what in OTHER_FILES.items():
        if any(re.search(pattern, name) for name in shapes):
            raise UserError(f"the base {path} cannot be loaded (it is {what}); {REMEDY}.")
    if shapes and set(shapes) <= EMBEDDING_NAMES:
        raise UserError(f"the base {path} cannot be loaded (it is an embedding of a token); {REMEDY}.")


def check_whole(path: Path, shapes: Shapes) -> None:
    """Refuse a file that is no whole base, by what it is.

    Raises:
        UserError: it is something else, or lacks a part.
    """
    check_kind(path, shapes)
    held = [part for pattern, part in PARTS.items() if any(re.search(pattern, name) for name in shapes)]
    lacking = [part for part in ("an autoencoder", "a text encoder") if part not in held]
    if not held:
        raise UserError(f"the base {path} cannot be loaded (it holds no model that mascot knows); {REMEDY}.")
    if lacking or len(held) < 3 or not any(name.startswith(tuple(PIPELINES)) for name in shapes):
        less = f" and not {' or '.join(lacking)}" if lacking else ""
        raise UserError(f"the base {path} cannot be loaded (it holds only {' and '.join(held)}{less}); {REMEDY}.")


CHANNELS: Final[Mapping[int, str]] = {
    5: "a depth map beside the latents (depth to image)",
    7: "a low-resolution image beside the latents (an upscaler)",
    8: "an image to edit beside the latents (InstructPix2Pix)",
}
"""Channels that a UNet reads -> what it reads; 4 are latents, 9 are latents with a mask."""


def check_channels(base: str, channels: int, latents: int) -> None:
    """Refuse a UNet that needs an input beside latents, a mask and the latents outside it.

    Args:
        base: The base, for the message.
        channels: Channels that its UNet reads.
        latents: Channels of its latents, usually 4.

    Raises:
        UserError: it reads neither latents alone nor latents, mask and latents.
    """
    if channels not in {latents, 2 * latents + 1}:
        what = CHANNELS.get(channels, f"{channels} channels")
        raise UserError(
            f"the base {base} cannot be personalized (its UNet reads {what}); "
            "give a text-to-image base, which reads 4 channels, or an inpainting base, which reads 9."
        )
