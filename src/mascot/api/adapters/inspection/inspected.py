"""What `inspect` returns: everything that it told of a file or a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mascot.api.adapters.inspection.file_facts import BlockFacts, PartFacts, WordFacts
from mascot.api.adapters.inspection.stated import Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSize:
    """One part of a base."""

    part: str
    parameters: int
    dtypes: Mapping[str, int]
    """The format's name of a type -> the number of values of that type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a file or folder holds; what does not apply is None or empty."""

    path: str
    what: str
    """In a few words, such as `a LoRA` or `a checkpoint`."""
    bytes: int
    architecture: str | None = None
    """The kind of base, such as `sd1`."""
    format: str | None = None
    """The tools whose names an adapter's tensors have."""
    method: str | None = None
    """The method of training, where the file says it."""
    trigger: str | None = None
    """What stands for the subject in prompts: token and class noun."""
    base: str | None = None
    base_identity: str | None = None
    steps: int | None = None
    resolution: int | None = None
    knobs: Mapping[str, Any] | None = None
    prediction: str | None = None
    """What a base predicts: `epsilon`, `v_prediction` or `flow`, where it says so."""
    kept_steps: tuple[int, ...] = ()
    """The steps whose adapters a run keeps."""
    parts: tuple[PartFacts, ...] = ()
    blocks: tuple[BlockFacts, ...] = ()
    words: tuple[WordFacts, ...] = ()
    sizes: tuple[PartSize, ...] = ()
    """The parts of a base."""
    dtypes: Mapping[str, int] = field(default_factory=dict[str, int])
    statements: tuple[Statement, ...] = ()
    """What the header says."""
    warnings: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """The number of values."""
        return sum(self.dtypes.values())
