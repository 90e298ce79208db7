"""Laws of the selection criterion: likeness and prompt fidelity count, copying is penalized."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mascot.evaluation.selection.criterion import ReferenceScores, ValidationResult, score
from tiny.validation_results import REFERENCES

TRAINED = ValidationResult(likeness=0.58, prompt_fidelity=0.60, nearest_photo=0.65)

cosines = st.floats(-1, 1)
results = st.builds(ValidationResult, likeness=cosines, prompt_fidelity=cosines, nearest_photo=cosines)
any_references = st.builds(
    ReferenceScores,
    base_likeness=cosines,
    real_likeness=st.none() | cosines,
    base_prompt_fidelity=cosines,
    noise_prompt_fidelity=cosines,
    real_nearest_photo=st.none() | cosines,
)
gains = st.floats(0, 0.5)


@given(result=results, references=any_references)
def test_every_score_is_a_number_between_0_and_1(result: ValidationResult, references: ReferenceScores) -> None:
    found = score(result, references)
    assert all(
        0 <= value <= 1 for value in (found.likeness_gain, found.prompt_kept, found.copying, found.total)
    )  # no comparison holds for NaN


@given(prompt_fidelity=cosines, references=any_references)
def test_the_base_model_scores_0(prompt_fidelity: float, references: ReferenceScores) -> None:
    if references.base_likeness <= (1.0 if references.real_likeness is None else references.real_likeness):
        assert (
            score(
                ValidationResult(
                    likeness=references.base_likeness,
                    prompt_fidelity=prompt_fidelity,
                    nearest_photo=references.base_likeness,
                ),
                references,
            ).total
            == 0
        )


def test_real_photos_with_the_base_model_s_prompt_fidelity_score_1() -> None:
    assert score(ValidationResult(likeness=0.92, prompt_fidelity=0.74, nearest_photo=0.94), REFERENCES).total == 1


@given(result=results, more=gains)
def test_more_likeness_or_prompt_fidelity_never_lowers_the_score_and_more_copying_never_raises_it(
    result: ValidationResult, more: float
) -> None:
    """This holds for likeness up to the photos' own, beyond which it is copying."""
    total = score(result, REFERENCES).total
    most = max(result.likeness, REFERENCES.real_likeness or 1.0)
    assert score(replace(result, likeness=min(result.likeness + more, most)), REFERENCES).total >= total
    assert score(replace(result, prompt_fidelity=result.prompt_fidelity + more), REFERENCES).total >= total
    assert score(replace(result, nearest_photo=result.nearest_photo + more), REFERENCES).total <= total


def test_both_count_where_neither_is_at_its_limit() -> None:
    total = score(TRAINED, REFERENCES).total
    assert score(replace(TRAINED, likeness=0.60), REFERENCES).total > total
    assert score(replace(TRAINED, prompt_fidelity=0.62), REFERENCES).total > total


@given(result=results, references=any_references)
def test_neither_makes_up_for_the_other(result: ValidationResult, references: ReferenceScores) -> None:
    found = score(result, references)
    assert found.total <= 2 * min(found.likeness_gain, found.prompt_kept) + 1e-12
    assert found.total <= max(found.likeness_gain, found.prompt_kept) + 1e-12


def test_a_perfect_likeness_that_ignores_the_prompt_scores_0() -> None:
    assert (
        score(
            ValidationResult(likeness=0.92, prompt_fidelity=REFERENCES.noise_prompt_fidelity, nearest_photo=0.94),
            REFERENCES,
        ).total
        == 0
    )


def test_copying_lowers_the_score_and_copies_score_0() -> None:
    good = ValidationResult(likeness=0.90, prompt_fidelity=0.70, nearest_photo=0.94)
    assert score(replace(good, nearest_photo=0.97), REFERENCES).total == pytest.approx(
        score(good, REFERENCES).total / 2
    )
    assert score(replace(good, nearest_photo=1.0), REFERENCES).total == 0


def test_images_as_near_to_a_photo_as_photos_are_to_each_other_are_no_copies() -> None:
    assert score(replace(TRAINED, nearest_photo=0.94), REFERENCES) == score(
        replace(TRAINED, nearest_photo=0.5), REFERENCES
    )


def test_with_one_photo_the_scale_ends_at_the_photo_and_nothing_is_a_copy() -> None:
    alone = replace(REFERENCES, real_likeness=None, real_nearest_photo=None)
    found = score(replace(TRAINED, nearest_photo=1.0), alone)
    assert found.likeness_gain == pytest.approx((0.58 - 0.28) / (1 - 0.28))
    assert found.copying == 0
