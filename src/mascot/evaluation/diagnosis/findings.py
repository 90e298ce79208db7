"""Findings: the failure modes of a run, with numbers, thresholds, remedies and example images.

This file is pure logic; `probe_images` generates and measures. A failure mode is found where the
whole 95 % interval of its statistic lies beyond the threshold. A result that other seeds or prompts
would reverse is therefore no finding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat, SerializerFunctionWrapHandler, model_serializer

from mascot.evaluation.diagnosis.checks import BETWEEN_SUBJECTS, FAILURE_MODES, Check, FailureMode, Severity, run_checks
from mascot.evaluation.diagnosis.measurements import RunMeasurements
from mascot.evaluation.diagnosis.remedies import Remedy, remedies_for
from mascot.generation.knobs import Knobs
from mascot.progress import FindingSummary
from mascot.storage.json_record import JsonRecord

SEVERITIES: tuple[Severity, ...] = ("serious", "warning", "note")
"""All severities, the most serious first."""


class ExampleImage(BaseModel):
    """An image that shows a finding."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    """Path relative to the folder of the diagnosis; absolute for the base model's shared images."""
    words: str
    """Description of the image."""


class ExampleStrip(BaseModel):
    """Images side by side under a title."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    images: tuple[ExampleImage, ...]


class AboutSubject(BaseModel):
    """A part of a diagnosis that names its subject where there are several."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: str = ""
    """Name of the subject that it is about; empty, and not written, where there is one."""
    failure_mode: FailureMode

    @property
    def title(self) -> str:
        """The failure mode, with the subject in front of it: `owl: underfitting`."""
        return f"{self.subject}: {self.failure_mode}" if self.subject else self.failure_mode

    @model_serializer(mode="wrap")
    def write_subject(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the name out where there is one subject."""
        values: dict[str, Any] = handler(self)
        return values if self.subject else {key: value for key, value in values.items() if key != "subject"}


class CheckResult(AboutSubject):
    """The outcome of one check: its statistic with the interval, and the threshold."""

    statistic: str
    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    threshold: FiniteFloat
    above: bool
    """Whether the failure mode lies above the threshold; else it lies below."""
    triggered: bool


class Finding(AboutSubject):
    """A failure mode that a run has."""

    severity: Severity
    message: str
    """What was measured, with the interval and the threshold."""
    remedies: tuple[Remedy, ...]
    """What to change; the likeliest to help comes first."""
    example_strips: tuple[ExampleStrip, ...]


class Diagnosis(JsonRecord):
    """The diagnosis of one run, as `diagnosis.json` stores it."""

    damaged = "{path} is missing, damaged or of another version of mascot; run `mascot diagnose {folder}`."

    version: Literal[1] = 1
    name: str
    """Name of the run."""
    subject: str
    base: str
    weights: str
    """Hash of the adapter and the base model."""
    knobs: Knobs
    images: int
    """Number of images that were generated."""
    encoders: dict[str, str]
    """The encoders that measured, each described in one line."""
    findings: tuple[Finding, ...]
    """The findings, the most serious first."""
    checks: tuple[CheckResult, ...]
    """All checks that could be run."""
    unavailable: dict[str, str]
    """Checks that could not be run: name -> reason."""
    subjects: tuple[str, ...] = ()
    """Names of several subjects; not written where there is one."""

    @model_serializer(mode="wrap")
    def write_subjects(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the names out where there is one subject."""
        values: dict[str, Any] = handler(self)
        return values if self.subjects else {key: value for key, value in values.items() if key != "subjects"}

    @property
    def summaries(self) -> tuple[FindingSummary, ...]:
        """Each finding with its first remedy, as the event `DiagnosisFinished` carries it."""
        return tuple(
            FindingSummary(
                severity=finding.severity,
                failure_mode=finding.title,
                remedy=finding.remedies[0].sentence if finding.remedies else "",
            )
            for finding in self.findings
        )

    @property
    def verdict(self) -> str:
        """The result of the diagnosis, in one or two sentences."""
        checked = {check.failure_mode for check in self.checks}
        if not checked:
            return "No failure mode could be checked."
        known = {*FAILURE_MODES, *(BETWEEN_SUBJECTS if self.subjects else ())}
        left = len(known - checked)
        unavailable = f" {left} of {len(known)} failure modes could not be checked." if left else ""
        scope = f"{len(checked)} failure modes were checked on {self.images} images.{unavailable}"
        if not self.findings:
            return f"Nothing is wrong: {scope}"
        names = dict.fromkeys(f"{finding.title} ({finding.severity})" for finding in self.findings)
        return f"Found: {', '.join(names)}. {scope}"


def join_diagnoses(diagnoses: Sequence[Diagnosis], names: Sequence[str]) -> Diagnosis:
    """Join the diagnoses of several subjects, the most serious findings first."""
    first, pairs = diagnoses[0], list(zip(names, diagnoses, strict=True))
    findings = [one.model_copy(update={"subject": name}) for name, part in pairs for one in part.findings]
    return first.model_copy(
        update={
            "subject": " and ".join(part.subject for part in diagnoses),
            "images": sum(part.images for part in diagnoses),
            "findings": tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))),
            "checks": tuple(one.model_copy(update={"subject": name}) for name, part in pairs for one in part.checks),
            "unavailable": {f"{name}: {key}": why for name, part in pairs for key, why in part.unavailable.items()},
            "subjects": tuple(names),
        }
    )


def list_findings(
    measurements: RunMeasurements,
    recipe: Mapping[str, object],
    example_strips: Mapping[FailureMode, Sequence[ExampleStrip]] | None = None,
) -> tuple[Finding, ...]:
    """List the failure modes of a run, the most serious first.

    A failure mode that two checks find is listed once, by the more serious check.

    Args:
        measurements: Measurements of the run.
        recipe: The run's recipe as nested values; remedies start from its settings.
        example_strips: Images that show each failure mode.
    """
    triggered = [check for check in run_checks(measurements) if check.triggered]
    triggered.sort(key=lambda check: (SEVERITIES.index(check.severity), -check.excess))
    first = {check.failure_mode: check for check in reversed(triggered)}
    return tuple(
        Finding(
            failure_mode=check.failure_mode,
            severity=check.severity,
            message=check.message,
            remedies=tuple(remedies_for(check.failure_mode, recipe)),
            example_strips=tuple((example_strips or {}).get(check.failure_mode, ())),
        )
        for check in triggered
        if check is first[check.failure_mode]
    )


def check_results(measurements: RunMeasurements) -> tuple[CheckResult, ...]:
    """List the results of all checks that could be run."""
    return tuple(_result(check) for check in run_checks(measurements) if check.interval is not None)


def unavailable_checks(measurements: RunMeasurements) -> dict[str, str]:
    """List the checks that could not be run, and why.

    A failure mode with two checks is listed even where its other check was run.
    """
    return {
        f"{check.failure_mode}: {check.statistic}": check.reason
        for check in run_checks(measurements)
        if check.interval is None
    }


def _result(check: Check) -> CheckResult:
    interval = check.interval
    assert interval is not None
    low, high = check.bounds
    return CheckResult(
        failure_mode=check.failure_mode,
        statistic=check.statistic,
        value=interval.mean,
        low=low,
        high=high,
        threshold=check.threshold,
        above=check.above,
        triggered=check.triggered,
    )
