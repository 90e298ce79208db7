"""Which checkpoint, and which inference knobs: measured on validation prompts, so that likeness is not bought with the prompt.

Pure logic: whoever draws and measures calls it with numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

MINIMUM_GAIN = 0.01
"""The least gain in score that counts as one: smaller ones come and go with the seeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationResult:
    """What pictures of validation prompts came to."""

    likeness: float
    """Mean cosine to the photos (metrics/subject.py)."""
    prompt: float
    """CLIP-T (metrics/prompt.py)."""
    nearest: float
    """Mean over pictures of the highest cosine to a photo that was trained on, none counted below `ReferenceScores.real_nearest`: so one copy among
    many is not hidden by the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceScores:
    """Between what the measured lies."""

    base_likeness: float
    """Of the untouched base, asked for the class."""
    real_likeness: float | None
    """Of photos among themselves; None with one photo."""
    base_prompt: float
    floor_prompt: float
    """CLIP-T of noise: what a picture gets that shows nothing."""
    real_nearest: float | None
    """Mean over photos of the highest cosine to another photo; None with one photo."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionScore:
    """How good some pictures are, and why."""

    gain: float
    """Likeness, 0 at the untouched base and 1 at real photos."""
    kept: float
    """Prompt fidelity, 0 at the floor and 1 at the base's own."""
    copying: float
    """How far pictures are nearer to a training photo than photos are to each other, 0..1."""
    total: float


def score(measured: ValidationResult, references: ReferenceScores) -> SelectionScore:
    """Join likeness and prompt fidelity by their harmonic mean, less the share that is copied; all in 0..1.

    Likeness beyond the photos' own is copying too. Where CLIP cannot tell the base's own pictures from noise, prompts say nothing and count
    as kept; where the base is as near to the photos as they are to each other, only what is nearer still is a gain.
    A harmonic mean is near the smaller of two: a likeness of 1 with a prompt of 0 is worth nothing. With one photo real photos count as
    1 apart from nothing (a cosine of 1), and copying cannot be told from likeness: it is 0.
    """
    real = 1.0 if references.real_likeness is None else references.real_likeness
    gain = normalized(measured.likeness, references.base_likeness, real)
    says = references.base_prompt - references.floor_prompt > MINIMUM_GAIN
    kept = normalized(measured.prompt, references.floor_prompt, references.base_prompt) if says else 1.0
    copying = 0.0
    if references.real_nearest is not None and references.real_likeness is not None:
        copying = max(
            normalized(measured.nearest, references.real_nearest, 1.0),
            normalized(measured.likeness, max(real, references.base_likeness), 1.0),
        )
    joined = 2 * gain * kept / (gain + kept) if gain + kept else 0.0
    return SelectionScore(gain=gain, kept=kept, copying=copying, total=joined * (1 - copying))


def normalized(value: float, low: float, high: float) -> float:
    """Where a value lies between two others, 0..1; where these are not apart, whether it lies above both."""
    if high - low < 1e-6:
        return float(value > max(low, high) + MINIMUM_GAIN)
    return min(1.0, max(0.0, (value - low) / (high - low)))
