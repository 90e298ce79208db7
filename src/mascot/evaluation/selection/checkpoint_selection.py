"""TODO evaluation.selection.checkpoint_selection."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Self

from mascot.evaluation.selection.criterion import MINIMUM_GAIN, ReferenceScores, SelectionScore, ValidationResult, score


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointResult:
    """One checkpoint that was looked at."""

    step: int
    measured: ValidationResult
    score: SelectionScore


@dataclass(slots=True, kw_only=True)
class CheckpointSelector:
    """Is told of checkpoints as they come, knows the best, and says when training has stopped paying."""

    references: ReferenceScores
    patience: int
    """Looks in a row without a better one after which training stops."""
    results: list[CheckpointResult] = field(default_factory=list[CheckpointResult])

    def add(self, step: int, measured: ValidationResult) -> bool:
        """Take one checkpoint in; returns whether it is the best so far. One that was told before is not told again."""
        assert not self.results or step > self.results[-1].step, "steps come in order"
        before = self.best
        self.results.append(CheckpointResult(step=step, measured=measured, score=score(measured, self.references)))
        return self.best is not before

    @property
    def best(self) -> CheckpointResult | None:
        """The earliest look that no later one beats by more than is worth it."""
        best: CheckpointResult | None = None
        for result in self.results:
            if best is None or result.score.total > best.score.total + MINIMUM_GAIN:
                best = result
        return best

    @property
    def should_stop(self) -> bool:
        """Whether the last looks, as many as patience, are all after the best one, and something was learned at all."""
        best = self.best
        if best is None or best.score.total == 0:
            return False
        return len(self.results) - 1 - self.results.index(best) >= self.patience

    @property
    def reason(self) -> str:
        """Why the best one was chosen, in one sentence."""
        best = self.best
        if best is None:
            return "no checkpoint was looked at; the last step is kept."
        text = (
            f"step {best.step} is kept: {best.score.gain:.0%} of the way from the untouched base to real photos, "
            f"{best.score.kept:.0%} of the base's prompt fidelity"
        )
        text += (
            f", {best.score.copying:.0%} nearer to a training photo than photos are to each other"
            if best.score.copying
            else ""
        )
        if self.should_stop:
            later = self.results[self.results.index(best) + 1 :]
            return f"{text}; the {len(later)} looks after it, up to step {later[-1].step}, were no better."
        return f"{text}; the best of {len(self.results)} looks."

    def forget_after(self, step: int) -> None:
        """Drop looks at later steps: they will be trained again."""
        self.results = [result for result in self.results if result.step <= step]

    def to_json(self) -> dict[str, Any]:
        """All that the next decision depends on."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        results = [
            CheckpointResult(
                step=validate["step"],
                measured=ValidationResult(**validate["measured"]),
                score=SelectionScore(**validate["score"]),
            )
            for validate in values["results"]
        ]
        return cls(references=ReferenceScores(**values["references"]), patience=values["patience"], results=results)
