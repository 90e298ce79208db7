"""Selection criterion: one score from likeness, prompt fidelity and copying.

It is measured on validation prompts, so that likeness is not gained at the prompt's cost. This file
is pure logic: callers generate and measure.
"""

from __future__ import annotations

from dataclasses import dataclass

MINIMUM_GAIN = 0.01
"""Least gain in score that counts: smaller ones come and go with the seeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationResult:
    """Means over the images of validation prompts."""

    likeness: float
    """Mean cosine to the photos (see `metrics.subject_fidelity`)."""
    prompt_fidelity: float
    """CLIP-T (see `metrics.prompt_fidelity`)."""
    nearest_photo: float
    """Mean over images of the highest cosine to a training photo.

    No image counts with less than `ReferenceScores.real_nearest_photo`: otherwise the other images
    would hide a single copy.
    """


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


def score(result: ValidationResult, references: ReferenceScores) -> SelectionScore:
    """Score a validation result: the harmonic mean of likeness and prompt fidelity, less copying.

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
