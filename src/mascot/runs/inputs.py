"""TODO runs.inputs."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mascot.data.captions import caption_photos
from mascot.data.dataset import check_masks
from mascot.data.photos import PhotoSet, read_photos
from mascot.data.prompt_templates import fill
from mascot.errors import UserError
from mascot.models.devices import choose_device
from mascot.models.families.registry import load_family
from mascot.models.quantization import quantize
from mascot.protocols import Family
from mascot.recipe.recipe import Recipe


def load_base(recipe: Recipe) -> Family:
    """Load a recipe's base on its device.

    On a CPU the weights stay in float32 and autocast does the rest: it is as fast, and drawing is the same in any batch.
    """
    device = choose_device(recipe.device)
    if device == "cpu" and recipe.precision == "fp16":
        raise UserError("fp16 does not train on a CPU; give --set precision=bf16 or fp32.")
    family = load_family(recipe.base, device=device, precision="fp32" if device == "cpu" else recipe.precision)
    if recipe.base_weights is not None:
        for stage in family.stages:
            quantize(stage.parts[stage.denoiser], recipe.base_weights, device)
    return family


def read_subject(recipe: Recipe) -> PhotoSet:
    """Read and caption a recipe's photos, and refuse what cannot work before any weight is loaded."""
    if (recipe.prior.draws or recipe.prior.preserves) and recipe.class_noun is None:
        raise UserError(
            "prior preservation needs to know what the subject is: give --class-noun dog (say), or --set class_images.weight=0."
        )
    photos = read_photos([Path(path) for path in recipe.photos], background=recipe.dataset.background)
    photos = caption_photos(photos, recipe.dataset.templates)
    if recipe.dataset.masked is not None:
        check_masks(photos.photos)
    for photo in photos.photos:
        _ = [fill(caption, recipe.subject) for caption in photo.captions]
    for prompt in recipe.previews.prompts:
        fill(prompt, recipe.subject)
    return photos


def photo_hashes(photos: PhotoSet) -> list[list[str]]:
    """The name and the content of each picture, in order: a resumed run must see the same."""
    return [[photo.path.name, hashlib.sha256(photo.image.tobytes()).hexdigest()[:16]] for photo in photos.photos]
