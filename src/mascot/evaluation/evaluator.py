"""Score the images of a run: each metric per image, per prompt and for the run as a whole.

Shape suffixes: B images, P photos, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from PIL import Image

from mascot.data.photos import Photo
from mascot.data.prompt_templates import fill
from mascot.evaluation.bootstrap import bootstrap
from mascot.evaluation.evaluation_task import EvaluationTask, photo_digest
from mascot.evaluation.metrics.default_encoders import EncoderPair
from mascot.evaluation.metrics.diversity import diversity, diversity_over, open_distance
from mascot.evaluation.metrics.foreground import NoSegmenter, Segmenter, cut_all, cutout_similarity, open_segmenter
from mascot.evaluation.metrics.subject_fidelity import real_similarity
from mascot.evaluation.metrics.subject_leakage import (
    PRESENT,
    Leak,
    PresenceScale,
    all_present,
    cut_strips,
    middle_strip,
    presence_scale,
)
from mascot.evaluation.samples import EmbeddedSamples, ImageSet, Samples
from mascot.evaluation.scores import SEED, ImageScores, JointScores, LeakageScores, PromptScores, Score, Scores
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
    for number in range(len(task.templates)):
        prompt, spread = scores_of_prompt(task, samples, per_image, number, folder), diversity(distances[number])
        diverse = {} if spread is None else {"diversity": spread}
        prompts.append(prompt.model_copy(update={"values": {**prompt.values, **diverse}}))
    return prompts


def leakage_between(
    tasks: Sequence[EvaluationTask], samples: Sequence[Samples], scorers: Scorers
) -> list[LeakageScores]:
    """Score the leakage between all pairs of a run's subjects; empty where there is one."""
    return [
        leakage_scores(str(task.subject.name), other, leak)
        for task, own in zip(tasks, samples, strict=True)
        for other, leak in EmbeddedSamples(task=task, samples=own, encoders=scorers.encoders).leaks().items()
    ]


def leakage_scores(subject: str, other: str, leak: Leak | str) -> LeakageScores:
    """Turn a measured leak into scores, with its interval over prompts."""
    if isinstance(leak, str):
        return LeakageScores(subject=subject, other=other, value=Score(value=None, reason=leak))
    interval = bootstrap(leak.values, seed=SEED)
    return LeakageScores(
        subject=subject,
        other=other,
        value=Score(value=None if interval is None else interval.mean, reason=leak.reason),
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        similarity=leak.similarity,
        base_similarity=leak.base_similarity,
        photo_similarity=leak.photo_similarity,
        real_similarity=leak.real_similarity,
        nearer=leak.nearer,
    )


def compute_joint_scores(
    tasks: Sequence[EvaluationTask], joint: EvaluationTask, samples: Samples, scorers: Scorers, folder: Path
) -> JointScores:
    """Score images that should show all subjects; `tasks` are those of each subject alone.

    File names are relative to `folder`.
    """
    embedded = EmbeddedSamples(task=joint, samples=samples, encoders=scorers.encoders)
    fidelity = {name: column for name, column in embedded.per_image_values().items() if name.endswith("clip_t")}
    scales = presence_scales(tasks, embedded)
    columns: dict[str, Sequence[float]] = dict(fidelity)
    if not isinstance(scales, str):
        for prefix, images in {"": samples.trained, "base_": samples.base}.items():
            if images.files:
                columns[f"{prefix}present"] = presences(images, scales, scorers.encoders.identity)
    noun = "a class noun is not known: train with --class-noun"
    unmeasured = scales if isinstance(scales, str) else noun
    values: dict[str, Score] = {}
    for prefix in ("", "base_"):
        present = columns.get(f"{prefix}present", [])
        shown = [float(value >= PRESENT) for value in present]
        for name, column, reason in (
            ("present", present, unmeasured),
            ("shown", shown, unmeasured),
            ("clip_t", columns.get(f"{prefix}clip_t", []), noun),
        ):
            score = Score(value=fmean(column)) if column else Score(value=None, reason=reason)
            values[f"{prefix}{name}"] = score
    prompts = tuple(scores_of_prompt(joint, samples, columns, number, folder) for number in range(len(joint.templates)))
    interval = bootstrap([prompt.values["present"] for prompt in prompts if "present" in prompt.values], seed=SEED)
    return JointScores(
        values=values,
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        prompts=prompts,
    )


def scores_of_prompt(
    task: EvaluationTask, samples: Samples, columns: Mapping[str, Sequence[float]], number: int, folder: Path
) -> PromptScores:
    """Average the values of one prompt's images."""
    indices = range(number * task.images, (number + 1) * task.images)
    return PromptScores(
        template=task.templates[number],
        prompt=fill(task.templates[number], task.subject),
        values={name: fmean(column[index] for index in indices) for name, column in columns.items()},
        images=tuple(
            ImageScores(
                seed=task.seed + k,
                file=samples.trained.files[index].relative_to(folder).as_posix(),
                values={name: column[index] for name, column in columns.items() if not name.startswith("base_")},
            )
            for k, index in enumerate(indices)
        ),
    )


def presence_scales(tasks: Sequence[EvaluationTask], embedded: EmbeddedSamples) -> Mapping[str, PresenceScale] | str:
    """Make the scale of each subject's presence; a sentence where one of them has none."""
    if not all(task.photos for task in tasks):
        return "no photos of the subjects are known; give --photos once for each of them"
    encoder = embedded.encoders.identity
    cache = embedded.samples.trained.sample_cache

    def strips(photos: Sequence[Photo]) -> list[Image.Image]:
        return [middle_strip(photo.image, len(tasks)) for photo in photos]

    cut = [cache.embed_images(encoder, strips(task.photos)) for task in tasks]
    scales: dict[str, PresenceScale] = {}
    for index, task in enumerate(tasks):
        others = [strip for number, strip in enumerate(cut) if number != index]
        scale = presence_scale(embedded.embed_photos(encoder, task.photos), cut[index], others)
        if isinstance(scale, str):
            return f"{task.subject.name}: {scale}"
        scales[str(task.subject.name)] = scale
    return scales


def presences(images: ImageSet, scales: Mapping[str, PresenceScale], encoder: ImageEncoder) -> list[float]:
    """Measure the presence of the subject that each image shows least."""
    count = len(scales)
    cut = [strip for file in images.files for strip in cut_strips(open_image(file), count)]
    strips_BD = images.sample_cache.embed_images(encoder, cut)
    rows = {name: scale.presence(strips_BD) for name, scale in scales.items()}
    return [
        all_present({name: row[start : start + count] for name, row in rows.items()})
        for start in range(0, len(cut), count)
    ]


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
    once = " once for each subject" if task.other_photos else ""
    no_photo = f"no photos of the subject are known; give --photos FOLDER{once}"
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
        notes.append(f"CLIP-T reads the prompts without the token: {task.clip_prompts[0]!r}")
        truncated = encoders.clip.truncated(task.clip_prompts)
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
