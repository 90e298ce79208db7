"""Loading and checking what a recipe names: the base, photos, class images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from PIL import Image

from mascot.data import class_images
from mascot.data.captioning.caption_audit import audit_captions
from mascot.data.captioning.caption_models import caption_by_model, open_captioner
from mascot.data.captioning.caption_variants import first_variant
from mascot.data.captions import CaptionSources, caption_photos
from mascot.data.class_image_folder import read_class_images
from mascot.data.dataset import check_masks
from mascot.data.photo_audit import PhotoFinding
from mascot.data.photos import Photo, PhotoSet, read_photos
from mascot.data.prompt_templates import class_prompt, fill, names_subject
from mascot.diffusion.noise import seeded
from mascot.errors import UserError
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.models.devices import choose_device
from mascot.models.families.registry import load_family
from mascot.models.quantization import quantize
from mascot.protocols import Family, Method, Subject
from mascot.recipe.optimizer_needs import check_optimizer
from mascot.recipe.recipe import Recipe
from mascot.runs.phase_schedule import PhaseSpan


def load_base(recipe: Recipe) -> Family:
    """Load a recipe's base on its device.

    On a CPU the weights stay in float32 and training uses autocast. It is as fast, and images do
    not depend on the batch size.

    Raises:
        UserError: the base cannot be loaded, or the device or the precision cannot be used.
    """
    device = choose_device(recipe.device)
    if device == "cpu" and recipe.precision == "fp16":
        raise UserError("fp16 does not train on a CPU; give --set precision=bf16 or fp32.")
    precision = "fp32" if device == "cpu" else recipe.precision
    family = load_family(recipe.base, device=device, precision=precision, reading=recipe.reading)
    if recipe.base_weights is not None:
        for stage in family.stages:
            quantize(stage.parts[stage.denoiser], recipe.base_weights, device)
    return family


def read_subject(recipe: Recipe) -> PhotoSet:
    """Read and caption a recipe's photos before any weight is loaded.

    Raises:
        UserError: a photo, a caption, a mask or a preview prompt cannot be used, or prior
            preservation lacks a class noun.
    """
    if (recipe.prior.uses_class_images or recipe.prior.uses_base_outputs) and recipe.class_noun is None:
        raise UserError("prior preservation needs a class noun; give --class-noun dog (say), or --set prior.weight=0.")
    check_token(recipe)
    check_optimizer(recipe.training, recipe.method)
    captioner = None if recipe.dataset.caption_with is None else open_captioner(recipe.dataset.caption_with)
    photos = read_photos(
        [Path(path) for path in recipe.photos],
        background=recipe.dataset.background,
        recursive=recipe.dataset.recursive,
    )
    photos = caption_photos(photos, caption_sources(recipe))
    if recipe.dataset.masked is not None:
        check_masks(photos.photos)
    for photo in photos.photos:
        _ = [fill(first_variant(caption), recipe.subject) for caption in photo.captions]
    for prompt in recipe.previews.prompts:
        fill(prompt, recipe.subject)
    photos = with_own_class_images(recipe, photos)
    if captioner is None:
        return photos
    return caption_by_model(photos, recipe.dataset.templates, captioner, recipe.subject, choose_device(recipe.device))


def with_own_class_images(recipe: Recipe, photos: PhotoSet) -> PhotoSet:
    """Add the user's own class images to the photos, and what is said about them.

    Raises:
        UserError: the recipe's folder of class images holds none that can be used.
    """
    if recipe.prior.folder is None or recipe.class_noun is None:
        return photos
    found = read_class_images(Path(recipe.prior.folder), photos.photos, class_noun=recipe.class_noun)
    refused = [f"Class image not used: {refusal.reason}" for refusal in found.refused]
    notes = (*photos.notes, f"{len(found.photos)} class images of your own.", *refused, *found.notes)
    return replace(photos, class_images=found.photos, notes=notes)


def caption_sources(recipe: Recipe) -> CaptionSources:
    """Return where a recipe takes captions from, besides the files beside the photos."""
    settings = recipe.dataset
    return CaptionSources(
        templates=settings.templates, each_line=settings.caption_each_line, from_names=settings.captions_from_names
    )


def find_caption_faults(recipe: Recipe, photos: PhotoSet) -> tuple[PhotoFinding, ...]:
    """List what training would suffer from in the captions; see `audit_captions`."""
    settings = recipe.dataset
    return audit_captions(
        photos.photos,
        recipe.subject,
        templates=settings.templates,
        token_given=recipe.token is not None,
        insert_token=settings.insert_token,
        tags=settings.tags,
        from_names=settings.captions_from_names,
    )


def check_token(recipe: Recipe) -> None:
    """Check that a token whose embeddings are trained is not a word of the class noun.

    Raises:
        UserError: it is, so that every prompt of the class would name the subject.
    """
    noun, token = recipe.class_noun, recipe.token
    nameless = Subject(token=recipe.subject.token)  # without a class noun, whose words would not count
    trains_token = cast("Method", recipe.method).trains_token
    if token is not None and noun is not None and trains_token and names_subject(noun, nameless):
        raise UserError(
            f"the token {token!r} is a word of the class noun {noun!r}, and this method trains that word itself; "
            "give another --token, such as sks."
        )


def photo_hashes(photos: PhotoSet) -> list[list[str]]:
    """List each photo's name and a hash of its pixels; a resumed run must have the same list.

    Class images of the user's own follow.
    """
    images = (*photos.photos, *photos.class_images)
    return [[image.path.name, hashlib.sha256(image.image.tobytes()).hexdigest()[:16]] for image in images]


def image_resolution(recipe: Recipe, family: Family) -> int:
    """Choose the side of a run's finished images, in pixels.

    It is the recipe's or else the base's, rounded down to a multiple that the base can use.
    """
    last = family.stages[-1]
    wanted = recipe.dataset.resolution or last.resolution
    return max(last.multiple, wanted // last.multiple * last.multiple)


def check_base(recipe: Recipe, family: Family, spans: Sequence[PhaseSpan]) -> None:
    """Check settings against the loaded base, before class images are generated.

    Raises:
        UserError: the method finds nothing to train; or the image size, the solver, the kind of
            prediction or the loss weighting does not suit the base.
    """
    recipe.training.check()
    for span in spans:
        span.phase.trains(family.stages[span.stage])
    generator = Generator(family)
    knobs = generator.with_defaults(recipe.knobs)
    height, width = generator.size(knobs)
    for stage in family.stages:
        stage.solver(str(knobs.solver), knobs.steps, height, width)
        stage.objective.weight(stage.objective.sample_timesteps([seeded(0)]), recipe.training.min_snr)


def make_class_images(
    recipe: Recipe,
    family: Family,
    resolution: int,
    own: Sequence[Photo] = (),
    generate: class_images.GenerateImages | None = None,
) -> list[Image.Image]:
    """Return a recipe's class images in RGB: the user's own, and generated ones up to its count.

    `generate` takes the place of the base model.
    """
    if not recipe.prior.uses_class_images or recipe.class_noun is None:
        return []
    generator = Generator(family)
    knobs = Knobs(guidance=recipe.prior.guidance, steps=recipe.prior.steps, height=resolution, width=resolution)
    generated = class_images.read_or_generate(
        recipe.prior.model_copy(update={"count": max(0, recipe.prior.count - len(own))}),
        identity=family.identity,
        prompt=class_prompt(recipe.class_noun),
        resolution=resolution,
        precision=recipe.precision if choose_device(recipe.device) != "cpu" else "fp32",
        generate=generate
        or (
            lambda prompt, seeds: refuse_plain(
                generator.generate([ImageRequest(prompt, seed) for seed in seeds], knobs), recipe.base
            )
        ),
    )
    return [*(photo.image for photo in own), *generated]


def refuse_plain(images: Iterator[Image.Image], base: str) -> Iterator[Image.Image]:
    """Yield class images, up to one of a single color: a base that works generates none.

    Raises:
        UserError: an image has one color.
    """
    for image in images:
        if all(low == high for low, high in image.convert("RGB").getextrema()):
            raise UserError(
                f"the base {base} generates class images of one plain color, such as black; "
                "give another --base, or --set prior.count=0."
            )
        yield image


class MissingClassImages(Exception):  # noqa: N818 - it is no error, it stops at the first missing image
    """Tells how many class images are not in the cache."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count


def count_missing_class_images(recipe: Recipe, family: Family, resolution: int, own: Sequence[Photo]) -> int:
    """Count the class images that training would generate, as they are not in the cache."""

    def count(_: str, seeds: Sequence[int]) -> Iterator[Image.Image]:
        raise MissingClassImages(len(seeds))

    try:
        make_class_images(recipe, family, resolution, own, count)
    except MissingClassImages as missing:
        return missing.count
    return 0
