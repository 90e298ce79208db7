"""Encode photos and class images as training examples, and plan the micro-batches of a run.

Crops are encoded once, and the order of the examples depends on the seed alone.

Shape suffixes: B batch, C channel, H height, W width; 11HW is a mask of one example.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from mascot.data.captioning.caption_variants import CaptionVariants, TagSettings, longest_variant, varies
from mascot.data.crops import Crop, Size, buckets, crop, nearest_bucket
from mascot.data.encoding_cache import CachedEncoders
from mascot.data.photos import Photo
from mascot.data.prompt_templates import DEFAULT_TEMPLATE, class_prompt, fill, insert_token, one_line, without_token
from mascot.diffusion.noise import join_latents, seeded
from mascot.errors import UserError, printable
from mascot.protocols import Batch, Framing, Latents, Stage, Subject

ClassImages = Mapping[str, Sequence[Image.Image]]
"""Class noun -> images of that class by the base model."""


class DatasetSettings(BaseModel):
    """Settings that decide how photos become training images and captions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    resolution: int | None = Field(
        default=None,
        ge=32,
        le=4096,
        description="side of the training images in pixels; by default the base model's own",
    )
    aspect_buckets: bool = Field(
        default=False, description="keep wide and tall photos wide and tall, at the same number of pixels"
    )
    flip: bool = Field(default=False, description="also train on mirrored photos; wrong for asymmetric subjects")
    recursive: bool = Field(default=False, description="also read the subfolders of the folders with photos")
    background: str = Field(default="white", description="color under transparent parts")
    templates: tuple[str, ...] = Field(
        default=(DEFAULT_TEMPLATE,),
        min_length=1,
        description="captions, chosen at random, of photos without their own; {token}, {class}, {subject}",
    )
    captions_from_names: bool = Field(
        default=False, description="take a photo's name as its caption where no file gives one: a_dog_on_grass_2.jpg"
    )
    caption_with: str | None = Field(
        default=None,
        min_length=1,
        description="folder or hub id of a model that writes captions of photos without their own: BLIP, Florence-2, "
        "Qwen-VL",
    )
    caption_each_line: bool = Field(
        default=False, description="each line of a photo's text is a caption; one is chosen at each use"
    )
    shuffle_tags: bool = Field(
        default=False, description="put the tags of a caption (its parts between commas) in another order at each use"
    )
    keep_tags: int = Field(
        default=1, ge=0, le=100, description="first tags that keep their place and are never left out"
    )
    tag_dropout: float = Field(default=0.0, ge=0, le=1, description="probability that a tag is left out at a use")
    insert_token: bool = Field(
        default=False, description="insert the token into photos' own captions that name neither {subject} nor {token}"
    )
    caption_dropout: float = Field(
        default=0.0, ge=0, le=1, description="probability that a photo is trained on without its caption"
    )
    masked: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="loss weight of what lies outside the subject's mask; none ignores masks",
    )

    @property
    def tags(self) -> TagSettings:
        """What happens to the tags of captions."""
        return TagSettings(shuffle=self.shuffle_tags, dropout=self.tag_dropout, keep=self.keep_tags)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingExample:
    """One training image, encoded, with its captions."""

    latents: Latents
    """A batch of one."""
    prompts: tuple[str, ...]
    """Captions, one of which is chosen at each use."""
    framing: Framing
    source: Path | None
    """Path of the photo; None for a class image."""
    class_prompts: tuple[str, ...] = ()
    """The same captions without the token, in the same order; empty unless `Dataset.preserve`."""
    mask_11HW: Tensor | None = None
    """Loss weight of each latent cell, 1 on average; None if masks are ignored."""
    variants: tuple[CaptionVariants, ...] = ()
    """How the captions vary, in the same order; empty if none does."""
    subject: int = 0
    """Which subject it shows, from 0; for a class image, the first subject of that class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """All training examples of a run, of its subjects and their classes, grouped by size."""

    subject: dict[Size, tuple[TrainingExample, ...]]
    """The examples of all subjects."""
    prior: dict[Size, tuple[TrainingExample, ...]]
    """Class images in each size of the subjects' photos, as many of each class."""
    prior_weight: float
    """Loss weight of the prior examples; 0 trains on the subject alone."""
    preserve: bool = False
    """Whether prior examples are the subject's own photos with class captions, not class images."""
    caption_dropout: float = 0.0
    """Probability that an example of the subject gets an empty caption."""
    class_of: tuple[int, ...] = (0,)
    """For each subject, the first subject that has its class noun."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """Every distinct caption."""
        return tuple(dict.fromkeys(prompt for prompt, _ in self.framed_prompts))

    @property
    def framed_prompts(self) -> list[tuple[str, Framing]]:
        """Every distinct pair of caption and framing; with dropout, the empty caption too."""
        dropped = ("",) if self.caption_dropout else ()
        subject = [example for group in self.subject.values() for example in group]
        prior = [example for group in self.prior.values() for example in group]
        return list(
            dict.fromkeys(
                [(prompt, example.framing) for example in subject for prompt in (*example.prompts, *dropped)]
                + [(prompt, example.framing) for example in subject for prompt in example.class_prompts]
                + [(prompt, example.framing) for example in prior for prompt in example.prompts]
            )
        )

    @property
    def varies(self) -> bool:
        """Whether captions vary, so that not all of them are known before training."""
        return any(example.variants for group in self.subject.values() for example in group)

    @property
    def subject_count(self) -> int:
        """Number of the subject's examples."""
        return sum(len(group) for group in self.subject.values())

    def batch(self, plan: tuple[Size, tuple[int, ...]], *, seed: int, number: int, share: float) -> Batch:
        """Build micro-batch `number` from its entry of the plan.

        The randomness of each example depends only on the seed, `number` and its index in the
        batch. The weights of the subject's examples add up to `share`, those of the prior examples
        to `share` times the prior weight.
        """
        size, chosen = plan
        subject = [self.subject[size][i] for i in chosen]
        prior_examples = self.prior_examples(size, subject, seed=seed, number=number)
        examples = subject + [example for example, _ in prior_examples]
        count, prior_count = len(subject), len(prior_examples)
        masks = [e.mask_11HW for e in subject if e.mask_11HW is not None]
        return Batch(
            latents=join_latents([example.latents for example in examples]),
            prompts=(*self.draw_captions(subject, seed=seed, number=number), *(prompt for _, prompt in prior_examples)),
            framings=tuple(example.framing for example in examples),
            weight_B=torch.tensor([share / count] * count + [share * self.prior_weight / count] * prior_count),
            subject_count=count,
            generators=tuple(seeded(seed, number, index) for index in range(len(examples))),
            base_target_B=torch.tensor([False] * count + [True] * prior_count)
            if self.preserve and prior_count
            else None,
            mask_B1HW=torch.cat(masks + [torch.ones_like(masks[0])] * prior_count) if masks else None,
        )

    def draw_captions(self, subject: Sequence[TrainingExample], *, seed: int, number: int) -> list[str]:
        """Draw a caption for each of the subject's examples; dropped captions are empty."""
        captions: list[str] = []
        for index, example in enumerate(subject):
            caption = draw_variant(example, example.prompts, (seed, number, index))
            dropped = torch.rand((), generator=seeded(seed, number, index, "dropout")) < self.caption_dropout
            captions.append("" if dropped else caption)
        return captions

    def prior_examples(
        self, size: Size, subject: Sequence[TrainingExample], *, seed: int, number: int
    ) -> list[tuple[TrainingExample, str]]:
        """Draw one prior example, with its caption, for each of the subjects' examples.

        These are class images of the given size and of the same class. If `preserve`, they are the
        subjects' own examples with the class version of their caption.
        """
        count, prior = len(subject), self.prior.get(size, ())
        if self.preserve and self.prior_weight:
            # The key is that of the subject's caption, so both draw the same caption.
            return [
                (example, draw_variant(example, example.class_prompts, (seed, number, index), of_class=True))
                for index, example in enumerate(subject)
            ]
        if not (self.prior_weight and prior):
            return []
        pools = {kind: [example for example in prior if example.subject == kind] for kind in set(self.class_of)}
        each = len(prior) // len(pools)
        chosen = torch.randint(each, (count,), generator=seeded(seed, number, "prior")).tolist()
        examples = [pools[self.class_of[one.subject]][i] for one, i in zip(subject, chosen, strict=True)]
        return [
            (example, draw_caption(example.prompts, seeded(seed, number, index, "caption")))
            for index, example in enumerate(examples, start=count)
        ]


def group_by_size(
    photos: Sequence[Photo],
    encoders: CachedEncoders,
    subject: Subject,
    settings: DatasetSettings,
    *,
    with_class_prompts: bool,
) -> dict[Size, tuple[TrainingExample, ...]]:
    """Make the training examples of all photos, by training size."""
    groups: dict[Size, list[TrainingExample]] = defaultdict(list)
    subjects = subject.all
    for photo, size in zip(photos, training_sizes(photos, settings, encoders.stage), strict=True):
        shown = subjects[photo.subject]
        examples = subject_examples(photo, size, encoders, shown, settings, with_class_prompts=with_class_prompts)
        groups[size] += [replace(example, subject=photo.subject) for example in examples]
    return {size: tuple(group) for size, group in groups.items()}


def make_dataset(
    photos: Sequence[Photo],
    class_images: ClassImages,
    *,
    encoders: CachedEncoders,
    subject: Subject,
    settings: DatasetSettings,
    prior_weight: float,
    preserve: bool = False,
) -> Dataset:
    """Crop, encode and caption all photos and class images once.

    Args:
        photos: the photos of all subjects, with captions that are not filled yet.
        class_images: images for prior preservation, as many of each class; empty if `preserve`.
        encoders: the encoders of the stage that is trained.
        subject: the first subject, whose token and class noun fill the captions of its photos.
        settings: resolution, buckets, captions and masks.
        prior_weight: loss weight of the prior examples; 0 leaves them out.
        preserve: use the base model's predictions for prior preservation, not class images.

    Raises:
        UserError: masks are used and a photo has none, or an empty one; no class noun to preserve.
    """
    assert not (preserve and class_images), "use either class images or the base model's predictions"
    if settings.masked is not None:
        check_masks(photos)
    preserve = preserve and prior_weight > 0
    groups = group_by_size(photos, encoders, subject, settings, with_class_prompts=preserve)
    nouns = [one.class_noun for one in subject.all]
    return Dataset(
        subject=groups,
        prior={size: prior_examples(class_images, nouns, size, encoders) for size in groups if prior_weight},
        prior_weight=prior_weight,
        preserve=preserve,
        caption_dropout=settings.caption_dropout,
        class_of=tuple(nouns.index(noun) for noun in nouns),
    )


def prior_examples(
    class_images: ClassImages, nouns: Sequence[str | None], size: Size, encoders: CachedEncoders
) -> tuple[TrainingExample, ...]:
    """Crop and encode the class images of all classes; each class has one caption."""
    return tuple(
        replace(example, subject=nouns.index(noun))
        for noun, images in class_images.items()
        for example in class_examples(images, size, encoders, class_prompt(noun))
    )


def subject_examples(
    photo: Photo,
    size: Size,
    encoders: CachedEncoders,
    subject: Subject,
    settings: DatasetSettings,
    *,
    with_class_prompts: bool,
) -> list[TrainingExample]:
    """Crop, encode and caption one photo, and its mirror image if `settings.flip`."""
    captions = training_captions(photo, subject, settings)
    variants: tuple[CaptionVariants, ...] = ()
    if any(varies(caption, settings.tags) for caption in captions):
        variants = tuple(CaptionVariants(caption=one, subject=subject, tags=settings.tags) for one in captions)
        captions = tuple(longest_variant(caption) for caption in captions)
    prompts = tuple(fill(caption, subject) for caption in captions)
    class_prompts: tuple[str, ...] = ()
    if with_class_prompts:
        class_prompts = tuple(fill(without_token(caption, subject), subject) for caption in captions)
    examples: list[TrainingExample] = []
    for flip in (False, True) if settings.flip else (False,):
        cut = crop(photo, size, flip=flip)
        example = encode_crop(cut, encoders, prompts, photo.path)
        example = replace(example, class_prompts=class_prompts, variants=variants)
        examples.append(example if settings.masked is None else with_loss_mask(example, cut, settings.masked))
    return examples


def class_examples(
    images: Sequence[Image.Image], size: Size, encoders: CachedEncoders, caption: str
) -> tuple[TrainingExample, ...]:
    """Crop and encode class images, all with the same caption."""
    crops = [crop(Photo(path=Path(), image=image), size) for image in images]
    return tuple(encode_crop(cut, encoders, (caption,), None) for cut in crops)


def encode_crop(cut: Crop, encoders: CachedEncoders, prompts: tuple[str, ...], source: Path | None) -> TrainingExample:
    """Encode a crop as a training example with these captions."""
    latents = encoders.encode(image_to_pixels(cut.image))
    return TrainingExample(latents=latents, prompts=prompts, framing=cut.framing, source=source)


def image_to_pixels(image: Image.Image) -> Tensor:
    """Convert an image to a tensor of shape 1 x 3 x H x W with values in -1..1."""
    values = torch.from_numpy(np.asarray(image.convert("RGB")).copy())
    return values.permute(2, 0, 1)[None].float() / 127.5 - 1


def with_loss_mask(example: TrainingExample, cut: Crop, outside: float) -> TrainingExample:
    """Weight the example's loss by its mask: 1 on the subject and `outside` (0..1) elsewhere.

    The mask is averaged over the area of each latent cell. The weights are then scaled to 1 on
    average, so the loss of a small subject is not smaller.

    Raises:
        UserError: all weights are 0, so nothing of the photo would be trained on.
    """
    assert cut.mask is not None
    assert example.source is not None
    mask_11HW = torch.from_numpy(np.asarray(cut.mask, np.float32) / 255)[None, None]
    height, width = example.latents.mean_BCHW.shape[2:]
    inside_11HW = F.adaptive_avg_pool2d(mask_11HW, (height, width))
    weight_11HW = inside_11HW + outside * (1 - inside_11HW)
    if not weight_11HW.any():
        size = f"{cut.mask.width}x{cut.mask.height}"
        raise UserError(
            f"nothing of the mask of {printable(example.source)} is left in an image of {size} pixels; mark more of "
            "the photo, or give --set dataset.masked=0.1."
        )
    return replace(example, mask_11HW=weight_11HW / weight_11HW.mean())


def draw_caption(prompts: Sequence[str], generator: torch.Generator) -> str:
    """Draw one of the captions, each with the same probability."""
    return prompts[int(torch.randint(len(prompts), (), generator=generator))]


def draw_variant(
    example: TrainingExample, prompts: Sequence[str], key: tuple[int, int, int], *, of_class: bool = False
) -> str:
    """Draw one of an example's captions, and how it varies at this use.

    The key is seed, micro-batch and index. `prompts` are the example's own, or its class prompts;
    both draw the same caption and variant by the same key.
    """
    if not example.variants:
        return draw_caption(prompts, seeded(*key, "caption"))
    variants = example.variants[int(torch.randint(len(example.variants), (), generator=seeded(*key, "caption")))]
    return variants.draw(seeded(*key, "variant"), of_class=of_class)


def training_captions(photo: Photo, subject: Subject, settings: DatasetSettings) -> tuple[str, ...]:
    """Return a photo's captions, not filled, with the token inserted if `settings.insert_token`.

    The token is inserted only into the photo's own captions, never into the templates.
    """
    templates = tuple(one_line(template) for template in settings.templates)
    if not settings.insert_token or photo.captions == templates:
        return photo.captions
    return tuple(insert_token(caption, subject) for caption in photo.captions)


def training_sizes(photos: Sequence[Photo], settings: DatasetSettings, stage: Stage) -> list[Size]:
    """Return the training size of each photo: the square, or its nearest aspect bucket.

    The side is that of the settings, by default of the stage, rounded down to what the stage can
    divide.
    """
    resolution = settings.resolution or stage.resolution
    side = max(stage.multiple, resolution // stage.multiple * stage.multiple)
    if not settings.aspect_buckets:
        return [(side, side)] * len(photos)
    choices = buckets(side, stage.multiple)
    return [nearest_bucket(photo.size, choices) for photo in photos]


def check_masks(photos: Sequence[Photo]) -> None:
    """Check that every photo has a mask.

    Raises:
        UserError: photos have none; the message names up to three of them.
    """
    unmasked = [photo.path for photo in photos if photo.mask is None]
    if unmasked:
        names = ", ".join(printable(path) for path in unmasked[:3]) + (" and others" if len(unmasked) > 3 else "")
        raise UserError(
            f"the loss cannot be masked without a mask of {names}; put one beside each photo (such as "
            f"{unmasked[0].stem}.mask.png, the subject white), or give --set dataset.masked=none."
        )
