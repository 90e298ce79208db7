"""How good a run is: ask the judges about each picture, once, and write down every number with what it is of.

Shape suffixes: B pictures, P photos, D width of an embedding.
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
    """Everything that judges pictures."""

    encoders: EncoderPair
    distance: Distance
    segmenter: Segmenter | NoSegmenter

    def describe(self) -> dict[str, str]:
        """Say what judges, each in one line."""
        return {**self.encoders.describe(), "distance": self.distance.name}


def measure(task: EvaluationTask, samples: Samples, scorers: Scorers, *, generator: Generator, folder: Path) -> Scores:
    """Score what was drawn; files are named from `folder`."""
    seen = EmbeddedSamples(task=task, samples=samples, encoders=scorers.encoders)
    columns = seen.columns()
    pairs = [
        samples.trained.sample_cache.distances(scorers.distance, files)
        for files in by_prompt(task, samples.trained.files)
    ]
    values = {name: Score(value=fmean(column)) for name, column in columns.items()}
    values |= scores_of(seen.whole() | {"diversity": diversity_over(pairs)}, missing(task))
    values["cutout"] = cut_out_score(task, samples, scorers)
    reasons = {name: Score(value=None, reason=reason) for name, reason in missing(task).items()}
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
        values=reasons | values,
        prompts=tuple(prompt_rows(task, samples, columns, pairs, folder)),
        notes=tuple(notes(task, scorers.encoders)),
    )


def scores_of(values: Mapping[str, float | None], reasons: Mapping[str, str]) -> dict[str, Score]:
    """Give each missing value its reason."""
    return {name: Score(value=value, reason=reasons[name] if value is None else "") for name, value in values.items()}


@dataclass(frozen=True, kw_only=True)
class EmbeddedSamples:
    """What the judges see, embedded when it is first asked for; the gallery keeps it."""

    task: EvaluationTask
    samples: Samples
    encoders: EncoderPair

    def photos(self, encoder: ImageEncoder, photos: Sequence[Photo]) -> Tensor:
        """Embed photos. Shape P x D, without rows where there are none."""
        sample_cache = self.samples.trained.sample_cache
        return sample_cache.embed_images(encoder, [photo.image for photo in photos]) if photos else torch.empty(0, 0)

    @cached_property
    def real_identity(self) -> Tensor:
        """The photos, by the encoder of identity. Shape P x D."""
        return self.photos(self.encoders.identity, self.task.photos)

    @cached_property
    def real_clip(self) -> Tensor:
        """The photos, by CLIP. Shape P x D."""
        return self.photos(self.encoders.clip, self.task.photos)

    @cached_property
    def asked(self) -> Tensor:
        """The prompt of each picture, without the token, by CLIP. Shape B x D; no rows without a class noun."""
        if not self.task.plain:
            return torch.empty(0, 0)
        return self.encoders.clip.embed_prompts(self.task.plain).repeat_interleave(self.task.images, dim=0)

    def columns(self) -> dict[str, list[float]]:
        """A value for each picture, for every metric that is a mean over pictures and can be computed."""
        columns: dict[str, list[float]] = {}
        for prefix, images in {"": self.samples.trained, "base_": self.samples.base}.items():
            identity_BD, clip_BD = images.embed(self.encoders.identity), images.embed(self.encoders.clip)
            if self.task.photos and images.files:
                columns[f"{prefix}identity"] = [similarity(row_D[None], self.real_identity) for row_D in identity_BD]
                columns[f"{prefix}clip_i"] = [similarity(row_D[None], self.real_clip) for row_D in clip_BD]
            if self.task.plain:
                rows = zip(clip_BD, self.asked, strict=True)
                columns[f"{prefix}clip_t"] = [
                    prompt_fidelity(picture_D[None], prompt_D[None]) for picture_D, prompt_D in rows
                ]
        generated_BD = self.samples.trained.embed(self.encoders.identity)
        trained_PD, held_out_PD = (
            self.photos(self.encoders.identity, some) for some in (self.task.trained, self.task.held_out)
        )
        copies = {
            "copying": copy_scores(generated_BD, trained_PD, held_out_PD),
            "nearest": nearest_excesses(generated_BD, trained_PD),
        }
        return columns | {name: column for name, column in copies.items() if column}

    def whole(self) -> dict[str, float | None]:
        """The metrics that are of a run as a whole, not of a picture."""
        encoder, photos_PD = self.encoders.identity, self.real_identity
        now_BD, before_BD = self.samples.class_trained.embed(encoder), self.samples.class_base.embed(encoder)
        return {
            "preservation": preservation(now_BD, photos_PD),
            "base_preservation": preservation(before_BD, photos_PD),
            "drift": drift(now_BD, before_BD, photos_PD),
            "real_identity": real_similarity(photos_PD),
            "real_clip_i": real_similarity(self.real_clip),
        }


def by_prompt(task: EvaluationTask, files: Sequence[Path]) -> list[Sequence[Path]]:
    """The pictures prompt by prompt."""
    return [files[start : start + task.images] for start in range(0, len(files), task.images)]


def prompt_rows(
    task: EvaluationTask,
    samples: Samples,
    columns: Mapping[str, Sequence[float]],
    pairs: Sequence[Sequence[float]],
    folder: Path,
) -> list[PromptScores]:
    """Split the columns by prompt."""
    rows: list[PromptScores] = []
    for number, template in enumerate(task.templates):
        places = range(number * task.images, (number + 1) * task.images)
        values = {name: fmean(column[place] for place in places) for name, column in columns.items()}
        spread = diversity(pairs[number])
        rows.append(
            PromptScores(
                template=template,
                prompt=fill(template, task.subject),
                values=values if spread is None else {**values, "diversity": spread},
                images=tuple(
                    ImageScores(
                        seed=task.seed + k,
                        file=samples.trained.files[place].relative_to(folder).as_posix(),
                        values={
                            name: column[place] for name, column in columns.items() if not name.startswith("base_")
                        },
                    )
                    for k, place in enumerate(places)
                ),
            )
        )
    return rows


def cut_out_score(task: EvaluationTask, samples: Samples, scorers: Scorers) -> Score:
    """Likeness of the subject cut out of its background, where there are masks or something that makes them."""
    encoder = scorers.encoders.identity
    images = [open_image(file) for file in samples.trained.files]
    bare: list[Image.Image | None] = [None] * len(images)
    generated, photos = (
        cut_all(some, masks, segmenter=scorers.segmenter, preprocessing=encoder.preprocessing)
        for some, masks in (
            (images, bare),
            ([photo.image for photo in task.photos], [photo.mask for photo in task.photos]),
        )
    )
    found = cutout_similarity(generated, photos, lambda some: samples.trained.sample_cache.embed_images(encoder, some))
    return Score(value=found.value, reason=found.note)


def missing(task: EvaluationTask) -> dict[str, str]:
    """Why each number that may be missing would be."""
    no_photo = "no photos of the subject are known; give --photos FOLDER"
    no_noun = "the class noun is not known: train with --class-noun"
    of_base = no_photo if task.subject.class_noun else no_noun
    copying = "no photo was held out: give --photos with photos of the subject that it did not learn from as well"
    unknown = "it is not known what it learned from"
    alone = "one photo alone cannot be compared with itself" if task.photos else no_photo
    return {
        "identity": no_photo,
        "clip_i": no_photo,
        "clip_t": no_noun,
        "diversity": "there is one picture of each prompt; give --images 2 or more",
        "preservation": of_base,
        "drift": of_base,
        "copying": copying if task.trained else unknown,
        "nearest": "it learned from one photo alone" if task.trained else unknown,
        "real_identity": alone,
        "real_clip_i": alone,
        "base_identity": of_base,
        "base_clip_i": of_base,
        "base_clip_t": no_noun,
        "base_preservation": of_base,
    }


def notes(task: EvaluationTask, encoders: EncoderPair) -> list[str]:
    """What has to be known to read the numbers."""
    said = [
        f"drawn as a {'live subject' if task.live else 'thing'}: {len(task.templates)} prompts, pictures of each: {task.images}"
    ]
    if task.plain:
        said.append(f"CLIP-T reads the prompts without the token: {task.plain[0]!r}")
        cut = encoders.clip.truncated(task.plain)
        if cut:
            said.append(f"CLIP hears only the beginning of {len(cut)} prompts, such as {cut[0]!r}")
    if task.held_out:
        said.append(
            f"likeness is measured on {len(task.photos)} photos, {len(task.held_out)} of which it did not learn from"
        )
    return said


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Real photos of one subject against each other: the ceiling that scores are read against."""

    name: str
    photos: int
    values: Mapping[str, Score]
    """`identity` and `clip_i`."""


def calibrate(name: str, photos: Sequence[Photo], encoders: EncoderPair) -> Calibration:
    """Average the cosine over all pairs of different photos: the row "Real Images" of the paper's table 1."""
    images = [photo.image for photo in photos]
    alone = "one photo alone cannot be compared with itself"
    values: dict[str, Score] = {}
    for key, encoder in (("identity", encoders.identity), ("clip_i", encoders.clip)):
        found = real_similarity(encoder.embed(images))
        values[key] = Score(value=found, reason=alone if found is None else "")
    return Calibration(name=name, photos=len(images), values=values)


def open_scorers(encoders: EncoderPair) -> Scorers:
    """The judges, with all that measures besides."""
    return Scorers(encoders=encoders, distance=open_distance(encoders.identity), segmenter=open_segmenter())
