"""HTML as a value that a notebook shows."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Fragment:
    """HTML that a notebook shows as it is, where a cell ends in it."""

    html: str = field(repr=False)

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return self.html
