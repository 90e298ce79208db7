"""Laws of diagnosing: each ailment is found by its own number alone, none in a healthy run, and each comes with settings that exist."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mascot.errors import UserError
from mascot.evaluation.diagnosis.checks import CHECKS, FAILURE_MODES, FailureMode, run_checks
from mascot.evaluation.diagnosis.findings import ORDER, CheckResult, Diagnosis, checks_of, findings_of, unseen_of
from mascot.evaluation.diagnosis.measurements import PromptMeasurements, RunMeasurements
from mascot.evaluation.diagnosis.probe_images import diagnosis_prompts
from mascot.evaluation.diagnosis.remedies import REMEDIES, remedies_for
from mascot.evaluation.diagnosis.thresholds import COPIED, DRIFTED, FOLLOWED, LEARNED, VARIED
from mascot.generation.knobs import Knobs
from mascot.generation.prompt_sets import PAPER, STARTER, STARTER_VALIDATION
from mascot.methods.registry import METHODS
from mascot.recipe.overrides import merge, parse_overrides
from mascot.recipe.recipe import Recipe

BASE, REAL = 0.4, 0.9
"""Likeness of the untouched base and of real photos: a scale 0.5 wide."""


def prompt(number: int = 0, **changes: Any) -> PromptMeasurements:
    """One prompt of a healthy run."""
    facts: dict[str, Any] = {
        "prompt": f"a sks dog in place {number}", "likeness": BASE + 0.7 * (REAL - BASE), "base_likeness": BASE, "excess": -0.05,
        "fidelity": 0.7, "unrelated": 0.4, "base_fidelity": 0.8, "base_unrelated": 0.45, "base_rank": 1.0,
        "diversity": 0.12, "base_diversity": 0.2,
    }  # fmt: skip
    return PromptMeasurements(**(facts | changes))


def healthy(**changes: Any) -> RunMeasurements:
    """A run that nothing ails."""
    facts: dict[str, Any] = {
        "class_noun": "dog", "prompts": tuple(prompt(number) for number in range(10)), "photos": 5, "trained": 5, "real_likeness": REAL,
        "real_nearest": 0.92, "class_now": (0.41, 0.39, 0.42, 0.38), "class_before": (0.4,) * 4, "token_alone": (0.45, 0.4, 0.35, 0.5),
        "followed": (0.05, 0.03), "base_followed": (0.01, 0.0), "twins": 0, "sameness": 0.4,
    }  # fmt: skip
    return RunMeasurements(**(facts | changes))


def all_prompts(**changes: Any) -> dict[str, Any]:
    """The same change to every prompt."""
    return {"prompts": tuple(prompt(number, **changes) for number in range(10))}


ILL: dict[str, dict[str, Any]] = {
    "undertrained": all_prompts(likeness=BASE + 0.1 * (REAL - BASE)),
    "memorised": all_prompts(excess=0.05, fidelity=0.62),
    "class drifted": {"class_now": (0.52, 0.53, 0.55, 0.51)},
    "diversity collapsed": all_prompts(diversity=0.02),
    "prompt ignored": all_prompts(fidelity=0.45),
    "context and looks entangled": {"followed": (0.5, 0.6)},
    "context not drawn": {
        "prompts": (prompt(0, base_rank=0.5, base_fidelity=0.46, fidelity=0.4), *(prompt(k) for k in range(1, 10)))
    },
    "token leaked": {"token_alone": (0.85, 0.9, 0.88, 0.86)},
    "photos too alike": {"twins": 4},
}
"""One change that makes a healthy run ill, for each ailment."""
RECIPE = Recipe.preset(photos=["photos"], class_noun="dog").model_dump(mode="json")


def names(measurements: RunMeasurements) -> list[str]:
    """What is found, in order."""
    return [finding.failure_mode for finding in findings_of(measurements, RECIPE)]


def test_a_healthy_run_has_nothing() -> None:
    assert names(healthy()) == []
    assert unseen_of(healthy()) == {}
    assert {check.failure_mode for check in checks_of(healthy())} == set(FAILURE_MODES)


def test_every_ailment_is_tried() -> None:
    assert set(ILL) == set(FAILURE_MODES) == set(REMEDIES)


@pytest.mark.parametrize("failure_mode", FAILURE_MODES)
def test_each_ailment_is_found_alone(failure_mode: str) -> None:
    measurements = healthy(**ILL[failure_mode])
    assert names(measurements) == [failure_mode]
    [finding] = findings_of(measurements, RECIPE)
    [check] = [check for check in checks_of(measurements) if check.triggered]
    assert f"{check.value:.0%}" in finding.message
    assert f"{check.threshold:.0%}" in finding.message
    assert finding.remedies


def test_a_class_that_draws_the_subject_has_drifted_too() -> None:
    assert names(healthy(class_now=(0.85, 0.9, 0.88, 0.86))) == ["token leaked", "class drifted"]


def test_photos_that_are_one_picture_are_too_alike() -> None:
    assert names(healthy(real_likeness=0.999, **all_prompts(likeness=0.9))) == ["photos too alike"]


def test_photos_on_one_background_are_noted() -> None:
    [finding] = findings_of(healthy(sameness=0.95), RECIPE)
    assert (finding.failure_mode, finding.severity) == ("photos too alike", "note")
    assert "background" in finding.message


def test_what_two_numbers_show_is_told_once_by_the_more_serious() -> None:
    leaks = healthy(class_now=(0.9,) * 4, token_alone=(0.9,) * 4)
    assert next((finding.failure_mode, finding.severity) for finding in findings_of(leaks, RECIPE)) == (
        "token leaked",
        "serious",
    )
    assert names(leaks) == ["token leaked", "class drifted"]
    assert names(healthy(twins=4, real_likeness=0.999, **all_prompts(likeness=0.9))) == ["photos too alike"]


def test_copies_are_excused_where_prompts_are_followed() -> None:
    """Likeness beyond the photos' own is no copy while the prompt is drawn around it."""
    assert names(healthy(**all_prompts(excess=0.05))) == []


def test_what_the_base_cannot_draw_is_not_ignored() -> None:
    undrawn = {"base_rank": 0.5, "base_fidelity": 0.45, "fidelity": 0.4}
    some = tuple(prompt(k, **(undrawn if k < 6 else {})) for k in range(10))
    assert names(healthy(prompts=some)) == ["context not drawn"]
    every = healthy(prompts=tuple(prompt(k, **undrawn) for k in range(10)))
    assert names(every) == ["context not drawn"]
    assert any("draws none of the prompts" in reason for reason in unseen_of(every).values())


def test_the_most_serious_comes_first() -> None:
    together = healthy(
        twins=4,
        followed=(0.6, 0.6),
        token_alone=(0.9, 0.9, 0.9, 0.9),
        **all_prompts(fidelity=0.45, likeness=BASE, diversity=0.01),
    )
    found = findings_of(together, RECIPE)
    assert {finding.failure_mode for finding in found} >= {
        "undertrained",
        "prompt ignored",
        "diversity collapsed",
        "token leaked",
    }
    assert [ORDER.index(finding.severity) for finding in found] == sorted(
        ORDER.index(finding.severity) for finding in found
    )


Change = Callable[[Sequence[float]], RunMeasurements]
BORDERLINES: dict[str, tuple[float, Change]] = {
    "undertrained": (LEARNED, lambda rows: healthy(prompts=tuple(prompt(likeness=BASE + row * (REAL - BASE)) for row in rows))),
    "class drifted": (
        DRIFTED, lambda rows: healthy(class_now=tuple(BASE + row * (REAL - BASE) for row in rows), class_before=(BASE,) * len(rows))
    ),
    "diversity collapsed": (VARIED, lambda rows: healthy(prompts=tuple(prompt(diversity=0.2 * row) for row in rows))),
    "prompt ignored": (FOLLOWED, lambda rows: healthy(prompts=tuple(prompt(fidelity=0.4 + 0.35 * row) for row in rows))),
    "memorised": (COPIED, lambda rows: healthy(prompts=tuple(prompt(excess=0.08 * row, fidelity=0.62) for row in rows))),
}  # fmt: skip
"""Ailment -> its threshold, and evidence with the given numbers for its rows."""


@pytest.mark.parametrize("failure_mode", BORDERLINES)
@settings(max_examples=10)
@given(offsets=st.lists(st.floats(0.01, 0.25), min_size=5, max_size=5))
def test_numbers_that_straddle_the_threshold_are_noise(failure_mode: str, offsets: list[float]) -> None:
    """As many as above lie below: no interval of their mean can leave the threshold out."""
    threshold, made = BORDERLINES[failure_mode]
    assert failure_mode not in names(made([threshold + offset * side for offset in offsets for side in (-1, 1)]))


@settings(max_examples=20)
@given(
    shares=st.lists(st.floats(0.5, 0.9), min_size=10, max_size=10),
    classes=st.lists(st.floats(-0.05, 0.05), min_size=8, max_size=8),
)
def test_noise_over_prompts_and_seeds_ails_nobody(shares: list[float], classes: list[float]) -> None:
    measurements = healthy(
        prompts=tuple(
            prompt(k, likeness=BASE + share * (REAL - BASE), diversity=0.2 * share) for k, share in enumerate(shares)
        ),
        class_now=tuple(BASE + moved for moved in classes),
        class_before=(BASE,) * 8,
    )
    assert names(measurements) == []


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("failure_mode", FAILURE_MODES)
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


@pytest.mark.parametrize("failure_mode", ["diversity collapsed", "context and looks entangled"])
@pytest.mark.parametrize("guidance", [1.8, 3.0, 5.0])
def test_only_high_guidance_is_to_blame(failure_mode: FailureMode, guidance: float) -> None:
    remedies = remedies_for(failure_mode, {"knobs": {"guidance": guidance}})
    assert any(remedy.setting.startswith("knobs.guidance=") for remedy in remedies) == (guidance > 3)


def test_an_adapter_that_records_nothing_has_words_for_remedies() -> None:
    for failure_mode in FAILURE_MODES:
        assert all(
            not remedy.setting or "{" in remedy.setting or "masked" in remedy.setting
            for remedy in remedies_for(failure_mode, {})
        )


def test_a_run_without_a_class_noun_is_told_why() -> None:
    bare = {
        "base_likeness": None,
        "fidelity": None,
        "unrelated": None,
        "base_fidelity": None,
        "base_unrelated": None,
        "base_rank": None,
    }
    measurements = healthy(
        class_noun=None,
        class_now=(),
        class_before=(),
        token_alone=(),
        base_followed=(),
        **all_prompts(**bare, base_diversity=None),
    )
    assert names(measurements) == []
    looked = {check.failure_mode for check in checks_of(measurements)}
    assert looked == {"memorised", "photos too alike"}
    assert all("class noun" in reason for reason in unseen_of(measurements).values())


@pytest.mark.parametrize(("photos", "said"), [(0, "no photos"), (1, "one photo")])
def test_without_photos_to_compare_it_is_told_why(photos: int, said: str) -> None:
    nothing = {"likeness": None, "base_likeness": None, "excess": None} if not photos else {"excess": None}
    measurements = healthy(
        photos=photos, trained=photos, sameness=None, real_likeness=None, real_nearest=None, class_now=(), class_before=(), token_alone=(),
        **all_prompts(**nothing),
    )  # fmt: skip
    assert names(measurements) == []
    reasons = unseen_of(measurements)
    assert {name.partition(":")[0] for name in reasons} == {
        "undertrained",
        "memorised",
        "class drifted",
        "token leaked",
        "photos too alike",
    }
    assert any(said in reason for reason in reasons.values())


def test_a_base_that_draws_the_subject_already_leaves_no_scale() -> None:
    measurements = healthy(real_likeness=BASE + 0.01)
    assert any("as near to the photos" in reason for reason in unseen_of(measurements).values())
    assert names(measurements) == []


def test_nothing_is_asked_that_reports_are_measured_by() -> None:
    for noun in ("dog", "teapot", None):
        asked = diagnosis_prompts(noun)
        assert len(set(asked)) == len(asked) == 10
        assert not set(asked) & {*STARTER.things, *STARTER.live, *PAPER.things, *PAPER.live}
        assert set(asked) & {*STARTER_VALIDATION.things, *STARTER_VALIDATION.live}


def told(measurements: RunMeasurements) -> Diagnosis:
    """A diagnosis of some evidence."""
    return Diagnosis(
        name="run", subject="sks dog", base="starter", weights="0", knobs=Knobs(), images=60, encoders={},
        findings=findings_of(measurements, RECIPE), checks=checks_of(measurements), unseen=unseen_of(measurements),
    )  # fmt: skip


def test_a_diagnosis_is_read_as_it_was_written(tmp_path: Path) -> None:
    for measurements in (healthy(), healthy(**ILL["memorised"]), healthy(real_likeness=None)):
        diagnosis = told(measurements)
        diagnosis.write(tmp_path / "diagnosis.json")
        assert Diagnosis.read(tmp_path / "diagnosis.json") == diagnosis
        assert "nan" not in (tmp_path / "diagnosis.json").read_text().lower()
    (tmp_path / "diagnosis.json").write_text("{}")
    with pytest.raises(UserError, match="mascot diagnose"):
        Diagnosis.read(tmp_path / "diagnosis.json")


def test_the_verdict_says_what_was_looked_for() -> None:
    assert told(healthy()).verdict == "Nothing is wrong: 9 ailments were looked for in 60 pictures."
    assert "undertrained (serious)" in told(healthy(**ILL["undertrained"])).verdict
    assert "could not be looked for" in told(replace(healthy(), real_likeness=None)).verdict


def test_a_check_is_ill_where_its_finding_is() -> None:
    for failure_mode, changes in ILL.items():
        checks: list[CheckResult] = [check for check in checks_of(healthy(**changes)) if check.triggered]
        assert [check.failure_mode for check in checks] == [failure_mode]
        assert all((check.low > check.threshold) if check.above else (check.high < check.threshold) for check in checks)
    assert len(run_checks(healthy())) == len(CHECKS)
