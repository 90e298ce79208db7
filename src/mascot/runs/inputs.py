"""Loading and checking what a recipe names: the base, photos, class images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
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
from mascot.data.photos import Photo, PhotoSet, join_photos, read_photos
from mascot.data.prompt_templates import class_prompt, expand, fill, names_subject
from mascot.diffusion.noise import seeded
from mascot.errors import UserError, printable
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.prompts.prompt_weights import has_syntax
from mascot.models.devices import choose_device
from mascot.models.families.registry import load_family
from mascot.models.quantization import quantize
from mascot.protocols import Family, Method, Subject
from mascot.recipe.optimizer_needs import check_optimizer
from mascot.recipe.recipe import Recipe
from mascot.runs.phase_schedule import PhaseSpan
from mascot.runs.previews import preview_prompts


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
    """Read and caption a recipe's photos, of all its subjects, before any weight is loaded.

    Raises:
        UserError: a photo, a caption, a mask or a preview prompt cannot be used, or prior
            preservation lacks a class noun.
    """
    if (recipe.prior.uses_class_images or recipe.prior.uses_base_outputs) and not recipe.subjects.class_nouns:
        raise UserError("prior preservation needs a class noun; give --class-noun dog (say), or --set prior.weight=0.")
    check_tokens(recipe)
    check_optimizer(recipe.training, recipe.method)
    captioner = None if recipe.dataset.caption_with is None else open_captioner(recipe.dataset.caption_with)
    subjects, names = recipe.subject.all, recipe.subjects.names
    if captioner is not None and len(subjects) > 1:
        raise UserError(
            "dataset.caption_with writes captions of one subject; give --set dataset.caption_with=none, and write "
            "captions beside the photos if the templates are not enough."
        )
    photos = join_photos([read_group(recipe, group) for group in recipe.subjects.photo_groups])
    check_subjects_differ(photos.photos, names)
    if recipe.dataset.masked is not None:
        check_masks(photos.photos)
    for photo in photos.photos:
        _ = [fill(first_variant(caption), subjects[photo.subject]) for caption in photo.captions]
    for prompt in recipe.previews.prompts:
        expand(prompt, recipe.subject)
    photos = with_own_class_images(recipe, photos)
    if captioner is None:
        return photos
    return caption_by_model(photos, recipe.dataset.templates, captioner, recipe.subject, choose_device(recipe.device))


def read_group(recipe: Recipe, paths: Sequence[str]) -> PhotoSet:
    """Read and caption the photos of one subject."""
    background, recursive = recipe.dataset.background, recipe.dataset.recursive
    photos = read_photos([Path(path) for path in paths], background=background, recursive=recursive)
    return caption_photos(photos, caption_sources(recipe))


def with_own_class_images(recipe: Recipe, photos: PhotoSet) -> PhotoSet:
    """Add the user's own class images to the photos, and what is said about them.

    Raises:
        UserError: the recipe's folder of class images holds none that can be used, or the subjects
            are of several classes.
    """
    noun, *others = recipe.subjects.class_nouns or ("",)
    if recipe.prior.folder is None or not noun:
        return photos
    if others:
        raise UserError(
            "prior.folder holds images of one class, and the subjects are of several "
            f"({', '.join([noun, *others])}); "
            "give --set prior.folder=none, and images of each class are generated."
        )
    found = read_class_images(Path(recipe.prior.folder), photos.photos, class_noun=noun)
    refused = [f"Class image not used: {refusal.reason}" for refusal in found.refused]
    notes = (*photos.notes, f"{len(found.photos)} class images of your own.", *refused, *found.notes)
    return replace(photos, class_images=found.photos, notes=notes)


def caption_sources(recipe: Recipe) -> CaptionSources:
    """Return where a recipe takes captions from, besides the files beside the photos."""
    settings = recipe.dataset
    return CaptionSources(
        templates=settings.templates,
        each_line=settings.caption_each_line,
        from_names=settings.captions_from_names,
        subject_names=recipe.subjects.names,
    )


def find_caption_faults(recipe: Recipe, photos: PhotoSet) -> tuple[PhotoFinding, ...]:
    """List what training would suffer from in each subject's captions; see `audit_captions`."""
    settings, findings = recipe.dataset, list[PhotoFinding]()
    for number, (subject, token) in enumerate(zip(recipe.subject.all, recipe.subjects.tokens, strict=True)):
        found = audit_captions(
            [photo for photo in photos.photos if photo.subject == number],
            subject,
            templates=settings.templates,
            token_given=token is not None,
            insert_token=settings.insert_token,
            tags=settings.tags,
            from_names=settings.captions_from_names,
        )
        prefix = "" if subject.name is None else f"{subject.name}: "
        findings += [replace(finding, message=f"{prefix}{finding.message}") for finding in found]
    return tuple(findings)


def check_tokens(recipe: Recipe) -> None:
    """Check that a token whose embeddings are trained is not a word of a class noun.

    Raises:
        UserError: it is, so that every prompt of the class would name the subject.
    """
    if not cast("Method", recipe.method).trains_token:
        return
    for token, noun in product(recipe.subjects.tokens, [subject.class_noun for subject in recipe.subject.all]):
        # a subject without a class noun, whose words would not count
        if token is not None and noun is not None and names_subject(noun, Subject(token=token)):
            raise UserError(
                f"the token {token!r} is a word of the class noun {noun!r}, and this method trains that word itself; "
                "give another --token, such as sks."
            )


def check_subjects_differ(photos: Sequence[Photo], names: Sequence[str]) -> None:
    """Check that no photo is given as one of two subjects.

    Raises:
        UserError: two subjects have the same pixels.
    """
    owners: dict[str, Photo] = {}
    for photo in photos if len(names) > 1 else ():
        first = owners.setdefault(pixel_hash(photo), photo)
        if first.subject != photo.subject:
            raise UserError(
                f"{printable(first.path)} of {names[first.subject]} and {printable(photo.path)} of "
                f"{names[photo.subject]} are the same photo; keep it for one of them, and show the other alone."
            )


def photo_hashes(photos: PhotoSet) -> list[list[str]]:
    """List each photo's name and a hash of its pixels; a resumed run must have the same list.

    Class images of the user's own follow.
    """
    return [[image.path.name, pixel_hash(image)] for image in (*photos.photos, *photos.class_images)]


def pixel_hash(photo: Photo) -> str:
    """Hash a photo's pixels, 16 hexadecimal digits."""
    return hashlib.sha256(photo.image.tobytes()).hexdigest()[:16]


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
        UserError: the method finds nothing to train; or the image size, the solver, a prompt, the
            subject's name, the kind of prediction or the loss weighting does not suit the base.
    """
    recipe.training.check()
    for span in spans:
        span.phase.trains(family.stages[span.stage])
    generator = Generator(family)
    for one in recipe.subject.all:
        if has_syntax(one.words):
            raise UserError(
                f"{one.words!r} has brackets, which weigh words in prompts; give another --token or --class-noun."
            )
    for prompt in (*(preview_prompts(recipe) if recipe.previews.every else ()), recipe.knobs.negative):
        generator.prompt_reader.parse(prompt)
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
) -> dict[str, list[Image.Image]]:
    """Return a recipe's class images in RGB, by class noun: the user's own, and generated ones.

    `generate` takes the place of the base model.
    """
    if not recipe.prior.uses_class_images:
        return {}
    generator = Generator(family, typed=False)  # class nouns are what training reads, not what a user typed
    knobs = Knobs(guidance=recipe.prior.guidance, steps=recipe.prior.steps, height=resolution, width=resolution)
    made: dict[str, list[Image.Image]] = {}
    for noun in recipe.subjects.class_nouns:
        generated = class_images.read_or_generate(
            recipe.prior.model_copy(update={"count": max(0, recipe.prior.count - len(own))}),
            identity=family.identity,
            prompt=class_prompt(noun),
            resolution=resolution,
            precision=recipe.precision if choose_device(recipe.device) != "cpu" else "fp32",
            generate=generate
            or (
                lambda prompt, seeds: refuse_plain(
                    generator.generate([ImageRequest(prompt, seed) for seed in seeds], knobs), recipe.base
                )
            ),
        )
        made[noun] = [*(photo.image for photo in own), *generated]
    return made


def refuse_plain(images: Iterator[Image.Image], base: str) -> Iterator[Image.Image]:
    """Yield class images, up to one of a single color: a base that works generates none.

    Raises:
        UserError: an image has one color.
    """
    for image in images:
        if all(low == high for low, high in (band.getextrema() for band in image.convert("RGB").split())):
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

    total = 0
    for noun in recipe.subjects.class_nouns:
        try:
            alone = recipe.model_copy(update={"tables": (), "class_noun": noun})
            make_class_images(alone, family, resolution, own, count)
        except MissingClassImages as missing:
            total += missing.count
    return total
