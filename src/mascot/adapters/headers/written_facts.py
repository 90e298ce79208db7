"""What the header of a file says already, read back so that it can be said in another format."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from mascot.adapters.headers.adapter_facts import AdapterFacts
from mascot.adapters.headers.model_spec import ARCHITECTURES, NEWER, PREDICTIONS, PREFIX, VELOCITY
from mascot.storage.strict_parsing import MalformedText, parse_json

CARRIED: Final = tuple(f"{PREFIX}{key}" for key in ("author", "tags", "merged_from"))
"""Keys that are carried over as they are."""


def with_header(facts: AdapterFacts, metadata: Mapping[str, str]) -> AdapterFacts:
    """Return facts with what a file's header says, where it says something.

    The name in prompts stays: it is that of the file that is written.
    """
    said = {key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)}
    words = {word.strip(): 0 for word in said.get("trigger_phrase", "").split(",") if word.strip()}
    return replace(
        facts,
        architecture=facts.architecture or architecture_said(said.get("architecture", "")),
        title=said.get("title") or facts.title,
        description=said.get("description", facts.description),
        license=facts.license or said.get("license"),
        date=said.get("date") or facts.date,
        thumbnail=facts.thumbnail or said.get("thumbnail"),
        resolution=resolution_in(metadata) or facts.resolution,
        prediction=prediction_in(metadata) or facts.prediction,
        triggers=counted(facts.triggers or words, metadata),
    )


def architecture_said(text: str) -> str | None:
    """Read the architecture of an id such as `stable-diffusion-v1/lora`; None if unknown."""
    name = text.partition("/")[0]
    known = {spec: ours for names in (ARCHITECTURES, VELOCITY) for ours, spec in names.items()}
    return known.get(name, "sd3" if name in NEWER.values() else None)


def resolution_in(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """Read width and height, from ModelSpec's key or kohya's."""
    text = metadata.get(f"{PREFIX}resolution") or metadata.get("ss_resolution", "")
    numbers = re.findall(r"\d{1,5}", text)
    return (int(numbers[0]), int(numbers[-1])) if numbers else None


def prediction_in(metadata: Mapping[str, str]) -> str | None:
    """Read what the base predicts; None where the header does not say."""
    said = metadata.get(f"{PREFIX}prediction_type")
    if said is None and (version := metadata.get("ss_base_model_version", "")).startswith("sd_v"):
        said = "v" if version.endswith("_v") else "epsilon"
    return next((ours for ours, theirs in PREDICTIONS.items() if theirs == said), None)


def counted(triggers: Mapping[str, int], metadata: Mapping[str, str]) -> dict[str, int]:
    """Take the number of photos of each trigger from kohya's counts of tags, where known."""
    try:
        folders = parse_json(metadata.get("ss_tag_frequency", "{}"))
    except MalformedText:
        folders = {}
    counts: dict[str, int] = {}
    for tags in folders.values() if isinstance(folders, dict) else ():
        if isinstance(tags, dict):
            counts |= {tag: count for tag, count in tags.items() if isinstance(count, int)}
    return {word: counts.get(word.lower(), number) for word, number in triggers.items()}


def carried_keys(metadata: Mapping[str, str]) -> dict[str, str]:
    """Select keys that hold for an adapter in any format, and that we do not write."""
    return {key: value for key, value in metadata.items() if key in CARRIED}
