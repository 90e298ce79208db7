"""What ails a run, by name: each ailment with the number that shows it, the threshold, and what to change.

Pure logic: `probes.py` draws and measures. An ailment is found where the whole 95 % interval of its number lies beyond the threshold, so
that what other seeds or prompts would take back is not called one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat

from mascot.evaluation.diagnosis.checks import FAILURE_MODES, Check, FailureMode, Severity, run_checks
from mascot.evaluation.diagnosis.measurements import RunMeasurements
from mascot.evaluation.diagnosis.remedies import Remedy, remedies_for
from mascot.generation.knobs import Knobs
from mascot.progress import FindingSummary
from mascot.storage.json_record import JsonRecord

ORDER: tuple[Severity, ...] = ("serious", "warning", "note")
"""The most serious first."""


class ExampleImage(BaseModel):
    """A picture that shows something."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    """From the folder of the diagnosis, or whole where it lies elsewhere: the untouched base's pictures are shared by runs."""
    words: str


class ExampleStrip(BaseModel):
    """Pictures side by side, under what they are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    images: tuple[ExampleImage, ...]


class CheckResult(BaseModel):
    """One thing that was looked at: its number with its interval, and where it would be ill."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    failure_mode: FailureMode
    measured: str
    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    threshold: FiniteFloat
    above: bool
    """Ill above the threshold; else below it."""
    triggered: bool


class Finding(BaseModel):
    """An ailment that a run has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    failure_mode: FailureMode
    severity: Severity
    message: str
    """What was measured, with its interval and the threshold."""
    remedies: tuple[Remedy, ...]
    """What to change, the likeliest help first."""
    example_strips: tuple[ExampleStrip, ...]


class Diagnosis(JsonRecord):
    """What ails one run, as `diagnosis.json` keeps it."""

    damaged = "{path} is missing, damaged or of another version of mascot; run `mascot diagnose {folder}`."

    version: Literal[1] = 1
    name: str
    """What the run is called."""
    subject: str
    base: str
    weights: str
    """The adapter and the base, hashed."""
    knobs: Knobs
    images: int
    """That were drawn for it."""
    encoders: dict[str, str]
    """What judged, each in a line."""
    findings: tuple[Finding, ...]
    """The most serious first."""
    checks: tuple[CheckResult, ...]
    """All that was looked at."""
    unseen: dict[str, str]
    """What could not be looked at, and why."""

    @property
    def summaries(self) -> tuple[FindingSummary, ...]:
        """Each finding with its first remedy, as the event `DiagnosisFinished` carries it."""
        return tuple(
            FindingSummary(
                severity=finding.severity,
                failure_mode=finding.failure_mode,
                remedy=finding.remedies[0].words if finding.remedies else "",
            )
            for finding in self.findings
        )

    @property
    def verdict(self) -> str:
        """Say in one sentence what was found."""
        looked = {check.failure_mode for check in self.checks}
        if not looked:
            return "Nothing could be looked for."
        left = len(set(FAILURE_MODES) - looked)
        unseen = f" {left} of {len(FAILURE_MODES)} ailments could not be looked for." if left else ""
        if not self.findings:
            return f"Nothing is wrong: {len(looked)} ailments were looked for in {self.images} pictures.{unseen}"
        said = ", ".join(dict.fromkeys(f"{finding.failure_mode} ({finding.severity})" for finding in self.findings))
        return f"Found: {said}. {len(looked)} ailments were looked for in {self.images} pictures.{unseen}"


def findings_of(
    measurements: RunMeasurements,
    recipe: Mapping[str, Any],
    example_strips: Mapping[FailureMode, Sequence[ExampleStrip]] | None = None,
) -> tuple[Finding, ...]:
    """Name what ails a run with this recipe (nested values), the most serious first; `example_strips` are the pictures that show each ailment.

    An ailment that two numbers show is told once, by the more serious of them.
    """
    triggered = [reading for reading in run_checks(measurements) if reading.triggered]
    triggered.sort(key=lambda reading: (ORDER.index(reading.severity), -reading.excess))
    first = {reading.failure_mode: reading for reading in reversed(triggered)}
    return tuple(
        Finding(
            failure_mode=reading.failure_mode,
            severity=reading.severity,
            message=reading.message,
            remedies=tuple(remedies_for(reading.failure_mode, recipe)),
            example_strips=tuple((example_strips or {}).get(reading.failure_mode, ())),
        )
        for reading in triggered
        if reading is first[reading.failure_mode]
    )


def checks_of(measurements: RunMeasurements) -> tuple[CheckResult, ...]:
    """All numbers that ailments were looked for by."""
    return tuple(_check(reading) for reading in run_checks(measurements) if reading.interval is not None)


def unseen_of(measurements: RunMeasurements) -> dict[str, str]:
    """What could not be looked at, and why; an ailment that another number was looked for by is among them with what is missing."""
    return {
        f"{reading.failure_mode}: {reading.measured}": reading.reason
        for reading in run_checks(measurements)
        if reading.interval is None
    }


def _check(reading: Check) -> CheckResult:
    interval = reading.interval
    assert interval is not None
    low, high = reading.bounds
    return CheckResult(
        failure_mode=reading.failure_mode, measured=reading.measured, value=interval.mean, low=low, high=high, threshold=reading.threshold,
        above=reading.above, triggered=reading.triggered,
    )  # fmt: skip
