"""TODO evaluation.metrics.image_preprocessing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mascot.errors import UserError

CONVENTION = 256 / 224
"""The shorter side over the crop, where an identity encoder's configuration names no crop: how DINO was evaluated (Caron et al. 2021)."""


_FILTERS: Mapping[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How a picture becomes an encoder's input: RGB, shorter side, centre crop, normalization. Sides are in pixels."""

    resize: int
    """The shorter side before the crop; pictures keep their proportions, whatever shape the configuration's size comes in."""
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: Literal["bilinear", "bicubic"] = "bicubic"
    conventional: bool = False
    """Whether resize and filter are DINO's convention, because the configuration names no crop."""

    def prepare(self, image: Image.Image) -> Tensor:
        """Turn a picture of any size into normalized pixels; transparency shows white. Shape C x crop x crop, float32."""
        image = opaque(image)
        short = min(image.size)
        width, height = (int(self.resize * side / short) for side in image.size)
        image = image.resize((width, height), Image.Resampling[self.resample.upper()])
        left, top = (width - self.crop) // 2, (height - self.crop) // 2
        pixels_HWC = np.array(image.crop((left, top, left + self.crop, top + self.crop)))
        pixels_CHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1).float() / 255
        return (pixels_CHW - torch.tensor(self.mean).view(3, 1, 1)) / torch.tensor(self.std).view(3, 1, 1)

    def describe(self) -> str:
        """Say all of it in one line: `resize 256 bicubic, centre crop 224, mean 0.5 0.5 0.5, std 0.5 0.5 0.5`."""
        convention = " (the convention: its configuration names no crop)" if self.conventional else ""
        mean, std = (" ".join(f"{value:.6g}" for value in values) for values in (self.mean, self.std))
        return f"resize {self.resize} {self.resample}, centre crop {self.crop}{convention}, mean {mean}, std {std}"


def opaque(image: Image.Image) -> Image.Image:
    """Turn a picture of 8 bits a channel into RGB; what is transparent shows white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")


def to_pixels(images: Sequence[Image.Image], preprocessing: Preprocessing) -> Tensor:
    return torch.stack([preprocessing.prepare(image) for image in images])


def read_settings(source: str, name: str) -> dict[str, Any]:
    """One of an encoder's JSON files, from its folder or the hub."""
    file = Path(source) / name if Path(source).is_dir() else _download(source, name)
    if not file.is_file():
        raise UserError(
            f"{source} holds no {name}; give a folder as transformers saves it, with its preprocessor_config.json."
        )
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        assert isinstance(settings, dict)
    except (OSError, ValueError, RecursionError, AssertionError) as error:
        raise UserError(f"{source}: {name} is not valid JSON; download the encoder again.") from error
    return settings


def _download(source: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(source, name))
    except Exception as error:
        raise UserError(
            f"the encoder {source!r} is no local folder, and its {name} could not be fetched from the model hub "
            f"({type(error).__name__}); check the name and the network, or give a folder."
        ) from error


def read_preprocessing(source: str, *, identity: bool) -> Preprocessing:
    """What preprocessor_config.json asks for; anything that cannot be done exactly is refused."""
    settings = read_settings(source, "preprocessor_config.json")
    cropped = settings.get("do_center_crop", True) and settings.get("crop_size") is not None
    size, crop = _side(source, settings, "size"), _side(source, settings, "crop_size" if cropped else "size")
    conventional = identity and not cropped
    _check_steps(source, settings)
    resize = round(size * CONVENTION) if conventional else size
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


def _check_steps(source: str, settings: Mapping[str, Any]) -> None:
    if not settings.get("do_resize", True) or not settings.get("do_rescale", True):
        raise _refused(source, "pictures that are not resized, or not scaled to 0..1")
    if abs(settings.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise _refused(source, f"the rescale_factor {settings['rescale_factor']}")
    if settings.get("resample", 3) not in _FILTERS:
        raise _refused(source, f"the resample {settings['resample']}")


def _channels(source: str, settings: Mapping[str, Any], name: str, neutral: float) -> tuple[float, ...]:
    if not settings.get("do_normalize", True):
        return (neutral,) * 3
    match settings.get(name):
        case [float() | int(), float() | int(), float() | int()] as values:
            return tuple(values)
        case other:
            raise _refused(source, f"the {name} {other}")


def _side(source: str, settings: Mapping[str, Any], name: str) -> int:
    """The side that a size names in any of the shapes it comes in."""
    match settings.get(name):
        case {"shortest_edge": int(side), **others} if not others:
            return side
        case {"height": int(side), "width": int(width), **others} if side == width and not others:
            return side
        case int(side):
            return side
        case other:
            raise _refused(source, f"the {name} {other}")


def _refused(source: str, what: str) -> UserError:
    return UserError(
        f"{source}: preprocessor_config.json asks for {what}; correct it to a size, a square crop, and mean and std of three channels."
    )


def check_side(source: str, config: Any, preprocessing: Preprocessing) -> None:
    """Refuse a crop that the model has no positions for."""
    if config.image_size != preprocessing.crop:
        raise UserError(
            f"{source} is a model for pictures of {config.image_size} px, but its preprocessor_config.json crops {preprocessing.crop} px; "
            "correct that file."
        )
