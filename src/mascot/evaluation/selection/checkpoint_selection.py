"""Checkpoint selection: keep the best of the checkpoints, and stop training early."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Self

from pydantic import TypeAdapter

from mascot.evaluation.selection.criterion import MINIMUM_GAIN, ReferenceScores, SelectionScore, ValidationResult, score
from mascot.progress import CheckpointValidated


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointResult:
    """The validation of one checkpoint."""

    step: int
    result: ValidationResult
    score: SelectionScore

    @property
    def event(self) -> CheckpointValidated:
        """The event that reports it."""
        return CheckpointValidated(
            step=self.step,
            likeness=self.result.likeness,
            prompt_fidelity=self.result.prompt_fidelity,
            likeness_gain=self.score.likeness_gain,
            prompt_kept=self.score.prompt_kept,
            copying=self.score.copying,
            score=self.score.total,
        )


@dataclass(slots=True, kw_only=True)
class CheckpointSelector:
    """Collects the results of checkpoints in order, and decides which to keep and when to stop."""

    references: ReferenceScores
    patience: int
    """Number of validations in a row without a better one after which training stops."""
    names: tuple[str, ...] = ()
    """The names of several subjects."""
    results: list[CheckpointResult] = field(default_factory=list[CheckpointResult])
    counted_from: int = 0
    """Number of results before the run was extended, with which patience has nothing to do."""

    def add(self, step: int, result: ValidationResult) -> bool:
        """Add the result of a later step; returns whether it is the best so far."""
        assert not self.results or step > self.results[-1].step, "steps come in order"
        before = self.best
        self.results.append(CheckpointResult(step=step, result=result, score=score(result, self.references)))
        return self.best is not before

    @property
    def best(self) -> CheckpointResult | None:
        """The earliest result that no later one exceeds by more than `MINIMUM_GAIN`."""
        best: CheckpointResult | None = None
        for result in self.results:
            if best is None or result.score.total > best.score.total + MINIMUM_GAIN:
                best = result
        return best

    @property
    def should_stop(self) -> bool:
        """Whether the last `patience` results all follow the best one, whose score is above 0."""
        best = self.best
        if best is None or best.score.total == 0:
            return False
        first = max(self.results.index(best) + 1, self.counted_from)
        return len(self.results) - first >= self.patience

    @property
    def reason(self) -> str:
        """Why the best checkpoint was chosen, in one sentence."""
        best = self.best
        if best is None:
            return "no checkpoint was validated; the last step is kept."
        text = (
            f"step {best.step} is kept: {best.score.likeness_gain:.0%} of the way from the base model to real photos, "
            f"{best.score.prompt_kept:.0%} of the base model's prompt fidelity"
        )
        if best.score.copying:
            text += f", {best.score.copying:.0%} nearer to a training photo than photos are to each other"
        if best.score.each:
            pairs = zip(self.names, best.score.each, strict=True)
            text += f" (mean of {', '.join(f'{n} {s.likeness_gain:.0%} and {s.prompt_kept:.0%}' for n, s in pairs)})"
        if self.should_stop:
            later = self.results[self.results.index(best) + 1 :]
            return f"{text}; the {len(later)} validations after it, up to step {later[-1].step}, were no better."
        return f"{text}; the best of {len(self.results)} validations."

    def go_on(self, *, after: int, patience: int, anew: bool) -> None:
        """Go on after a step: results of later steps, which will be trained again, are dropped.

        `anew` counts patience from here, since the run is extended.
        """
        self.results = [result for result in self.results if result.step <= after]
        self.patience = patience
        self.counted_from = len(self.results) if anew else min(self.counted_from, len(self.results))

    def to_json(self) -> dict[str, Any]:
        """Convert everything that the next decision depends on to JSON values."""
        return without_empty(asdict(self))

    @classmethod
    def from_json(cls, values: object) -> Self:
        """Restore a selector from what `to_json` returned.

        Raises:
            ValueError: the values are not those of a selector.
        """
        return TypeAdapter(cls, config=None).validate_python(values)


def without_empty(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out what only several subjects have, wherever it is empty."""
    kept = {key: value for key, value in values.items() if value != () or key not in {"each", "others", "names"}}
    return {
        key: without_empty(value)
        if isinstance(value, dict)
        else [without_empty(item) if isinstance(item, dict) else item for item in value]
        if isinstance(value, list | tuple)
        else value
        for key, value in kept.items()
    }
