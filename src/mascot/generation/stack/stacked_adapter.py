"""One adapter of those that are applied together: its content, names and scales."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mascot.adapters.adapter_file import Adapter
from mascot.adapters.token_rows import RECORDS_KEY, read_records
from mascot.generation.knobs import Knobs
from mascot.models.token_embeddings import normalize_token
from mascot.protocols import Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class StackedAdapter:
    """One of the adapters that are applied together."""

    adapter: Adapter
    path: Path = Path()
    """Its file."""
    name: str = ""
    """Its name in prompts."""
    place: str = "this adapter"
    """What the user calls it, without scales."""
    named: bool = False
    """Whether the user gave the name."""
    scales: Mapping[str, float] = field(default_factory=dict[str, float])
    """Its scales that the user gave, as knobs."""
    unet_scale: float = 1.0
    """Its scale beside others, times that of the knobs."""
    text_scale: float = 1.0

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """Its subjects, with their names in prompts; empty where it names none.

        The only one has the adapter's name, and several have names of their own; where the user
        gave the adapter a name, that stands before them with a dot.
        """
        if self.adapter.manifest is None:
            return ()
        alone = [replace(one, others=()) for one in self.adapter.manifest.subject.all]
        if len(alone) == 1:
            return (replace(alone[0], name=self.name or None),)
        return tuple(replace(one, name=f"{self.name}.{one.name}") for one in alone) if self.named else tuple(alone)

    @property
    def trained_words(self) -> tuple[str, ...]:
        """The tokens that it has embeddings of its own for, in the letters of a tokenizer."""
        keys = [key for key in self.adapter.metadata if re.fullmatch(rf"(stage\d+\.)?{RECORDS_KEY}", key)]
        records = [record for key in keys for record in read_records({RECORDS_KEY: self.adapter.metadata[key]})]
        return tuple(dict.fromkeys(normalize_token(record.token) for record in records))


Stack = Sequence[StackedAdapter]
"""Adapters in the order in which the user gave them."""


def describe_adapters(stack: Stack, knobs: Knobs) -> dict[str, object]:
    """Describe adapters and their scales for the settings of an image, the second as number 2."""
    if len(stack) == 1:
        scales = {"UNet scale": knobs.unet_scale, "Text encoder scale": knobs.text_scale}
        return {"Adapter": stack[0].path.name, **scales}
    facts: dict[str, object] = {}
    for number, one in enumerate(stack, 1):
        mark = f" {number}" if number > 1 else ""
        facts[f"Adapter{mark}"] = Path(one.place).name
        facts |= {f"UNet scale{mark}": one.unet_scale, f"Text encoder scale{mark}": one.text_scale}
    return facts
