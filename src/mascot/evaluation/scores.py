"""What was measured of one run: every number with the pictures, prompts, seeds and encoders that it is of, or the reason why it is missing.

It is kept as `scores.json` in the run's folder; two runs are compared from those files alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, FiniteFloat, model_validator

from mascot.evaluation.bootstrap import Interval, bootstrap
from mascot.generation.knobs import Knobs
from mascot.storage.json_record import JsonRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A question that is answered with a number."""

    title: str
    """Over its column."""
    good: Literal["high", "low", ""]
    """Which way is better; neither, where it is read beside another."""
    means: str
    """What the number is, in a line."""


METRICS: Mapping[str, Metric] = MappingProxyType({
    "identity": Metric(title="identity", good="high", means="mean cosine of drawings and photos, by the encoder of identity"),
    "clip_i": Metric(title="CLIP-I", good="high", means="the same by CLIP's picture encoder"),
    "clip_t": Metric(title="CLIP-T", good="high", means="mean cosine of drawings and their prompts, from which the token is removed"),
    "diversity": Metric(title="DIV", good="high", means="mean distance of drawings of one prompt"),
    "preservation": Metric(title="PRES", good="low", means="mean cosine of drawings of the class and photos of the subject"),
    "drift": Metric(title="PRES - base", good="low", means="PRES less that of the untouched base; 0: the class was left alone"),
    "copying": Metric(title="copy", good="low", means="nearest photo that it learned from, less the nearest held out, of as many"),
    "nearest": Metric(title="nearest", good="", means="nearest photo that it learned from, less how near those are to each other"),
    "cutout": Metric(title="cut out", good="high", means="identity of the subject cut out of its background"),
})  # fmt: skip
"""What is measured of every run, in the order of the columns."""


REFERENCES: Mapping[str, Mapping[str, str]] = MappingProxyType({
    "real photos": {"identity": "real_identity", "clip_i": "real_clip_i"},
    "untouched base": {
        "identity": "base_identity", "clip_i": "base_clip_i", "clip_t": "base_clip_t", "preservation": "base_preservation",
    },
})  # fmt: skip
"""Rows that scores are read against: the photos among themselves, and what the base draws of the class before it learned."""


PER_PROMPT = ("identity", "clip_i", "clip_t", "diversity", "copying", "nearest")
"""The metrics that each prompt has by itself."""


_NAMES = {*METRICS, *(name for row in REFERENCES.values() for name in row.values())}


SEED = 0
"""Of the bootstraps: the same scores always have the same interval."""


class Score(BaseModel):
    """A number, or the reason why there is none; never both, never neither."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: FiniteFloat | None
    reason: str = ""
    """Why there is no value, or what is to be said of it."""

    @model_validator(mode="after")
    def check_reason(self) -> Self:
        """Refuse silence."""
        if self.value is None and not self.reason:
            raise ValueError("a score without a value needs a reason")
        return self


class ImageScores(BaseModel):
    """One picture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    file: str
    """From the folder of the scores."""
    values: dict[str, FiniteFloat]
    """By metric; those that cannot be computed are left out."""


class PromptScores(BaseModel):
    """One prompt: means over its pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    template: str
    """With `{subject}`: the same for every subject."""
    prompt: str
    """As it was drawn."""
    values: dict[str, FiniteFloat]
    """By metric of `PER_PROMPT`, and of the untouched base where it drew the prompt too; those that cannot be computed are left out."""
    images: tuple[ImageScores, ...]


class FoldScores(BaseModel):
    """One photo held out: what a run that learned from the others, and nothing else, draws of it.

    All cosines are by the encoder of identity, means over the fold's pictures.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    photo: str
    """The name of the photo that was held out."""
    shown: str
    """A small copy of it, from the folder of the scores."""
    step: int
    """The step that the run trained to."""
    likeness: FiniteFloat
    """Cosine to the photos that it learned from."""
    generalisation: FiniteFloat
    """Cosine to the photo that was held out."""
    nearest: FiniteFloat
    """Share of the pictures that are nearer to the photo held out than to any other, 0..1; by chance 1 of all photos."""
    base_copying: FiniteFloat | None
    """Likeness less generalisation of what the untouched base draws at the same prompts and seeds; None without a class noun."""
    images: tuple[str, ...]
    """What it drew, prompt by prompt, from the folder of the scores."""

    @property
    def copying(self) -> float:
        """Likeness less generalisation, less the untouched base's: what of it came by learning."""
        return self.likeness - self.generalisation - (self.base_copying or 0.0)


class Scores(JsonRecord):
    """How good one run is."""

    damaged = "{path} is damaged or was written by another version of mascot; run `mascot evaluate` again."
    absent = "{folder} was not evaluated yet; run `mascot evaluate {folder}` first."

    version: Literal[1] = 1
    name: str
    """What the run is called in tables."""
    subject: str
    """Token and class noun."""
    class_noun: str | None
    live: bool
    """Whether it was asked to wear things."""
    base: str
    base_fingerprint: str
    weights: str
    """The adapter and the base, hashed."""
    photos: tuple[str, ...]
    """The photos that likeness is measured on, hashed."""
    knobs: Knobs
    images: int
    """Pictures of each prompt."""
    seed: int
    """Picture k of a prompt has seed + k."""
    encoders: dict[str, str]
    """What judged: `identity`, `clip` and `distance`, each with weights and preprocessing in one line."""
    values: dict[str, Score]
    """By metric, and the numbers of `REFERENCES`."""
    prompts: tuple[PromptScores, ...]
    notes: tuple[str, ...] = ()
    """What else has to be known to read the numbers."""
    folds: tuple[FoldScores, ...] = ()
    """Photos held out in turn, where copying was cross-validated."""

    @model_validator(mode="after")
    def check_names(self) -> Self:
        """Refuse files that another version wrote."""
        if set(self.values) != _NAMES:
            raise ValueError(f"scores are of {sorted(_NAMES)}, not of {sorted(self.values)}")
        return self


def titles(scores: Sequence[Scores]) -> dict[str, str]:
    """Name the columns by metric: `DINO` where a DINO judged identity, and else `identity`."""
    names = {one.encoders["identity"].partition(" (weights")[0].lower() for one in scores}
    dino = bool(names) and all("dino" in name for name in names)
    return {name: "DINO" if name == "identity" and dino else metric.title for name, metric in METRICS.items()}


def title_of(name: str) -> str:
    """What a metric is called over its column; one that is not ours keeps its name."""
    return METRICS[name].title if name in METRICS else name


def over_subjects(scores: Sequence[Scores], name: str) -> Interval | None:
    """Average one number over the runs that have it, a row each, with its bootstrap interval; None where none has it."""
    values = [one.values[name].value for one in scores]
    return bootstrap([value for value in values if value is not None], seed=SEED)


def over_prompts(scores: Scores, name: str) -> Interval | None:
    """Average one number over a run's prompts that have it, with its bootstrap interval: how far other prompts would move it."""
    return bootstrap(prompt_values(scores, name), seed=SEED)


def prompt_values(scores: Scores, name: str) -> list[float]:
    """One number of each of a run's prompts that have it, in order."""
    return [prompt.values[name] for prompt in scores.prompts if name in prompt.values]


def over_folds(scores: Scores, name: str) -> Interval | None:
    """Average one number of `FoldScores` over the photos held out, with its bootstrap interval; None without folds."""
    return bootstrap([getattr(fold, name) for fold in scores.folds], seed=SEED)
