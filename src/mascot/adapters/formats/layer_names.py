"""Layer names with underscores for dots, as kohya writes them, and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

NUMBER = re.compile(r"(?<![^._])\d+(?![^._])")
"""A whole number between dots, underscores or ends; `attn1` holds none."""


class FlatNames:
    """Turns underscored names into dotted ones, by the patterns of an architecture's layers.

    Underscores alone do not tell `to_out.0` from `to.out.0`. A pattern is a dotted name with `#`
    for each number: `blocks.#.attn1.to_out.#`.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self.dotted = {pattern.replace(".", "_"): pattern for pattern in patterns}
        self.patterns = frozenset(self.dotted.values())
        assert len(self.dotted) == len(self.patterns), "underscored patterns differ from each other"

    def unflatten(self, flat: str) -> str | None:
        """Return the dotted name of an underscored one; None where no layer is called so."""
        pattern = self.dotted.get(NUMBER.sub("#", flat))
        if pattern is None:
            return None
        numbers = iter(NUMBER.findall(flat))
        return re.sub("#", lambda _: next(numbers), pattern)

    def knows(self, dotted: str) -> bool:
        """Tell whether a dotted name is of one of the patterns."""
        return NUMBER.sub("#", dotted) in self.patterns


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoiserNames:
    """How other tools name the layers of one kind of denoiser.

    Our names are those of diffusers. A name that another tool has no word for is None.
    """

    part: str
    """The part of the base: `unet` or `transformer`."""
    knows: Callable[[str], bool]
    """Tells whether one of our names is of this denoiser."""
    from_flat: Callable[[str], str | None]
    """Turns what follows `lora_unet_` or the like into our name."""
    from_original: Callable[[str], str | None]
    """Turns a dotted name of the original code, as ComfyUI has it, into our name."""
    to_kohya: Callable[[str, str | None], str | None]
    """Turns our name, for an architecture, into what follows `lora_unet_`."""
    to_original: Callable[[str, str | None], str | None]
    """Turns our name, for an architecture, into the dotted name of the original code."""


def join_patterns(starts: Iterable[str], ends: Iterable[str]) -> list[str]:
    """Join each start with each end by a dot."""
    ends = tuple(ends)
    return [f"{start}.{end}" for start in starts for end in ends]


def rename_start(name: str, starts: Mapping[str, str]) -> str | None:
    """Replace the first words of a dotted name by a table; None where it has none of them."""
    for old, new in starts.items():
        if name == old or name.startswith(f"{old}."):
            return f"{new}{name[len(old) :]}"
    return None
