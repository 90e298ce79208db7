"""Image preprocessing of an encoder: resize, center crop and normalization, as its folder says.

Shape suffixes: B batch, C channel, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mascot.errors import UserError, raise_unrelated
from mascot.storage.model_hub import hub_file, why_unavailable
from mascot.storage.untrusted_files import UnreadableFile, read_json_object

DINO_RATIO = 256 / 224
"""Shorter side over crop, for identity encoders whose configuration names no crop.

DINO was evaluated this way (Caron et al. 2021, arXiv 2104.14294).
"""

_FILTERS: Mapping[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """Converts an image to an encoder's input: RGB, resize, center crop, normalization."""

    resize: int
    """The shorter side in pixels before the crop; images keep their proportions.

    It holds whatever shape the configuration's size has.
    """
    crop: int
    """Side of the crop in pixels."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: Literal["bilinear", "bicubic"] = "bicubic"
    conventional: bool = False
    """Whether resize and filter are DINO's convention, as the configuration names no crop."""

    def prepare(self, image: Image.Image) -> Tensor:
        """Convert an image of any size to normalized pixels. Shape C x crop x crop, float32.

        Transparency becomes white.
        """
        image = opaque(image)
        short = min(image.size)
        width, height = (int(self.resize * side / short) for side in image.size)
        image = image.resize((width, height), Image.Resampling[self.resample.upper()])
        left, top = (width - self.crop) // 2, (height - self.crop) // 2
        pixels_HWC = np.array(image.crop((left, top, left + self.crop, top + self.crop)))
        pixels_CHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1).float() / 255
        return (pixels_CHW - torch.tensor(self.mean).view(3, 1, 1)) / torch.tensor(self.std).view(3, 1, 1)

    def describe(self) -> str:
        """Describe all settings in one line, which is part of cache keys.

        An example: `resize 256 bicubic, centre crop 224, mean 0.5 0.5 0.5, std 0.5 0.5 0.5`.
        """
        convention = " (the convention: its configuration names no crop)" if self.conventional else ""
        mean, std = (" ".join(f"{value:.6g}" for value in values) for values in (self.mean, self.std))
        return f"resize {self.resize} {self.resample}, centre crop {self.crop}{convention}, mean {mean}, std {std}"


def opaque(image: Image.Image) -> Image.Image:
    """Convert an image of 8 bits a channel to RGB; transparency becomes white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")


def to_pixels(images: Sequence[Image.Image], preprocessing: Preprocessing) -> Tensor:
    """Prepare a batch of images. Shape B x C x H x W, float32."""
    return torch.stack([preprocessing.prepare(image) for image in images])


def read_json(source: str, name: str) -> dict[str, Any]:
    """Read one of an encoder's JSON files, from its folder or the hub.

    Raises:
        UserError: the file does not exist, cannot be downloaded, or is not valid.
    """
    file = Path(source) / name if Path(source).is_dir() else _download(source, name)
    try:
        return read_json_object(file)
    except UnreadableFile as error:
        if not error.missing:
            raise UserError(
                f"{source}: {name} is not valid JSON ({error.reason}); download the encoder again."
            ) from error
        raise UserError(
            f"{source} holds no {name}; give a folder as transformers saves it, with its preprocessor_config.json."
        ) from error


def _download(source: str, name: str) -> Path:
    try:
        return hub_file(source, name)
    except Exception as error:
        raise_unrelated(error)
        raise UserError(
            f"the encoder {source!r} is no local folder, and its {name} could not be fetched from the model hub "
            f"({why_unavailable(source, error)}); check the name and the network, or take the embedded encoders: "
            "--identity starter --clip starter (in a recipe: selection.identity and selection.clip)."
        ) from error


def read_preprocessing(source: str, *, identity: bool) -> Preprocessing:
    """Read preprocessor_config.json of an encoder; `identity` applies DINO's convention.

    Raises:
        UserError: the file asks for something that cannot be done exactly.
    """
    settings = read_json(source, "preprocessor_config.json")
    cropped = settings.get("do_center_crop", True) and settings.get("crop_size") is not None
    size, crop = _side(source, settings, "size"), _side(source, settings, "crop_size" if cropped else "size")
    conventional = identity and not cropped
    _check_steps(source, settings)
    resize = round(size * DINO_RATIO) if conventional else size
    if crop > resize:
        raise _refused(source, f"a crop of {crop} px from {resize} px")
    return Preprocessing(
        resize=resize,
        crop=crop,
        mean=_channels(source, settings, "image_mean", 0.0),
        std=_channels(source, settings, "image_std", 1.0),
        resample="bicubic" if conventional else _FILTERS[settings.get("resample", 3)],
        conventional=conventional,
    )


def check_side(source: str, side: int, preprocessing: Preprocessing) -> None:
    """Refuse a crop that differs from `side`, the one that the model has position embeddings for.

    Raises:
        UserError: it names both sides.
    """
    if side != preprocessing.crop:
        raise UserError(
            f"{source} is a model for images of {side} px, but its preprocessor_config.json crops "
            f"{preprocessing.crop} px; correct that file."
        )


def _check_steps(source: str, settings: Mapping[str, Any]) -> None:
    if not settings.get("do_resize", True) or not settings.get("do_rescale", True):
        raise _refused(source, "images that are not resized, or not scaled to 0..1")
    if abs(settings.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise _refused(source, f"the rescale_factor {settings['rescale_factor']}")
    if settings.get("resample", 3) not in _FILTERS:
        raise _refused(source, f"the resample {settings['resample']}")


def _channels(source: str, settings: Mapping[str, object], name: str, neutral: float) -> tuple[float, ...]:
    """Read a value for each of three channels; `neutral` where there is no normalization."""
    if not settings.get("do_normalize", True):
        return (neutral,) * 3
    match settings.get(name):
        case [float() | int(), float() | int(), float() | int()] as values:
            return tuple(values)
        case other:
            raise _refused(source, f"the {name} {other}")


def _side(source: str, settings: Mapping[str, object], name: str) -> int:
    """Read the side of a size, in any of the shapes that configurations use."""
    match settings.get(name):
        case {"shortest_edge": int(side), **others} if not others:
            return side
        case {"height": int(side), "width": int(width), **others} if side == width and not others:
            return side
        case int(side):
            return side
        case other:
            raise _refused(source, f"the {name} {other}")


def _refused(source: str, request: str) -> UserError:
    return UserError(
        f"{source}: preprocessor_config.json asks for {request}; "
        "correct it to a size, a square crop, and mean and std of three channels."
    )
