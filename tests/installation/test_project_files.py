"""Laws of the files that hosts of code read: the citation, and the forms of issues."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import mascot

ROOT = Path(__file__).resolve().parents[2]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
BODY_TYPES = {"markdown", "textarea", "input", "dropdown", "checkboxes"}


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping."""
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def citation_faults(citation: dict[str, Any]) -> list[str]:
    """What the schema of version 1.2 of the Citation File Format would refuse."""
    known = {"cff-version", "message", "title", "authors", "type", "version", "date-released", "license", "abstract"}
    known |= {"keywords", "url", "repository-code", "identifiers", "doi", "commit", "contact", "preferred-citation"}
    faults = [f"{key} is missing" for key in ("cff-version", "message", "title", "authors") if not citation.get(key)]
    faults += [f"{key} is unknown" for key in citation if key not in known]
    if not re.fullmatch(r"1\.2\.0", str(citation.get("cff-version"))):
        faults.append("cff-version is not 1.2.0")
    people = {"family-names", "given-names", "alias", "affiliation", "email", "orcid", "website", "name-particle"}
    for author in citation.get("authors", []):
        if not (set(author) <= people or ("name" in author and set(author) <= {"name", "website", "alias", "email"})):
            faults.append(f"an author has {sorted(author)}")
    if citation.get("type", "software") not in {"software", "dataset"}:
        faults.append("type is neither software nor dataset")
    if not isinstance(citation.get("date-released", dt.date(2026, 1, 1)), dt.date):
        faults.append("date-released is no date")
    return faults


def test_the_citation_is_one_of_this_version() -> None:
    citation = read_yaml(ROOT / "CITATION.cff")
    assert citation_faults(citation) == []
    assert citation["authors"] == [{"name": "The mascot contributors"}]
    assert citation["version"] == mascot.__version__
    assert citation["license"] == "Apache-2.0"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"message": ""}, "message is missing"),
        ({"authors": [{"nom": "x"}]}, "an author has ['nom']"),
        ({"cff-version": "1.1.0"}, "cff-version is not 1.2.0"),
        ({"colour": "red"}, "colour is unknown"),
    ],
)
def test_a_fault_of_the_citation_is_noticed(change: dict[str, Any], fault: str) -> None:
    assert citation_faults({**read_yaml(ROOT / "CITATION.cff"), **change}) == [fault]


def form_faults(form: dict[str, Any]) -> list[str]:
    """What a host of code would refuse of an issue form."""
    faults = [f"{key} is missing" for key in ("name", "description", "body") if not form.get(key)]
    known = {"name", "description", "title", "labels", "body", "assignees"}
    faults += [f"{key} is unknown" for key in form if key not in known]
    ids = [part["id"] for part in form.get("body", []) if "id" in part]
    faults += ["an id stands twice"] if len(ids) != len(set(ids)) else []
    for part in form.get("body", []):
        if part.get("type") not in BODY_TYPES:
            faults.append(f"type {part.get('type')!r} is unknown")
        wanted = "value" if part.get("type") == "markdown" else "label"
        if not part.get("attributes", {}).get(wanted):
            faults.append(f"{part.get('type')} without {wanted}")
        if not set(part) <= {"type", "id", "attributes", "validations"}:
            faults.append(f"{part.get('type')} has {sorted(part)}")
    return faults


@pytest.mark.parametrize("path", [path for path in FORMS if path.name != "config.yml"], ids=lambda path: path.name)
def test_issue_forms_are_valid(path: Path) -> None:
    assert form_faults(read_yaml(path)) == []


def test_a_fault_of_a_form_is_noticed() -> None:
    form = read_yaml(ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml")
    assert form_faults({**form, "name": ""}) == ["name is missing"]
    assert form_faults({**form, "body": [{"type": "text", "attributes": {"label": "x"}}]}) == ["type 'text' is unknown"]


def test_a_bug_asks_for_the_doctors_report_and_an_idea_does_not() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in FORMS}
    assert set(texts) == {"bug.yml", "config.yml", "idea.yml"}
    assert "mascot doctor --report" in texts["bug.yml"]
    assert "doctor" not in texts["idea.yml"]
    required = {
        part["id"]
        for part in read_yaml(ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml")["body"]
        if part.get("validations", {}).get("required")
    }
    assert {"happened", "command", "doctor"} <= required
    assert read_yaml(ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml") == {"blank_issues_enabled": True}


def test_contributing_is_one_page_whose_commands_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 600
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make (\w+)`", text):
        assert f"\n{target}:" in makefile, target
    for path in re.findall(r"\]\(([^)#:]+)", text):
        assert (ROOT / path).exists(), path
