"""Laws of checks: a failure mode is found by its own statistic alone, and its remedies exist.

A healthy run has no finding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mascot.errors import UserError
from mascot.evaluation.diagnosis.checks import BETWEEN_SUBJECTS, CHECKS, FAILURE_MODES, FailureMode, run_checks
from mascot.evaluation.diagnosis.findings import (
    SEVERITIES,
    CheckResult,
    Diagnosis,
    check_results,
    list_findings,
    unavailable_checks,
)
from mascot.evaluation.diagnosis.measurements import PromptMeasurements, RunMeasurements
from mascot.evaluation.diagnosis.probe_images import diagnosis_prompts
from mascot.evaluation.diagnosis.remedies import REMEDIES, remedies_for
from mascot.evaluation.diagnosis.thresholds import (
    MAXIMUM_CLASS_DRIFT,
    MAXIMUM_PHOTO_NEARNESS,
    MINIMUM_DIVERSITY_RATIO,
    MINIMUM_LIKENESS_GAIN,
    MINIMUM_PROMPT_ADHERENCE,
)
from mascot.generation.knobs import Knobs
from mascot.generation.prompts.prompt_sets import PAPER, STARTER, STARTER_VALIDATION
from mascot.methods.registry import METHODS
from mascot.recipe.overrides import merge, parse_overrides
from mascot.recipe.recipe import Recipe

BASE, REAL = 0.4, 0.9
"""Likeness of the base model and of real photos: a scale that is 0.5 wide."""


def prompt(number: int = 0, **changes: Any) -> PromptMeasurements:
    """One prompt of a healthy run."""
    facts: dict[str, Any] = {
        "prompt": f"a sks dog in context {number}",
        "likeness": BASE + 0.7 * (REAL - BASE),
        "base_likeness": BASE,
        "nearest_excess": -0.05,
        "clip_t": 0.7,
        "clip_t_others": 0.4,
        "base_clip_t": 0.8,
        "base_clip_t_others": 0.45,
        "base_match_rate": 1.0,
        "diversity": 0.12,
        "base_diversity": 0.2,
    }
    return PromptMeasurements(**(facts | changes))


def healthy(**changes: Any) -> RunMeasurements:
    """A run without a failure mode."""
    facts: dict[str, Any] = {
        "class_noun": "dog",
        "prompts": tuple(prompt(number) for number in range(10)),
        "photo_count": 5,
        "training_photo_count": 5,
        "real_likeness": REAL,
        "real_nearest": 0.92,
        "class_likeness": (0.41, 0.39, 0.42, 0.38),
        "base_class_likeness": (0.4,) * 4,
        "token_likeness": (0.45, 0.4, 0.35, 0.5),
        "leakage": (0.05, 0.03),
        "base_leakage": (0.01, 0.0),
        "duplicate_count": 0,
        "background_similarity": 0.4,
    }
    return RunMeasurements(**(facts | changes))


def all_prompts(**changes: Any) -> dict[str, Any]:
    """Make the same change to every prompt."""
    return {"prompts": tuple(prompt(number, **changes) for number in range(10))}


FAULTY: dict[str, dict[str, Any]] = {
    "underfitting": all_prompts(likeness=BASE + 0.1 * (REAL - BASE)),
    "memorization": all_prompts(nearest_excess=0.05, clip_t=0.62),
    "language drift": {"class_likeness": (0.52, 0.53, 0.55, 0.51)},
    "reduced diversity": all_prompts(diversity=0.02),
    "prompt ignored": all_prompts(clip_t=0.45),
    "context-appearance entanglement": {"leakage": (0.5, 0.6)},
    "context not generated": {
        "prompts": (prompt(0, base_match_rate=0.5, base_clip_t=0.46, clip_t=0.4), *(prompt(k) for k in range(1, 10)))
    },
    "token leakage": {"token_likeness": (0.85, 0.9, 0.88, 0.86)},
    "photos too similar": {"duplicate_count": 4},
}
"""Failure mode -> the one change that gives it to a healthy run."""
RECIPE = Recipe.preset(photos=["photos"], class_noun="dog").model_dump(mode="json")


def names(measurements: RunMeasurements) -> list[str]:
    """The failure modes that are found, in order."""
    return [finding.failure_mode for finding in list_findings(measurements, RECIPE)]


def test_a_healthy_run_has_nothing() -> None:
    assert names(healthy()) == []
    assert unavailable_checks(healthy()) == {}
    assert {check.failure_mode for check in check_results(healthy())} == set(FAILURE_MODES)


def test_every_failure_mode_is_tried() -> None:
    assert set(FAULTY) == set(FAILURE_MODES) == set(REMEDIES) - set(BETWEEN_SUBJECTS)


@pytest.mark.parametrize("failure_mode", FAILURE_MODES)
def test_each_failure_mode_is_found_alone(failure_mode: str) -> None:
    measurements = healthy(**FAULTY[failure_mode])
    assert names(measurements) == [failure_mode]
    [finding] = list_findings(measurements, RECIPE)
    [check] = [check for check in check_results(measurements) if check.triggered]
    assert f"{check.value:.0%}" in finding.message
    assert f"{check.threshold:.0%}" in finding.message
    assert finding.remedies


def test_a_class_noun_that_generates_the_subject_has_drifted_too() -> None:
    assert names(healthy(class_likeness=(0.85, 0.9, 0.88, 0.86))) == ["token leakage", "language drift"]


def test_photos_that_are_one_image_are_too_similar() -> None:
    assert names(healthy(real_likeness=0.999, **all_prompts(likeness=0.9))) == ["photos too similar"]


def test_photos_on_one_background_are_noted() -> None:
    [finding] = list_findings(healthy(background_similarity=0.95), RECIPE)
    assert (finding.failure_mode, finding.severity) == ("photos too similar", "note")
    assert "background" in finding.message


def test_what_two_checks_find_is_listed_once_by_the_more_serious() -> None:
    leaks = healthy(class_likeness=(0.9,) * 4, token_likeness=(0.9,) * 4)
    assert next((finding.failure_mode, finding.severity) for finding in list_findings(leaks, RECIPE)) == (
        "token leakage",
        "serious",
    )
    assert names(leaks) == ["token leakage", "language drift"]
    assert names(healthy(duplicate_count=4, real_likeness=0.999, **all_prompts(likeness=0.9))) == ["photos too similar"]


def test_copies_are_excused_where_prompts_are_followed() -> None:
    """An image that is near to a photo is no copy while it follows its prompt."""
    assert names(healthy(**all_prompts(nearest_excess=0.05))) == []


def test_what_the_base_cannot_generate_is_not_ignored() -> None:
    missing = {"base_match_rate": 0.5, "base_clip_t": 0.45, "clip_t": 0.4}
    some = tuple(prompt(k, **(missing if k < 6 else {})) for k in range(10))
    assert names(healthy(prompts=some)) == ["context not generated"]
    every = healthy(prompts=tuple(prompt(k, **missing) for k in range(10)))
    assert names(every) == ["context not generated"]
    assert any("generates none of the prompts" in reason for reason in unavailable_checks(every).values())


def test_the_most_serious_comes_first() -> None:
    together = healthy(
        duplicate_count=4,
        leakage=(0.6, 0.6),
        token_likeness=(0.9, 0.9, 0.9, 0.9),
        **all_prompts(clip_t=0.45, likeness=BASE, diversity=0.01),
    )
    found = list_findings(together, RECIPE)
    assert {finding.failure_mode for finding in found} >= {
        "underfitting",
        "prompt ignored",
        "reduced diversity",
        "token leakage",
    }
    assert [SEVERITIES.index(finding.severity) for finding in found] == sorted(
        SEVERITIES.index(finding.severity) for finding in found
    )


Change = Callable[[Sequence[float]], RunMeasurements]
BORDERLINE: dict[str, tuple[float, Change]] = {
    "underfitting": (
        MINIMUM_LIKENESS_GAIN,
        lambda rows: healthy(prompts=tuple(prompt(likeness=BASE + row * (REAL - BASE)) for row in rows)),
    ),
    "language drift": (
        MAXIMUM_CLASS_DRIFT,
        lambda rows: healthy(
            class_likeness=tuple(BASE + row * (REAL - BASE) for row in rows), base_class_likeness=(BASE,) * len(rows)
        ),
    ),
    "reduced diversity": (
        MINIMUM_DIVERSITY_RATIO,
        lambda rows: healthy(prompts=tuple(prompt(diversity=0.2 * row) for row in rows)),
    ),
    "prompt ignored": (
        MINIMUM_PROMPT_ADHERENCE,
        lambda rows: healthy(prompts=tuple(prompt(clip_t=0.4 + 0.35 * row) for row in rows)),
    ),
    "memorization": (
        MAXIMUM_PHOTO_NEARNESS,
        lambda rows: healthy(prompts=tuple(prompt(nearest_excess=0.08 * row, clip_t=0.62) for row in rows)),
    ),
}
"""Failure mode -> its threshold, and measurements with the given values of its statistic."""


@pytest.mark.parametrize("failure_mode", BORDERLINE)
@settings(max_examples=10)
@given(offsets=st.lists(st.floats(0.01, 0.25), min_size=5, max_size=5))
def test_numbers_that_straddle_the_threshold_are_noise(failure_mode: str, offsets: list[float]) -> None:
    """As many as above lie below: no interval of their mean can leave the threshold out."""
    threshold, made = BORDERLINE[failure_mode]
    assert failure_mode not in names(made([threshold + offset * side for offset in offsets for side in (-1, 1)]))


@settings(max_examples=20)
@given(
    shares=st.lists(st.floats(0.5, 0.9), min_size=10, max_size=10),
    classes=st.lists(st.floats(-0.05, 0.05), min_size=8, max_size=8),
)
def test_noise_over_prompts_and_seeds_is_no_finding(shares: list[float], classes: list[float]) -> None:
    measurements = healthy(
        prompts=tuple(
            prompt(k, likeness=BASE + share * (REAL - BASE), diversity=0.2 * share) for k, share in enumerate(shares)
        ),
        class_likeness=tuple(BASE + moved for moved in classes),
        base_class_likeness=(BASE,) * 8,
    )
    assert names(measurements) == []


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("failure_mode", [*FAILURE_MODES, *BETWEEN_SUBJECTS])
@pytest.mark.parametrize(
    "overrides", [[], ["prior.count=0"], ["training.steps=1", 'dataset.templates=["a {token}"]', "knobs.guidance=90"]]
)
def test_every_remedy_is_a_setting_of_the_run_s_own_recipe(
    method: str, failure_mode: str, overrides: list[str]
) -> None:
    recipe = Recipe.preset(photos=["photos"], class_noun="dog", overrides=[f'method.name="{method}"', *overrides])
    values = recipe.model_dump(mode="json")
    remedies = remedies_for(failure_mode, values)
    assert remedies
    for remedy in remedies:
        assert remedy.why
        if remedy.setting:
            changed = Recipe.parse(merge(values, parse_overrides([remedy.setting])))
            assert changed != recipe, f"{remedy.setting} changes nothing"
            assert remedy.option.startswith(("--set ", "--steps "))


@pytest.mark.parametrize("failure_mode", ["reduced diversity", "context-appearance entanglement"])
@pytest.mark.parametrize("guidance", [1.8, 3.0, 5.0])
def test_only_a_high_guidance_scale_is_lowered(failure_mode: FailureMode, guidance: float) -> None:
    remedies = remedies_for(failure_mode, {"knobs": {"guidance": guidance}})
    assert any(remedy.setting.startswith("knobs.guidance=") for remedy in remedies) == (guidance > 3)


def test_an_adapter_that_records_nothing_has_remedies_without_numbers() -> None:
    for failure_mode in FAILURE_MODES:
        assert all(
            not remedy.setting or "{" in remedy.setting or "masked" in remedy.setting
            for remedy in remedies_for(failure_mode, {})
        )


def test_without_a_class_noun_the_reason_is_given() -> None:
    bare = {
        "base_likeness": None,
        "clip_t": None,
        "clip_t_others": None,
        "base_clip_t": None,
        "base_clip_t_others": None,
        "base_match_rate": None,
    }
    measurements = healthy(
        class_noun=None,
        class_likeness=(),
        base_class_likeness=(),
        token_likeness=(),
        base_leakage=(),
        **all_prompts(**bare, base_diversity=None),
    )
    assert names(measurements) == []
    checked = {check.failure_mode for check in check_results(measurements)}
    assert checked == {"memorization", "photos too similar"}
    assert all("class noun" in reason for reason in unavailable_checks(measurements).values())


@pytest.mark.parametrize(("photos", "message"), [(0, "no photos"), (1, "one photo")])
def test_without_photos_to_compare_the_reason_is_given(photos: int, message: str) -> None:
    nothing = (
        {"likeness": None, "base_likeness": None, "nearest_excess": None} if not photos else {"nearest_excess": None}
    )
    measurements = healthy(
        photo_count=photos,
        training_photo_count=photos,
        background_similarity=None,
        real_likeness=None,
        real_nearest=None,
        class_likeness=(),
        base_class_likeness=(),
        token_likeness=(),
        **all_prompts(**nothing),
    )
    assert names(measurements) == []
    reasons = unavailable_checks(measurements)
    assert {name.partition(":")[0] for name in reasons} == {
        "underfitting",
        "memorization",
        "language drift",
        "token leakage",
        "photos too similar",
    }
    assert any(message in reason for reason in reasons.values())


def test_a_base_that_generates_the_subject_already_leaves_no_scale() -> None:
    measurements = healthy(real_likeness=BASE + 0.01)
    assert any("as near to the photos" in reason for reason in unavailable_checks(measurements).values())
    assert names(measurements) == []


def test_no_prompt_is_one_that_reports_are_measured_on() -> None:
    for noun in ("dog", "teapot", None):
        prompts = diagnosis_prompts(noun)
        assert len(set(prompts)) == len(prompts) == 10
        assert not set(prompts) & {*STARTER.objects, *STARTER.live, *PAPER.objects, *PAPER.live}
        assert set(prompts) & {*STARTER_VALIDATION.objects, *STARTER_VALIDATION.live}


def make_diagnosis(measurements: RunMeasurements) -> Diagnosis:
    """A diagnosis of some measurements."""
    return Diagnosis(
        name="run",
        subject="sks dog",
        base="starter",
        weights="0",
        knobs=Knobs(),
        images=60,
        encoders={},
        findings=list_findings(measurements, RECIPE),
        checks=check_results(measurements),
        unavailable=unavailable_checks(measurements),
    )


def test_a_diagnosis_is_read_as_it_was_written(tmp_path: Path) -> None:
    for measurements in (healthy(), healthy(**FAULTY["memorization"]), healthy(real_likeness=None)):
        diagnosis = make_diagnosis(measurements)
        diagnosis.write(tmp_path / "diagnosis.json")
        assert Diagnosis.read(tmp_path / "diagnosis.json") == diagnosis
        assert "nan" not in (tmp_path / "diagnosis.json").read_text().lower()
    (tmp_path / "diagnosis.json").write_text("{}")
    with pytest.raises(UserError, match="mascot diagnose"):
        Diagnosis.read(tmp_path / "diagnosis.json")


def test_the_verdict_says_what_was_checked() -> None:
    assert make_diagnosis(healthy()).verdict == "Nothing is wrong: 9 failure modes were checked on 60 images."
    assert "underfitting (serious)" in make_diagnosis(healthy(**FAULTY["underfitting"])).verdict
    assert "could not be checked" in make_diagnosis(replace(healthy(), real_likeness=None)).verdict


def test_a_check_is_triggered_where_its_failure_mode_is_found() -> None:
    for failure_mode, changes in FAULTY.items():
        checks: list[CheckResult] = [check for check in check_results(healthy(**changes)) if check.triggered]
        assert [check.failure_mode for check in checks] == [failure_mode]
        assert all((check.low > check.threshold) if check.above else (check.high < check.threshold) for check in checks)
    assert len(run_checks(healthy())) == len(CHECKS)
