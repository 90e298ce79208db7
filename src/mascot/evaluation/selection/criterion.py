"""Selection criterion: one score from likeness, prompt fidelity and copying.

It is measured on validation prompts, so that likeness is not gained at the prompt's cost. This file
is pure logic: callers generate and measure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

MINIMUM_GAIN = 0.01
"""Least gain in score that counts: smaller ones come and go with the seeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationResult:
    """Means over the images of validation prompts; with several subjects, over subjects too."""

    likeness: float
    """Mean cosine to the photos (see `metrics.subject_fidelity`)."""
    prompt_fidelity: float
    """CLIP-T (see `metrics.prompt_fidelity`)."""
    nearest_photo: float
    """Mean over images of the highest cosine to a training photo.

    No image counts with less than `ReferenceScores.real_nearest_photo`: otherwise the other images
    would hide a single copy.
    """
    each: tuple[ValidationResult, ...] = ()
    """The result of each of several subjects."""


def mean_of(results: Sequence[ValidationResult]) -> ValidationResult:
    """Join the results of a run's subjects; that of a single one is returned as it is."""
    if len(results) == 1:
        return results[0]
    return ValidationResult(
        likeness=fmean(result.likeness for result in results),
        prompt_fidelity=fmean(result.prompt_fidelity for result in results),
        nearest_photo=fmean(result.nearest_photo for result in results),
        each=tuple(results),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceScores:
    """Measurements of the base model, the photos and noise, by which results are normalized."""

    base_likeness: float
    """Likeness of the base model's images of the class noun."""
    real_likeness: float | None
    """Likeness of the photos among themselves; None with one photo."""
    base_prompt_fidelity: float
    """CLIP-T of the base model's images."""
    noise_prompt_fidelity: float
    """CLIP-T of noise, the value of an image that shows nothing."""
    real_nearest_photo: float | None
    """Mean over photos of the highest cosine to another photo; None with one photo."""
    others: tuple[ReferenceScores, ...] = ()
    """Those of the other subjects; the numbers above are of the first."""

    @property
    def each(self) -> tuple[ReferenceScores, ...]:
        """The references of each subject."""
        return (self, *self.others)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionScore:
    """The score of a validation result, and the parts that it is made of."""

    likeness_gain: float
    """Likeness: 0 as the base model, 1 as real photos."""
    prompt_kept: float
    """Prompt fidelity: 0 as noise, 1 as the base model."""
    copying: float
    """How much nearer images are to a training photo than photos are to each other, 0..1."""
    total: float
    """The score, 0..1."""
    each: tuple[SelectionScore, ...] = ()
    """The scores of each of several subjects."""


def score(result: ValidationResult, references: ReferenceScores) -> SelectionScore:
    """Score a validation result; with several subjects, by the mean of their scores.

    The worst subject's score would be 0 for every checkpoint as long as one subject is not learned,
    and nothing could be selected by it.
    """
    if not result.each:
        return score_subject(result, references)
    each = tuple(score_subject(one, own) for one, own in zip(result.each, references.each, strict=True))
    return SelectionScore(
        likeness_gain=fmean(one.likeness_gain for one in each),
        prompt_kept=fmean(one.prompt_kept for one in each),
        copying=fmean(one.copying for one in each),
        total=fmean(one.total for one in each),
        each=each,
    )


def score_subject(result: ValidationResult, references: ReferenceScores) -> SelectionScore:
    """Score one subject's result: the harmonic mean of likeness and prompt fidelity, less copying.

    The harmonic mean is near the smaller of the two: a likeness of 1 with a prompt fidelity of 0
    scores 0. Likeness beyond the photos' own counts as copying too.

    Three cases have no full scale:
    - CLIP cannot tell the base model's images from noise. The prompt then counts as kept.
    - The base model is as near to the photos as they are to each other. Only what is nearer still
      is a gain.
    - There is one photo. Real photos count as a cosine of 1, and copying as 0, because it cannot be
      told from likeness.
    """
    real = 1.0 if references.real_likeness is None else references.real_likeness
    gain = normalize(result.likeness, references.base_likeness, real)
    informative = references.base_prompt_fidelity - references.noise_prompt_fidelity > MINIMUM_GAIN
    kept = (
        normalize(result.prompt_fidelity, references.noise_prompt_fidelity, references.base_prompt_fidelity)
        if informative
        else 1.0
    )
    copying = 0.0
    if references.real_nearest_photo is not None and references.real_likeness is not None:
        copying = max(
            normalize(result.nearest_photo, references.real_nearest_photo, 1.0),
            normalize(result.likeness, max(real, references.base_likeness), 1.0),
        )
    joined = 2 * gain * kept / (gain + kept) if gain + kept else 0.0
    return SelectionScore(likeness_gain=gain, prompt_kept=kept, copying=copying, total=joined * (1 - copying))


def normalize(value: float, low: float, high: float) -> float:
    """Map low..high to 0..1 and clamp; where they are equal, tell if the value is above both."""
    if high - low < 1e-6:
        return float(value > max(low, high) + MINIMUM_GAIN)
    return min(1.0, max(0.0, (value - low) / (high - low)))
