"""Validation results with known scores, for tests of selection."""

from __future__ import annotations

from mascot.evaluation.selection.criterion import ReferenceScores, ValidationResult

REFERENCES = ReferenceScores(
    base_likeness=0.28,
    real_likeness=0.92,
    base_prompt_fidelity=0.74,
    noise_prompt_fidelity=0.14,
    real_nearest_photo=0.94,
)
"""Roughly the values of the embedded base and its encoders."""


def result_with_score(total: float) -> ValidationResult:
    """A result with a given score: as much of the likeness as of the prompt, nothing copied."""
    likeness = REFERENCES.base_likeness + total * (0.92 - 0.28)
    prompt_fidelity = REFERENCES.noise_prompt_fidelity + total * (0.74 - 0.14)
    return ValidationResult(likeness=likeness, prompt_fidelity=prompt_fidelity, nearest_photo=likeness)
