"""The report for an issue: versions, machine and canary as Markdown, and nothing about the user."""

from __future__ import annotations

import getpass
import os
import platform
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import gettempdir

from mascot.api.installation.machine_report import MachineReport
from mascot.errors import escape_control
from mascot.storage.atomic_write import atomic_write, check_free

SECRET_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|KEY|CREDENTIAL", re.IGNORECASE)
"""Names of environment variables whose values are left out wherever they stand."""
TOKENS = re.compile(r"\b(?:hf|api_org|sk|ghp|gho|github_pat)_[A-Za-z0-9_]{8,}")
"""Access tokens of model hubs and code hosts."""
REST = r"[^\s:;,'\"()<>|]"
"""What a path goes on with."""
PLACES = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?(?:[/\\]+[^\s/\\:;,'\"()<>|]+){2,}[/\\]?")
"""Absolute paths of two parts or more, of any system."""
URL = re.compile(r"https?://pytorch\.org\S*")
"""The only addresses that a report may hold."""
SHORTEST = 3
"""Letters from which on a user's or a machine's name is looked for."""


def write_issue_report(report: MachineReport, path: Path) -> None:
    """Write a report for an issue.

    Raises:
        UserError: there is something at the path, or it cannot be written.
    """
    check_free(path)
    with atomic_write(path) as temporary:
        temporary.write_text(issue_text(report), encoding="utf-8")


def issue_text(report: MachineReport) -> str:
    """Write the report as Markdown: sections as lists, then the findings.

    Places are left out, and what the text of an error may hold about the user is replaced.
    """
    lines = ["# mascot doctor", ""]
    for section in report.sections:
        lines += [f"## {section.title}", ""]
        lines += [f"- {fact.name}: {fact.value}" for fact in section.facts]
        lines += [""]
    lines += ["## findings", ""]
    lines += [f"- {finding.severity}: {finding.message} {finding.remedy}" for finding in report.findings] or ["- none"]
    titles = " ".join(fact.name for section in report.sections for fact in section.facts)
    return escape_control(without_private("\n".join(lines) + "\n", public=titles))


def without_private(text: str, public: str = "") -> str:
    """Replace secrets, places and names of the user and of the machine.

    A name that is a word of `public` says nothing about the user.
    """
    for secret in sorted(secrets(), key=len, reverse=True):
        text = text.replace(secret, "SECRET")
    text = TOKENS.sub("SECRET", text)
    for place in sorted(places(), key=len, reverse=True):
        text = re.sub(rf"{re.escape(place)}{REST}*", "PLACE", text)
    kept = URL.findall(text)
    parts = [PLACES.sub("PLACE", part) for part in URL.split(text)]
    text = "".join(part + url for part, url in zip(parts, [*kept, ""], strict=True))
    known = set(public.lower().split())
    for name in sorted(
        {name for name in names() if len(name) >= SHORTEST and name.lower() not in known}, key=len, reverse=True
    ):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "NAME", text, flags=re.IGNORECASE)
    return text


def secrets() -> Iterator[str]:
    """Yield the values of environment variables that are named like secrets."""
    yield from (value for name, value in os.environ.items() if SECRET_NAMES.search(name) and len(value) > SHORTEST)


def places() -> Iterator[str]:
    """Yield folders whose paths tell who the user is or how the machine is set up."""
    for place in (str(Path.home()), os.environ.get("MASCOT_CACHE", ""), gettempdir()):
        if len(place) > SHORTEST:
            yield place


def names() -> Iterator[str]:
    """Yield the names of the user and of the machine."""
    with suppress(OSError, KeyError, ImportError):  # a container's user may have no name
        yield getpass.getuser()
    yield from (Path.home().name, platform.node(), platform.node().partition(".")[0])
