"""What the check of a machine finds: facts by section, findings with remedies, and the canary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning", "note"]
"""An error keeps mascot from working, a warning from working well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFinding:
    """Something that is wrong with the installation or the machine."""

    severity: Severity
    message: str
    """A sentence without names of places."""
    remedy: str
    """A sentence that says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFact:
    """One row of a section."""

    name: str
    value: str
    place: Path | None = None
    """A file or folder that it is about, which a report for others leaves out."""


@dataclass(slots=True)
class MachineSection:
    """Facts about one part of the machine, and what is wrong with it."""

    title: str
    facts: list[MachineFact] = field(default_factory=list[MachineFact])
    findings: list[MachineFinding] = field(default_factory=list[MachineFinding])

    def add(self, name: str, value: str, place: Path | None = None) -> None:
        """Add a fact."""
        self.facts.append(MachineFact(name=name, value=value, place=place))

    def find(self, severity: Severity, message: str, remedy: str) -> None:
        """Add a finding."""
        self.findings.append(MachineFinding(severity=severity, message=message, remedy=remedy))


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineReport:
    """All that a check of the machine found."""

    sections: Sequence[MachineSection]

    @property
    def findings(self) -> list[MachineFinding]:
        """All findings, errors first."""
        order = ("error", "warning", "note")
        found = [finding for section in self.sections for finding in section.findings]
        return sorted(found, key=lambda finding: order.index(finding.severity))

    @property
    def errors(self) -> list[MachineFinding]:
        """What keeps mascot from working."""
        return [finding for finding in self.findings if finding.severity == "error"]

    def as_json(self) -> dict[str, object]:
        """Return the report as plain values for JSON, places included."""
        return {
            "sections": {
                section.title: {
                    fact.name: {"value": fact.value} | ({} if fact.place is None else {"place": str(fact.place)})
                    for fact in section.facts
                }
                for section in self.sections
            },
            "findings": [
                {"severity": finding.severity, "message": finding.message, "remedy": finding.remedy}
                for finding in self.findings
            ],
            "works": not self.errors,
        }
