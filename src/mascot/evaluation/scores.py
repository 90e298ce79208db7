"""The scores of one run, as kept in `scores.json`, and the table of all metrics.

Every number stands with the images, prompts, seeds and encoders behind it, or with the reason why
it is missing. Two runs are compared from these files alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from types import MappingProxyType
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    FiniteFloat,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from mascot.evaluation.bootstrap import Interval, bootstrap
from mascot.generation.knobs import Knobs
from mascot.storage.json_record import JsonRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric as tables show it."""

    title: str
    """Title of its column."""
    better: Literal["high", "low", ""]
    """Which values are better; empty where the metric is only read beside another."""
    description: str
    """What the number is, in one line."""


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "identity": Metric(
            title="identity",
            better="high",
            description="mean cosine of generated images and photos, by the identity encoder",
        ),
        "clip_i": Metric(title="CLIP-I", better="high", description="the same by CLIP's image encoder"),
        "clip_t": Metric(
            title="CLIP-T",
            better="high",
            description="mean cosine of images and their prompts without the token, by CLIP",
        ),
        "diversity": Metric(title="DIV", better="high", description="mean distance between the images of one prompt"),
        "preservation": Metric(
            title="PRES", better="low", description="mean cosine of images of the class and photos of the subject"
        ),
        "drift": Metric(
            title="PRES - base",
            better="low",
            description="PRES minus that of the base model; 0: the class did not change",
        ),
        "copying": Metric(
            title="copy",
            better="low",
            description="cosine to the nearest training photo, minus to the nearest held-out photo of as many",
        ),
        "nearest": Metric(
            title="nearest",
            better="",
            description="cosine to the nearest training photo, minus the photos' own nearest-neighbor cosine",
        ),
        "cutout": Metric(title="cut out", better="high", description="identity of the subject without its background"),
    }
)
"""What is measured of every run, in the order of the columns."""

REFERENCES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "real photos": {"identity": "real_identity", "clip_i": "real_clip_i"},
        "base model": {
            "identity": "base_identity",
            "clip_i": "base_clip_i",
            "clip_t": "base_clip_t",
            "preservation": "base_preservation",
        },
    }
)
"""Reference rows of a table: row title to metric to the number's name in `Scores.values`.

They are the photos among themselves, and the base model's images of the class.
"""

PER_PROMPT = ("identity", "clip_i", "clip_t", "diversity", "copying", "nearest")
"""The metrics that each prompt has by itself."""

_NAMES = {*METRICS, *(name for row in REFERENCES.values() for name in row.values())}

SEED = 0
"""Seed of the bootstraps: the same scores always have the same interval."""


class Score(BaseModel):
    """A number, or the reason why it is missing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: FiniteFloat | None
    reason: str = ""
    """Why there is no value, or a remark on the value."""

    @model_validator(mode="after")
    def check_reason(self) -> Self:
        """Refuse a missing value without a reason."""
        if self.value is None and not self.reason:
            raise ValueError("a score without a value needs a reason")
        return self


class ImageScores(BaseModel):
    """Scores of one image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    file: str
    """Path relative to the folder of the scores."""
    values: dict[str, FiniteFloat]
    """Metric to value; metrics that cannot be computed are left out."""


class PromptScores(BaseModel):
    """Scores of one prompt: means over its images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    template: str
    """The prompt with `{subject}`, the same for every subject."""
    prompt: str
    """The prompt as it was generated."""
    values: dict[str, FiniteFloat]
    """Metric of `PER_PROMPT` to mean; those of the base model have the prefix `base_`.

    Metrics that cannot be computed are left out.
    """
    images: tuple[ImageScores, ...]


class FoldScores(BaseModel):
    """Scores of one fold: a run that was trained on all photos but one.

    All cosines are by the identity encoder, averaged over the fold's images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    photo: str
    """File name of the held-out photo."""
    thumbnail: str
    """A small copy of that photo; path relative to the folder of the scores."""
    step: int
    """The step that the fold was trained to."""
    training_similarity: FiniteFloat
    """Cosine to the photos that the fold was trained on."""
    held_out_similarity: FiniteFloat
    """Cosine to the held-out photo."""
    held_out_share: FiniteFloat
    """Share of the images, 0..1, whose nearest photo is the held-out one.

    With P photos, chance gives 1 / P.
    """
    base_copying: FiniteFloat | None
    """Training similarity minus held-out similarity of the base model's images.

    They have the same prompts and seeds. None without a class noun.
    """
    images: tuple[str, ...]
    """The fold's images, prompt by prompt; paths relative to the folder of the scores."""

    @property
    def copying(self) -> float:
        """Training similarity minus held-out similarity, minus the same of the base model.

        The base model's value is what comes from the photos themselves, and not from training.
        """
        return self.training_similarity - self.held_out_similarity - (self.base_copying or 0.0)


class SubjectScores(BaseModel):
    """The scores of one of several subjects of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Its name in prompts."""
    subject: str
    """Token and class noun."""
    class_noun: str | None
    live: bool
    photos: tuple[str, ...]
    """Hashes of its photos."""
    values: dict[str, Score]
    """As `Scores.values`."""
    prompts: int
    """How many of the run's prompts are about it; those of the first subject come first."""
    notes: tuple[str, ...]


class LeakageScores(BaseModel):
    """How far images of one subject look like the photos of another (see `subject_leakage`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: str
    """Name of the subject that the images are of."""
    other: str
    """Name of the subject that the photos are of."""
    value: Score
    """0: no nearer to the other than expected; 1: like the other's photos."""
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    """Bounds of the 95 % bootstrap interval over prompts; None with one prompt."""
    similarity: FiniteFloat | None = None
    """Mean cosine of the images and the other's photos, by the identity encoder."""
    base_similarity: FiniteFloat | None = None
    """The same of the base model's images with the class noun alone."""
    photo_similarity: FiniteFloat | None = None
    """The same of the subject's own photos."""
    real_similarity: FiniteFloat | None = None
    """The same of the other's photos among themselves."""
    nearer: FiniteFloat | None = None
    """Share of the images, 0..1, that look like the other rather than like the subject."""


class JointScores(BaseModel):
    """Scores of images that should show all subjects at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    values: dict[str, Score]
    """`present`, `shown`, `clip_t`; the same of the base model with the prefix `base_`.

    `present` is the presence of the subject that an image shows least: 0 none of it, 1 like its
    photos. `shown` is the share of the images where that is at least one half.
    """
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    """Bounds of the 95 % bootstrap interval of `present` over prompts; None with one prompt."""
    prompts: tuple[PromptScores, ...]


class Scores(JsonRecord):
    """The scores of one run; with several subjects, means over them, and those of each."""

    damaged = "{path} is damaged or was written by another version of mascot; run `mascot evaluate` again."
    absent = "{folder} was not evaluated yet; run `mascot evaluate {folder}` first."

    version: Literal[1] = 1
    name: str
    """The run's name in tables."""
    subject: str
    """Token and class noun."""
    class_noun: str | None
    live: bool
    """Whether the prompts were those for live subjects."""
    base: str
    base_fingerprint: str
    weights: str
    """Hash of the base and the adapter."""
    photos: tuple[str, ...]
    """Hashes of the photos that subject fidelity is measured on."""
    knobs: Knobs
    images: int
    """Images of each prompt."""
    seed: int
    """Image k of a prompt has `seed + k`."""
    encoders: dict[str, str]
    """`identity`, `clip` and `distance`, each with weights and preprocessing in one line."""
    values: dict[str, Score]
    """Every metric, and every number of `REFERENCES`."""
    prompts: tuple[PromptScores, ...]
    notes: tuple[str, ...] = ()
    """Conditions that a reader of the numbers has to know."""
    folds: tuple[FoldScores, ...] = ()
    """Photos held out in turn, where copying was cross-validated."""
    subjects: tuple[SubjectScores, ...] = ()
    """Each of several subjects; this and what follows is not written where there is one."""
    leakage: tuple[LeakageScores, ...] = ()
    """Each ordered pair of several subjects."""
    together: JointScores | None = None
    """Images of several subjects at once, where a prompt names them all."""

    @model_serializer(mode="wrap")
    def write_subjects(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what only several subjects have, where there is one."""
        values: dict[str, Any] = handler(self)
        several = {"subjects", "leakage", "together"}
        return values if self.subjects else {key: value for key, value in values.items() if key not in several}

    @property
    def each(self) -> tuple[Scores, ...]:
        """The scores of each subject, named after it; these themselves where there is one."""
        parts: list[Scores] = []
        start = 0
        for one in self.subjects:
            own = {key: getattr(one, key) for key in ("subject", "class_noun", "live", "photos", "values", "notes")}
            prompts = self.prompts[start : start + one.prompts]
            alone = {"prompts": prompts, "subjects": (), "leakage": (), "together": None}
            parts.append(self.model_copy(update={"name": f"{self.name}: {one.name}", **own, **alone}))
            start += one.prompts
        return tuple(parts) or (self,)

    @model_validator(mode="after")
    def check_names(self) -> Self:
        """Refuse files that another version wrote."""
        for values in (self.values, *(one.values for one in self.subjects)):
            if set(values) != _NAMES:
                raise ValueError(f"scores are of {sorted(_NAMES)}, not of {sorted(values)}")
        if self.subjects and sum(one.prompts for one in self.subjects) != len(self.prompts):
            raise ValueError("the subjects' prompts are not those of the run")
        return self


def join_scores(
    parts: Sequence[Scores], names: Sequence[str], leakage: Sequence[LeakageScores], together: JointScores | None
) -> Scores:
    """Join the scores of a run's subjects; those of a single one are returned as they are."""
    if len(parts) == 1:
        return parts[0]
    nouns = [part.class_noun for part in parts]
    return parts[0].model_copy(
        update={
            "subject": " and ".join(part.subject for part in parts),
            "class_noun": None if None in nouns else ", ".join(map(str, nouns)),
            "live": all(part.live for part in parts),
            "photos": tuple(photo for part in parts for photo in part.photos),
            "values": {name: mean_score([part.values[name] for part in parts], names) for name in parts[0].values},
            "prompts": tuple(prompt for part in parts for prompt in part.prompts),
            "notes": (),
            "subjects": tuple(subject_scores(name, part) for name, part in zip(names, parts, strict=True)),
            "leakage": tuple(leakage),
            "together": together,
        }
    )


def mean_score(scores: Sequence[Score], names: Sequence[str]) -> Score:
    """Average one number over the subjects that have it; the reason names those that have not."""
    known = [score.value for score in scores if score.value is not None]
    reasons = [f"{name}: {score.reason}" for name, score in zip(names, scores, strict=True) if score.reason]
    return Score(value=fmean(known) if known else None, reason="; ".join(reasons))


def subject_scores(name: str, scores: Scores) -> SubjectScores:
    """Take from a subject's scores what differs from the other subjects'."""
    return SubjectScores(
        name=name,
        subject=scores.subject,
        class_noun=scores.class_noun,
        live=scores.live,
        photos=scores.photos,
        values=scores.values,
        prompts=len(scores.prompts),
        notes=scores.notes,
    )


def titles(scores: Sequence[Scores]) -> dict[str, str]:
    """Name the columns: metric to title; `identity` becomes `DINO` where a DINO is the encoder."""
    names = {one.encoders["identity"].partition(" (weights")[0].lower() for one in scores}
    dino = bool(names) and all("dino" in name for name in names)
    return {name: "DINO" if name == "identity" and dino else metric.title for name, metric in METRICS.items()}


def metric_title(name: str) -> str:
    """Return a metric's column title; an unknown metric keeps its name."""
    return METRICS[name].title if name in METRICS else name


def over_subjects(scores: Sequence[Scores], name: str) -> Interval | None:
    """Average one number over the runs that have it, with its bootstrap interval over runs.

    None where no run has it.
    """
    values = [one.values[name].value for one in scores]
    return bootstrap([value for value in values if value is not None], seed=SEED)


def over_prompts(scores: Scores, name: str) -> Interval | None:
    """Average one number over a run's prompts that have it, with its interval over prompts."""
    return bootstrap(prompt_values(scores, name), seed=SEED)


def prompt_values(scores: Scores, name: str) -> list[float]:
    """Return one number of each prompt that has it, in order."""
    return [prompt.values[name] for prompt in scores.prompts if name in prompt.values]


def over_folds(scores: Scores, name: str) -> Interval | None:
    """Average one attribute of `FoldScores` over folds, with its interval; None without folds."""
    return bootstrap([getattr(fold, name) for fold in scores.folds], seed=SEED)
