"""The schedule of a run: every phase of its method on every stage of its base, in order."""

from __future__ import annotations

from dataclasses import dataclass

from mascot.protocols import Method, Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseSpan:
    """The steps of a run, from `first` to before `last`, in which one phase trains one stage."""

    stage: int
    """Index of the stage in the base."""
    phase: Phase
    first: int
    last: int


def plan_spans(stages: int, method: Method, steps: int, *, started: bool = False) -> tuple[PhaseSpan, ...]:
    """Plan all phases of a method for each of a base's stages in turn.

    Each stage is trained for `steps` steps, which its phases share. A run that is `started` from an
    adapter, which has been through all phases, trains the last one alone.
    """
    spans: list[PhaseSpan] = []
    for stage in range(stages):
        share, first = 0.0, stage * steps
        for number, scheduled in enumerate(method.phases, 1):
            share += scheduled.share
            ended = float(number == len(method.phases)) if started else share
            last = stage * steps + round(ended * steps)
            spans.append(PhaseSpan(stage=stage, phase=scheduled.phase, first=first, last=last))
            first = last
    return tuple(spans)
