"""Photos, class pictures and captions to batches: crops, buckets, latents computed once, an order that depends on the seed alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from mascot.data.crops import Crop, Size, buckets, crop, nearest_bucket
from mascot.data.encoding_cache import CachedEncoders
from mascot.data.photos import Photo
from mascot.data.prompt_templates import DEFAULT_TEMPLATE, fill, insert_token, one_line, without_token
from mascot.diffusion.noise import join_latents, seeded
from mascot.errors import UserError, printable
from mascot.protocols import Batch, Framing, Latents, Subject


class DatasetSettings(BaseModel):
    """How photos become training pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    resolution: int | None = Field(
        default=None, ge=32, le=4096, description="side of the training pictures; the base's own when not given"
    )
    aspect_buckets: bool = Field(
        default=False, description="keep wide and tall photos wide and tall, at the same number of pixels"
    )
    flip: bool = Field(default=False, description="also train on mirrored photos; wrong for asymmetric subjects")
    background: str = Field(default="white", description="colour under transparent parts")
    templates: tuple[str, ...] = Field(
        default=(DEFAULT_TEMPLATE,),
        min_length=1,
        description="captions, in turn, of photos that bring none; {token}, {class}, {subject}",
    )
    insert_token: bool = Field(
        default=False, description="put the token into photos' own captions that name neither {subject} nor {token}"
    )
    caption_dropout: float = Field(
        default=0.0, ge=0, le=1, description="chance that a photo is shown without its caption"
    )
    masked: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="how much what lies outside the subject's mask counts in the loss; none ignores masks",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingExample:
    """One picture to train on."""

    latents: Latents
    """Batch of one."""
    prompts: tuple[str, ...]
    """Captions, one of which is chosen each time."""
    framing: Framing
    source: Path | None
    """None for a class picture."""
    class_prompts: tuple[str, ...] = ()
    """The same captions without the token, one for one, where the base's own answers to them are preserved."""
    mask_11HW: Tensor | None = None
    """How much each cell of the latents counts, 1 on average; None where masks are ignored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Everything a run trains on, by size: the subject's examples and the class's."""

    subject: dict[Size, tuple[TrainingExample, ...]]
    prior: dict[Size, tuple[TrainingExample, ...]]
    prior_weight: float
    """How much what accompanies the subject counts; 0 leaves the subject alone."""
    preserve: bool = False
    """Whether the subject's own photos under the class's captions accompany it, instead of class pictures."""
    caption_dropout: float = 0.0
    """The chance that an example of the subject has no caption."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """Every distinct caption."""
        return tuple(dict.fromkeys(prompt for prompt, _ in self.pairs))

    @property
    def pairs(self) -> list[tuple[str, Framing]]:
        """Every caption with the framing that it comes with; the empty one too, where captions are dropped."""
        dropped = ("",) if self.caption_dropout else ()
        subject = [
            (prompt, e.framing) for group in self.subject.values() for e in group for prompt in (*e.prompts, *dropped)
        ]
        preserved = [
            (prompt, e.framing) for group in self.subject.values() for e in group for prompt in e.class_prompts
        ]
        prior = [(prompt, e.framing) for group in self.prior.values() for e in group for prompt in e.prompts]
        return list(dict.fromkeys(subject + preserved + prior))

    @property
    def size(self) -> int:
        """Examples of the subject."""
        return sum(len(group) for group in self.subject.values())

    def schedule(self, *, seed: int, micro_batches: int, batch_size: int) -> list[tuple[Size, tuple[int, ...]]]:
        """Plan all micro-batches of a run: sizes mixed by how many photos have them, each photo shown as often as any other of its size."""
        rng = np.random.default_rng([seed, 1])
        sizes = sorted(self.subject)
        share = np.array([len(self.subject[size]) for size in sizes], float)
        order = rng.choice(len(sizes), micro_batches, p=share / share.sum())
        queues: dict[Size, list[int]] = defaultdict(list)
        plan: list[tuple[Size, tuple[int, ...]]] = []
        for which in order:
            size = sizes[which]
            while len(queues[size]) < batch_size:
                queues[size] += rng.permutation(len(self.subject[size])).tolist()
            plan.append((size, tuple(queues[size][:batch_size])))
            del queues[size][:batch_size]
        return plan

    def batch(self, plan: tuple[Size, tuple[int, ...]], *, seed: int, number: int, share: float) -> Batch:
        """Build micro-batch `number` of a plan; each example's randomness depends on (seed, number, place) alone.

        Weights add up to `share` over the subject's examples and to `share` x prior weight over what accompanies them.
        """
        size, chosen = plan
        subject = [self.subject[size][i] for i in chosen]
        prior_examples = self.prior_examples(size, subject, seed=seed, number=number)
        examples = subject + [example for example, _ in prior_examples]
        count, others = len(subject), len(prior_examples)
        masks = [e.mask_11HW for e in subject if e.mask_11HW is not None]
        return Batch(
            latents=join_latents([example.latents for example in examples]),
            prompts=(*self.captions(subject, seed=seed, number=number), *(prompt for _, prompt in prior_examples)),
            framings=tuple(example.framing for example in examples),
            weight_B=torch.tensor([share / count] * count + [share * self.prior_weight / count] * others),
            subject_count=count,
            generators=tuple(seeded(seed, number, place) for place in range(len(examples))),
            base_target_B=torch.tensor([False] * count + [True] * others) if self.preserve and others else None,
            mask_B1HW=torch.cat(masks + [torch.ones_like(masks[0])] * others) if masks else None,
        )

    def captions(self, subject: Sequence[TrainingExample], *, seed: int, number: int) -> list[str]:
        """Draw the captions of the subject's examples, and which of them are left empty."""
        generated = [
            choose_caption(example.prompts, seeded(seed, number, place, "caption"))
            for place, example in enumerate(subject)
        ]
        dropped = [
            torch.rand((), generator=seeded(seed, number, place, "dropout")) < self.caption_dropout
            for place in range(len(subject))
        ]
        return ["" if drop else prompt for prompt, drop in zip(generated, dropped, strict=True)]

    def prior_examples(
        self, size: Size, subject: Sequence[TrainingExample], *, seed: int, number: int
    ) -> list[tuple[TrainingExample, str]]:
        """What joins the subject's examples, one each, with its caption: class pictures, or the same photos with the class's caption."""
        count, prior = len(subject), self.prior.get(size, ())
        if self.preserve and self.prior_weight:
            # The key of the subject's own caption, so that the class's version is of the same one.
            return [
                (e, choose_caption(e.class_prompts, seeded(seed, number, place, "caption")))
                for place, e in enumerate(subject)
            ]
        if not (self.prior_weight and prior):
            return []
        picked = torch.randint(len(prior), (count,), generator=seeded(seed, number, "prior")).tolist()
        shown = [prior[i] for i in picked]
        return [
            (e, choose_caption(e.prompts, seeded(seed, number, place, "caption")))
            for place, e in enumerate(shown, start=count)
        ]


def to_pixels(image: Image.Image) -> Tensor:
    """A PIL picture as 1 x 3 x H x W in -1..1."""
    values = torch.from_numpy(np.asarray(image.convert("RGB")).copy())
    return values.permute(2, 0, 1)[None].float() / 127.5 - 1


def sizes_for(photos: Sequence[Photo], settings: DatasetSettings, resolution: int, multiple: int) -> list[Size]:
    """The training size of each photo: the square, or its nearest aspect bucket."""
    side = max(multiple, resolution // multiple * multiple)
    if not settings.aspect_buckets:
        return [(side, side)] * len(photos)
    choices = buckets(side, multiple)
    return [nearest_bucket(photo.size, choices) for photo in photos]


def make_dataset(
    photos: Sequence[Photo], class_images: Sequence[Image.Image], *, encoders: CachedEncoders, subject: Subject, class_caption: str,
    settings: DatasetSettings, prior_weight: float, preserve: bool = False,
) -> Dataset:  # fmt: skip
    """Crop, encode and caption everything once; `preserve` keeps the class by the base's own answers, and takes no class pictures.

    Raises:
        UserError: masks are asked for and a photo has none, or one of which nothing is left; answers are preserved of no class noun.
    """
    assert not (preserve and class_images), "either class pictures or preserved answers accompany the subject"
    if settings.masked is not None:
        check_masks(photos)
    preserve, stage = preserve and prior_weight > 0, encoders.stage
    sizes = sizes_for(photos, settings, settings.resolution or stage.resolution, stage.multiple)
    groups: dict[Size, list[TrainingExample]] = defaultdict(list)
    for photo, size in zip(photos, sizes, strict=True):
        captions = captions_of(photo, subject, settings)
        prompts = tuple(fill(caption, subject) for caption in captions)
        class_prompts = (
            tuple(fill(without_token(caption, subject), subject) for caption in captions) if preserve else ()
        )
        for flip in (False, True) if settings.flip else (False,):
            cut = crop(photo, size, flip=flip)
            example = replace(encode_crop(cut, encoders, prompts, photo.path), class_prompts=class_prompts)
            groups[size].append(example if settings.masked is None else weighted_by_mask(example, cut, settings.masked))
    prior: dict[Size, tuple[TrainingExample, ...]] = {}
    if prior_weight:
        for size in groups:
            cuts = [crop(Photo(path=Path(), image=p), size) for p in class_images]
            prior[size] = tuple(encode_crop(cut, encoders, (class_caption,), None) for cut in cuts)
    taught = {size: tuple(group) for size, group in groups.items()}
    return Dataset(
        subject=taught,
        prior=prior,
        prior_weight=prior_weight,
        preserve=preserve,
        caption_dropout=settings.caption_dropout,
    )


def captions_of(photo: Photo, subject: Subject, settings: DatasetSettings) -> tuple[str, ...]:
    """A photo's captions, not yet filled; the token is put into its own ones on request, never into the templates."""
    usual = tuple(one_line(template) for template in settings.templates)
    if not settings.insert_token or photo.captions == usual:
        return photo.captions
    return tuple(insert_token(caption, subject) for caption in photo.captions)


def check_masks(photos: Sequence[Photo]) -> None:
    """Raise UserError, with their names, where photos have no mask."""
    bare = [photo.path for photo in photos if photo.mask is None]
    if bare:
        names = ", ".join(printable(path) for path in bare[:3]) + (" and others" if len(bare) > 3 else "")
        raise UserError(
            f"the loss cannot be masked without a mask of {names}; put one beside each photo (such as {bare[0].stem}.mask.png, the subject "
            "white), or give --set dataset.masked=none."
        )


def weighted_by_mask(example: TrainingExample, cut: Crop, outside: float) -> TrainingExample:
    """The same example, with what lies outside its subject counting `outside` (0..1) in the loss.

    The mask is averaged over the area of each cell of the latents and made 1 on average, so that a small subject's loss is not smaller.
    Raises UserError where it would leave nothing to learn from.
    """
    assert cut.mask is not None
    assert example.source is not None
    inside = torch.from_numpy(np.asarray(cut.mask, np.float32) / 255)[None, None]
    height, width = example.latents.mean_BCHW.shape[2:]
    share = F.adaptive_avg_pool2d(inside, (height, width))
    counts = share + outside * (1 - share)
    if not counts.any():
        size = f"{cut.mask.width}x{cut.mask.height}"
        raise UserError(
            f"nothing of the mask of {printable(example.source)} is left in a picture of {size} pixels; mark more of the photo, "
            "or give --set dataset.masked=0.1."
        )
    return replace(example, mask_11HW=counts / counts.mean())


def choose_caption(prompts: Sequence[str], generator: torch.Generator) -> str:
    """Draw one of the captions, each as likely."""
    return prompts[int(torch.randint(len(prompts), (), generator=generator))]


def encode_crop(cut: Crop, encoders: CachedEncoders, prompts: tuple[str, ...], source: Path | None) -> TrainingExample:
    """Encode one crop."""
    return TrainingExample(
        latents=encoders.encode(to_pixels(cut.image)), prompts=prompts, framing=cut.framing, source=source
    )
