"""Score the images of a run: each metric per image, per prompt and for the run as a whole.

Shape suffixes: B images, P photos, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean

import torch
from PIL import Image
from torch import Tensor

from mascot.data.photos import Photo
from mascot.data.prompt_templates import fill
from mascot.evaluation.evaluation_task import EvaluationTask, photo_digest
from mascot.evaluation.metrics.class_drift import drift, preservation
from mascot.evaluation.metrics.default_encoders import EncoderPair
from mascot.evaluation.metrics.diversity import diversity, diversity_over, open_distance
from mascot.evaluation.metrics.foreground import NoSegmenter, Segmenter, cut_all, cutout_similarity, open_segmenter
from mascot.evaluation.metrics.memorization import copy_scores, nearest_excesses
from mascot.evaluation.metrics.prompt_fidelity import prompt_fidelity
from mascot.evaluation.metrics.subject_fidelity import real_similarity, similarity
from mascot.evaluation.samples import Samples
from mascot.evaluation.scores import ImageScores, PromptScores, Score, Scores
from mascot.generation.generator import Generator
from mascot.generation.sample_cache import Distance, ImageEncoder
from mascot.storage.image_files import open_image


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorers:
    """The models that score images: two encoders, a perceptual distance and a segmenter."""

    encoders: EncoderPair
    distance: Distance
    segmenter: Segmenter | NoSegmenter

    def describe(self) -> dict[str, str]:
        """Describe encoders and distance, each in one line."""
        return {**self.encoders.describe(), "distance": self.distance.name}


def open_scorers(encoders: EncoderPair) -> Scorers:
    """Load the distance and the segmenter that go with the encoders."""
    return Scorers(encoders=encoders, distance=open_distance(encoders.identity), segmenter=open_segmenter())


def compute_scores(
    task: EvaluationTask, samples: Samples, scorers: Scorers, *, generator: Generator, folder: Path
) -> Scores:
    """Score the generated images; file names in the scores are relative to `folder`."""
    embedded = EmbeddedSamples(task=task, samples=samples, encoders=scorers.encoders)
    per_image = embedded.per_image_values()
    distances = [
        samples.trained.sample_cache.distances(scorers.distance, files)
        for files in split_by_prompt(task, samples.trained.files)
    ]
    reasons = missing_reasons(task)
    values = {name: Score(value=None, reason=reason) for name, reason in reasons.items()}
    values |= {name: Score(value=fmean(column)) for name, column in per_image.items()}
    values |= scores_of(embedded.per_run_values() | {"diversity": diversity_over(distances)}, reasons)
    values["cutout"] = cutout_score(task, samples, scorers)
    height, width = generator.size(task.knobs)
    return Scores(
        name=task.name,
        subject=task.subject.words,
        class_noun=task.subject.class_noun,
        live=task.live,
        base=task.base,
        base_fingerprint=generator.family.identity,
        weights=samples.weights,
        photos=tuple(photo_digest(photo) for photo in task.photos),
        knobs=generator.with_defaults(task.knobs).model_copy(update={"height": height, "width": width}),
        images=task.images,
        seed=task.seed,
        encoders=scorers.describe(),
        values=values,
        prompts=tuple(prompt_scores(task, samples, per_image, distances, folder)),
        notes=tuple(notes_on(task, scorers.encoders)),
    )


def scores_of(values: Mapping[str, float | None], reasons: Mapping[str, str]) -> dict[str, Score]:
    """Turn values into scores; each missing value gets its reason."""
    return {name: Score(value=value, reason=reasons[name] if value is None else "") for name, value in values.items()}


@dataclass(frozen=True, kw_only=True)
class EmbeddedSamples:
    """Embeddings of a run's images, photos and prompts, computed on first use.

    The sample cache keeps the embeddings of images and photos.
    """

    task: EvaluationTask
    samples: Samples
    encoders: EncoderPair

    def embed_photos(self, encoder: ImageEncoder, photos: Sequence[Photo]) -> Tensor:
        """Embed photos. Shape P x D; without photos there are no rows."""
        sample_cache = self.samples.trained.sample_cache
        return sample_cache.embed_images(encoder, [photo.image for photo in photos]) if photos else torch.empty(0, 0)

    @cached_property
    def photo_identity_embeddings(self) -> Tensor:
        """The photos embedded by the identity encoder. Shape P x D."""
        return self.embed_photos(self.encoders.identity, self.task.photos)

    @cached_property
    def photo_clip_embeddings(self) -> Tensor:
        """The photos embedded by CLIP. Shape P x D."""
        return self.embed_photos(self.encoders.clip, self.task.photos)

    @cached_property
    def prompt_clip_embeddings(self) -> Tensor:
        """Each image's prompt without the token, embedded by CLIP.

        Shape B x D; without a class noun there are no rows.
        """
        prompts = self.task.prompts_without_token
        if not prompts:
            return torch.empty(0, 0)
        return self.encoders.clip.embed_prompts(prompts).repeat_interleave(self.task.images, dim=0)

    def per_image_values(self) -> dict[str, list[float]]:
        """Compute the metrics that are means over images: metric to one value for each image.

        Metrics of the base model have the prefix `base_`. Metrics that cannot be computed are left
        out.
        """
        values: dict[str, list[float]] = {}
        for prefix, images in {"": self.samples.trained, "base_": self.samples.base}.items():
            identity_BD, clip_BD = images.embed(self.encoders.identity), images.embed(self.encoders.clip)
            if self.task.photos and images.files:
                real_PD = self.photo_identity_embeddings
                values[f"{prefix}identity"] = [similarity(row_D[None], real_PD) for row_D in identity_BD]
                values[f"{prefix}clip_i"] = [similarity(row_D[None], self.photo_clip_embeddings) for row_D in clip_BD]
            if self.task.prompts_without_token:
                pairs = zip(clip_BD, self.prompt_clip_embeddings, strict=True)
                values[f"{prefix}clip_t"] = [
                    prompt_fidelity(image_D[None], prompt_D[None]) for image_D, prompt_D in pairs
                ]
        generated_BD = self.samples.trained.embed(self.encoders.identity)
        trained_PD = self.embed_photos(self.encoders.identity, self.task.training_photos)
        held_out_PD = self.embed_photos(self.encoders.identity, self.task.held_out)
        copies = {
            "copying": copy_scores(generated_BD, trained_PD, held_out_PD),
            "nearest": nearest_excesses(generated_BD, trained_PD),
        }
        return values | {name: column for name, column in copies.items() if column}

    def per_run_values(self) -> dict[str, float | None]:
        """Compute the metrics of a run as a whole; None where one cannot be computed."""
        encoder, photos_PD = self.encoders.identity, self.photo_identity_embeddings
        trained_BD, base_BD = self.samples.class_trained.embed(encoder), self.samples.class_base.embed(encoder)
        return {
            "preservation": preservation(trained_BD, photos_PD),
            "base_preservation": preservation(base_BD, photos_PD),
            "drift": drift(trained_BD, base_BD, photos_PD),
            "real_identity": real_similarity(photos_PD),
            "real_clip_i": real_similarity(self.photo_clip_embeddings),
        }


def split_by_prompt(task: EvaluationTask, files: Sequence[Path]) -> list[Sequence[Path]]:
    """Split image files into one group for each prompt."""
    return [files[start : start + task.images] for start in range(0, len(files), task.images)]


def prompt_scores(
    task: EvaluationTask,
    samples: Samples,
    per_image: Mapping[str, Sequence[float]],
    distances: Sequence[Sequence[float]],
    folder: Path,
) -> list[PromptScores]:
    """Split per-image values by prompt, and average them.

    `distances` holds the distances of all pairs of each prompt's images. File names are relative to
    `folder`.
    """
    prompts: list[PromptScores] = []
    for number, template in enumerate(task.templates):
        indices = range(number * task.images, (number + 1) * task.images)
        values = {name: fmean(column[index] for index in indices) for name, column in per_image.items()}
        spread = diversity(distances[number])
        prompts.append(
            PromptScores(
                template=template,
                prompt=fill(template, task.subject),
                values=values if spread is None else {**values, "diversity": spread},
                images=tuple(
                    ImageScores(
                        seed=task.seed + k,
                        file=samples.trained.files[index].relative_to(folder).as_posix(),
                        values={n: column[index] for n, column in per_image.items() if not n.startswith("base_")},
                    )
                    for k, index in enumerate(indices)
                ),
            )
        )
    return prompts


def cutout_score(task: EvaluationTask, samples: Samples, scorers: Scorers) -> Score:
    """Score subject fidelity without backgrounds, where there are masks or a segmenter."""
    encoder = scorers.encoders.identity
    images = [open_image(file) for file in samples.trained.files]
    no_masks: list[Image.Image | None] = [None] * len(images)
    generated, photos = (
        cut_all(some, masks, segmenter=scorers.segmenter, preprocessing=encoder.preprocessing)
        for some, masks in (
            (images, no_masks),
            ([photo.image for photo in task.photos], [photo.mask for photo in task.photos]),
        )
    )
    result = cutout_similarity(generated, photos, lambda some: samples.trained.sample_cache.embed_images(encoder, some))
    return Score(value=result.value, reason=result.note)


def missing_reasons(task: EvaluationTask) -> dict[str, str]:
    """Explain for each metric that may be missing why it would be."""
    no_photo = "no photos of the subject are known; give --photos FOLDER"
    no_noun = "the class noun is not known: train with --class-noun"
    no_photo_or_noun = no_photo if task.subject.class_noun else no_noun
    no_held_out = "no photo was held out: give --photos with photos of the subject that it was not trained on as well"
    unknown = "it is not known which photos it was trained on"
    one_photo = "one photo alone cannot be compared with itself" if task.photos else no_photo
    return {
        "identity": no_photo,
        "clip_i": no_photo,
        "clip_t": no_noun,
        "diversity": "there is one image of each prompt; give --images 2 or more",
        "preservation": no_photo_or_noun,
        "drift": no_photo_or_noun,
        "copying": no_held_out if task.training_photos else unknown,
        "nearest": "it was trained on one photo alone" if task.training_photos else unknown,
        "real_identity": one_photo,
        "real_clip_i": one_photo,
        "base_identity": no_photo_or_noun,
        "base_clip_i": no_photo_or_noun,
        "base_clip_t": no_noun,
        "base_preservation": no_photo_or_noun,
    }


def notes_on(task: EvaluationTask, encoders: EncoderPair) -> list[str]:
    """List the conditions that a reader of the scores has to know."""
    kind = "a live subject" if task.live else "an object"
    notes = [f"prompts for {kind}: {len(task.templates)}, images of each: {task.images}"]
    if task.prompts_without_token:
        notes.append(f"CLIP-T reads the prompts without the token: {task.prompts_without_token[0]!r}")
        truncated = encoders.clip.truncated(task.prompts_without_token)
        if truncated:
            notes.append(f"CLIP reads only the beginning of {len(truncated)} prompts, such as {truncated[0]!r}")
    if task.held_out:
        notes.append(
            f"subject fidelity is measured on {len(task.photos)} photos; "
            f"the run was not trained on {len(task.held_out)} of them"
        )
    return notes


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Similarity among the real photos of one subject: the ceiling for its scores."""

    name: str
    photos: int
    """Number of photos."""
    values: Mapping[str, Score]
    """The metrics `identity` and `clip_i`."""


def calibrate(name: str, photos: Sequence[Photo], encoders: EncoderPair) -> Calibration:
    """Average the cosine over all pairs of different photos.

    This is the row "Real Images" of table 1 in DreamBooth (Ruiz et al. 2023).
    """
    images = [photo.image for photo in photos]
    one_photo = "one photo alone cannot be compared with itself"
    values: dict[str, Score] = {}
    for key, encoder in (("identity", encoders.identity), ("clip_i", encoders.clip)):
        value = real_similarity(encoder.embed(images))
        values[key] = Score(value=value, reason=one_photo if value is None else "")
    return Calibration(name=name, photos=len(images), values=values)
