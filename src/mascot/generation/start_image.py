"""The image that generation starts from, and the mask of what is redrawn: read, sized, encoded.

Shape suffixes: B batch, C channel, H height, W width.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from mascot.data.crops import crop_box
from mascot.data.dataset import image_to_pixels
from mascot.data.image_decoding import (
    SHORTEST_SIDE,
    DecodedImage,
    UnusableImage,
    check_image_file,
    convert_image,
    decode,
    parse_color,
)
from mascot.diffusion.image_start import ImageStart, first_step
from mascot.errors import UserError
from mascot.generation.knob_checks import as_option
from mascot.generation.knobs import Knobs
from mascot.models.unet_stage import inpainting_conditioning, reads_mask
from mascot.protocols import Conditioning, Stage

ImageSource = str | Path | Image.Image
"""A file of the user's, or an image in memory."""

STRENGTH = 0.6
"""The strength that is used where none is given: shapes and colors stay, the rest is new."""
INPAINTING_STRENGTH = 1.0
"""The same for a mask on an inpainting base, which sees the image outside the mask by itself."""
LARGEST_SIDE = 8192
"""The longest side in pixels that an image is read and generated at (see `Knobs`)."""
OWN_SIZE = 2.25
"""An image keeps its size up to this ratio to the base's own number of pixels, either way."""
OTHER_SHAPE = 0.02
"""From this relative difference on, the shapes of image and mask differ."""
BACKGROUND = "white"
"""What replaces the transparent parts of an image."""
_HALF = 128  # of 255: from here on a mask marks a pixel


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceImage:
    """An image and a mask as they were read, before a base decides the size."""

    image: Image.Image
    """Upright RGB."""
    mask: Image.Image | None
    """An `L` image of the same shape, at any size: 255 is redrawn, 0 is kept."""
    strength: float | None
    """None takes the default of the base."""
    name: str
    """Printable name of the image."""
    size: tuple[int, int]
    """Width and height of the file, in pixels, upright."""
    remarks: tuple[str, ...] = ()
    """What was done in reading, a clause each."""

    def fit_size(self, resolution: int, multiple: int) -> tuple[int, int]:
        """Return the height and width at which a base generates it, in pixels.

        They are the image's own, rounded to `multiple`. An image with over 2.25 times the pixels of
        the base's own square, or less than that part of them, is scaled to as many as the square.
        """
        width, height = self.image.size
        area = width * height / resolution**2
        scale = 1.0 if 1 / OWN_SIZE <= area <= OWN_SIZE else 1 / math.sqrt(area)
        scale = min(scale, LARGEST_SIDE / max(width, height))
        rows, columns = (max(1, round(side * scale / multiple)) * multiple for side in (height, width))
        return rows, columns

    def cut(self, size: tuple[int, int], stage: Stage) -> StartImage:
        """Scale and crop image and mask to a height and width that a base generates at.

        The image covers the size and is cropped around its middle: proportions never change. One
        that has the size already stays as it is, bit for bit.

        Args:
            size: height and width, in pixels.
            stage: the base's first stage, whose kind decides the default strength.

        Raises:
            UserError: nothing of the mask's white is left in the crop.
        """
        usual = INPAINTING_STRENGTH if self.mask is not None and reads_mask(stage) else STRENGTH
        mask = None if self.mask is None else cut_mask(self.mask, self.image.size, size)
        if mask is not None and mask.getextrema() == (0, 0):
            raise UserError(
                f"nothing that the mask of {self.name} marks is left at {size[1]}x{size[0]}; "
                "give another --size, or leave --size out, or mark more."
            )
        return StartImage(
            image=cut_image(self.image, size),
            mask=mask,
            strength=usual if self.strength is None else self.strength,
            source_size=self.size,
            notes=tuple(f"{self.name}: {remark}" for remark in (*self.remarks, *self.size_note(size))),
        )

    def size_note(self, size: tuple[int, int]) -> list[str]:
        """Say that the image is generated at another size than its own, if it is."""
        if self.size == swapped(size):
            return []
        return ["{}x{} pixels, generated at {}x{}; --size chooses another size".format(*self.size, *swapped(size))]


@dataclass(frozen=True, slots=True, kw_only=True)
class StartImage:
    """An image that generation starts from, at the size that is generated."""

    image: Image.Image
    """RGB."""
    mask: Image.Image | None
    """An `L` image of the same size: the weight of what is generated, 255 is all; None is all."""
    strength: float
    """The share of the steps that are taken, above 0 and up to 1; 1 starts from noise alone."""
    source_size: tuple[int, int]
    """Width and height of the file, in pixels."""
    notes: tuple[str, ...] = ()
    """What was done to the file, a clause each."""

    @property
    def facts(self) -> Mapping[str, object]:
        """The settings of a PNG, by the names that A1111's web UI and its kin give them."""
        digest = hashlib.md5(self.image.tobytes(), usedforsecurity=False).hexdigest()
        facts: dict[str, object] = {
            "Denoising strength": self.strength,
            "Init image size": "{}x{}".format(*self.source_size),
            "Init image hash": digest,
        }
        if self.mask is not None:
            weights = np.asarray(self.mask)
            soft = " (soft edges)" if ((weights > 0) & (weights < 255)).any() else ""
            facts["Mask"] = f"{float(weights.mean()) / 2.55:.3g}% redrawn{soft}"
        return facts

    @torch.no_grad()
    def encode(self, stage: Stage, height: int, width: int, knobs: Knobs) -> tuple[ImageStart, Conditioning]:
        """Encode image and mask for a stage that generates at a height and width, in pixels.

        The latents are the mean of the autoencoder's distribution, so they are the same for every
        seed. The weight of a latent cell is the largest of its pixels': all that is white is
        redrawn. An inpainting base sees the image outside the mask as conditioning.

        Raises:
            UserError: the strength leaves no step to take.
        """
        check_steps(self.strength, stage, height, width, knobs)
        image = self.image if self.image.size == (width, height) else resized(self.image, (width, height))
        pixels_1CHW = image_to_pixels(image)
        x0_1CHW = stage.encode(pixels_1CHW).mean_BCHW.float().cpu()
        if self.mask is None:
            return ImageStart(x0_BCHW=x0_1CHW, strength=self.strength), {}
        weights_11HW = torch.from_numpy(np.asarray(self.mask, np.float32) / 255)[None, None]
        if reads_mask(stage):
            hidden_11HW = (functional.adaptive_max_pool2d(weights_11HW, (height, width)) >= 0.5).float()
            shown = inpainting_conditioning(stage, pixels_1CHW, hidden_11HW)
            return ImageStart(x0_BCHW=x0_1CHW, strength=self.strength), shown
        cells_11HW = functional.adaptive_max_pool2d(weights_11HW, x0_1CHW.shape[-2:])
        return ImageStart(x0_BCHW=x0_1CHW, strength=self.strength, mask_B1HW=cells_11HW), {}

    def restore_outside(self, image: Image.Image) -> Image.Image:
        """Paste a generated image on this one by the mask; where it is 0, no bit changes.

        Each value is (mask x generated + (255 - mask) x original) / 255, rounded.
        """
        if self.mask is None:
            return image
        weights_HW1 = np.asarray(self.mask, np.int32)[..., None]
        ours, theirs = (np.asarray(one, np.int32) for one in (image, self.image))
        mixed = (weights_HW1 * ours + (255 - weights_HW1) * theirs + 127) // 255
        return Image.fromarray(mixed.astype(np.uint8))


def read_source_image(
    image: ImageSource | None,
    *,
    mask: ImageSource | None = None,
    strength: float | None = None,
    write: Callable[[str], str] = as_option,
) -> SourceImage | None:
    """Read an image to start from and its mask; None without an image.

    Args:
        image: the image, or None.
        mask: white where the image is redrawn; transparent parts count as black.
        strength: the share of the steps that are taken.
        write: names an option in messages.

    Raises:
        UserError: mask or strength are given without an image; the strength is not above 0 and up
            to 1; a file cannot be used; the mask marks nothing or all, or has another shape.
    """
    if image is None:
        check_alone({"mask": mask, "strength": strength}, write)
        return None
    check_strength(strength, write("strength"))
    remarks: list[str] = []
    decoded, name = read_image(image, BACKGROUND, remarks, write("image"))
    if min(decoded.full_size) < SHORTEST_SIDE:
        width, height = decoded.full_size
        raise UserError(
            f"{write('image')}: {name} is too small ({width}x{height} pixels); "
            f"give one of at least {SHORTEST_SIDE} pixels a side."
        )
    return SourceImage(
        image=decoded.image,
        mask=None if mask is None else read_redrawn(mask, decoded, name, write),
        strength=strength,
        name=name,
        size=decoded.full_size,
        remarks=tuple(remarks),
    )


def check_alone(given: Mapping[str, object], write: Callable[[str], str]) -> None:
    """Refuse what works on an image alone, where there is none.

    Raises:
        UserError: one of the values is given.
    """
    for name, value in given.items():
        if value is not None:
            raise UserError(
                f"{write(name)} works on an image, and none is given; give {write('image')} too, "
                f"or leave {write(name)} out."
            )


def check_strength(strength: float | None, option: str) -> None:
    """Refuse a strength that is not above 0 and up to 1.

    Raises:
        UserError: it is not, or not a number.
    """
    if strength is None or 0 < strength <= 1:
        return
    what = "would return the image itself" if strength == 0 else "is not above 0 and up to 1"
    raise UserError(f"{option} {strength:g} {what}; give a share of the steps, such as {STRENGTH}.")


def check_steps(strength: float, stage: Stage, height: int, width: int, knobs: Knobs) -> None:
    """Refuse a strength so small that no step is left to take.

    Raises:
        UserError: no step is left.
    """
    solver = stage.solver(str(knobs.solver), knobs.steps, height, width)
    count = len(solver.timesteps)
    if first_step(solver, strength) == count:
        least = math.ceil(1000 / count) / 1000
        raise UserError(
            f"a strength of {strength:g} takes none of {count} steps, which would return the image itself; "
            f"give a strength of at least {least:g}, or more steps."
        )


def read_image(source: ImageSource, background: str, remarks: list[str], option: str) -> tuple[DecodedImage, str]:
    """Decode a file or an image in memory; returns it with its printable name.

    Raises:
        UserError: it cannot be used.
    """
    color = parse_color(background)
    try:
        if isinstance(source, Image.Image):
            return convert_image(source, "the image", color, remarks, longest_side=LARGEST_SIDE), "the image"
        path = Path(source)
        check_image_file(path)
        return decode(path, color, remarks, longest_side=LARGEST_SIDE), path.name
    except UnusableImage as error:
        raise UserError(f"{option}: {error}") from None


def read_redrawn(mask: ImageSource, image: DecodedImage, name: str, write: Callable[[str], str]) -> Image.Image:
    """Read the mask of what is redrawn, at its own size.

    Raises:
        UserError: it cannot be used, marks nothing or all, or has another shape than the image.
    """
    option = write("mask")
    decoded, own = read_image(mask, "black", [], option)
    (width, height), (mask_width, mask_height) = image.full_size, decoded.full_size
    if abs(math.log(mask_width * height / (mask_height * width))) > OTHER_SHAPE:
        raise UserError(
            f"{option}: {own} has another shape than {name} ({mask_width}x{mask_height} and {width}x{height} pixels, "
            "upright); draw the mask on a copy of the image."
        )
    grey = decoded.image.convert("L")
    darkest, brightest = grey.getextrema()
    if not isinstance(brightest, int | float) or brightest < _HALF:
        raise UserError(
            f"{option}: {own} marks nothing (its brightest value is {brightest} of 255); "
            "paint white what shall be redrawn."
        )
    if darkest == 255:
        raise UserError(
            f"{option}: {own} is white everywhere, so all is redrawn; leave {option} out, or paint black what is kept."
        )
    return grey


def cut_image(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale an image until it covers a height and width, and crop its middle to them."""
    return resized(image, swapped(size), snapped(crop_box(swapped(image.size), size), size))


def cut_mask(mask: Image.Image, of: tuple[int, int], size: tuple[int, int]) -> Image.Image:
    """Cut a mask as `cut_image` cuts its image of width and height `of`, without overshoots."""
    left, top, right, bottom = snapped(crop_box(swapped(of), size), size)
    x, y = mask.width / of[0], mask.height / of[1]
    box = (left * x, top * y, min(right * x, mask.width), min(bottom * y, mask.height))
    return mask.resize(swapped(size), Image.Resampling.BILINEAR, box=box)


def swapped(size: tuple[int, int]) -> tuple[int, int]:
    """Turn height and width into width and height, or back."""
    return size[1], size[0]


def snapped(box: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Move a box that is not scaled to whole pixels, so that no pixel changes."""
    left, top, right, bottom = box
    if (round(bottom - top, 6), round(right - left, 6)) != size:
        return box
    return int(left), int(top), int(left) + size[1], int(top) + size[0]


def resized(
    image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    """Resample an image, or a box of it, to a width and height."""
    return image.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


def broadcast(rows: Conditioning, count: int) -> dict[str, Tensor]:
    """Repeat a conditioning of one row for a batch."""
    return {name: row.expand(count, *row.shape[1:]) for name, row in rows.items()}
