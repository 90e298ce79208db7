"""The course of a run: every phase of its method on every stage of its base, one behind the other."""

from __future__ import annotations

from dataclasses import dataclass

from mascot.protocols import Method, Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseSpan:
    """One phase of the method on one stage of the base: the run's steps from `first` to before `last`."""

    stage: int
    phase: Phase
    first: int
    last: int


def spans(stages: int, method: Method, steps: int) -> tuple[PhaseSpan, ...]:
    """Lay all phases for all stages one behind the other; each stage gets so many steps."""
    made: list[PhaseSpan] = []
    for stage in range(stages):
        along, place = 0.0, stage * steps
        for leg in method.phases:
            along += leg.share
            last = stage * steps + round(along * steps)
            made.append(PhaseSpan(stage=stage, phase=leg.phase, first=place, last=last))
            place = last
    return tuple(made)
