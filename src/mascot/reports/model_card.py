"""The model card of a published adapter: the README.md of its repository on the model hub.

It begins with a table in YAML that the hub reads; every text in it is quoted as JSON, which is YAML
too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CardImage:
    """One image of the gallery."""

    prompt: str
    file: str
    """Path in the repository."""


@dataclass(frozen=True, slots=True)
class CardUsage:
    """How one tool uses the adapter."""

    tool: str
    words: str
    code: str = ""
    language: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """The contents of a model card; empty parts are left out."""

    title: str
    summary: str
    trigger: str
    """What a prompt must say."""
    license: str | None
    base_model: str | None
    """The base's id on the hub; None where it has none."""
    tags: tuple[str, ...]
    images: tuple[CardImage, ...]
    usages: tuple[CardUsage, ...]
    files: tuple[tuple[str, str], ...]
    """Name of each file with weights, and what it is."""
    facts: tuple[tuple[str, str], ...]
    """Name and value of each fact of the training."""
    scores: tuple[tuple[str, str, str], ...] = ()
    """Title, value and meaning of each score."""
    verdict: str = ""
    """The diagnosis in one sentence."""
    findings: tuple[tuple[str, str], ...] = ()
    """Each failure mode: its title, and what was measured."""
    limits: tuple[str, ...] = ()


def render_card(card: ModelCard) -> str:
    """Write a model card as Markdown."""
    parts = [
        front_matter(card),
        f"# {one_line(card.title)}",
        card.summary,
        "<Gallery />" if card.images else "",
        f"## Trigger\n\nSay `{card.trigger.replace('`', '')}` in the prompt.",
        "## Files\n\n" + table(("File", "What it is"), [(f"`{name}`", words) for name, words in card.files]),
        "## How to use it\n\n" + "\n\n".join(usage_section(usage) for usage in card.usages),
        "## Training\n\n" + table(("Setting", "Value"), card.facts),
        "## Scores\n\n" + table(("Metric", "Value", "What it is"), card.scores) if card.scores else "",
        diagnosis_part(card),
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in card.limits) if card.limits else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def front_matter(card: ModelCard) -> str:
    """Write the table that the hub reads."""
    lines = [f"license: {quoted(card.license)}"] if card.license else []
    lines += [f"base_model: {quoted(card.base_model)}"] if card.base_model else []
    lines += ["library_name: diffusers", "pipeline_tag: text-to-image", f"instance_prompt: {quoted(card.trigger)}"]
    lines += ["tags:", *(f"- {quoted(tag)}" for tag in card.tags)]
    lines += ["widget:"] if card.images else []
    for image in card.images:
        lines += [f"- text: {quoted(image.prompt)}", "  output:", f"    url: {quoted(image.file)}"]
    return "\n".join(["---", *lines, "---"])


def quoted(text: str) -> str:
    """Quote a text for YAML."""
    return json.dumps(text, ensure_ascii=False)


def one_line(text: str) -> str:
    """Write a text in one line."""
    return " ".join(text.split())


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table; a bar in a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(one_line(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def usage_section(usage: CardUsage) -> str:
    """Write the section of one tool; the fence is longer than any in the code."""
    longest = max((len(ticks) for ticks in re.findall(r"`+", usage.code)), default=0)
    fence = "`" * max(3, longest + 1)
    code = f"{fence}{usage.language}\n{usage.code}\n{fence}" if usage.code else ""
    return "\n\n".join(part for part in (f"### {usage.tool}", usage.words, code) if part)


def diagnosis_part(card: ModelCard) -> str:
    """Write the diagnosis in plain words."""
    if not card.verdict:
        return ""
    found = "\n".join(f"- **{one_line(title)}**: {one_line(message)}" for title, message in card.findings)
    return f"## Diagnosis\n\n{one_line(card.verdict)}" + (f"\n\n{found}" if found else "")
