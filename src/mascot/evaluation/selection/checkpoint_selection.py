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

    frame: ReferenceScores
    patience: int
    """Looks in a row without a better one after which training stops."""
    looks: list[CheckpointResult] = field(default_factory=list[CheckpointResult])

    def tell(self, step: int, measured: ValidationResult) -> bool:
        """Take one checkpoint in; returns whether it is the best so far. One that was told before is not told again."""
        assert not self.looks or step > self.looks[-1].step, "steps come in order"
        before = self.best
        self.looks.append(CheckpointResult(step=step, measured=measured, score=score(measured, self.frame)))
        return self.best is not before

    @property
    def best(self) -> CheckpointResult | None:
        """The earliest look that no later one beats by more than is worth it."""
        best: CheckpointResult | None = None
        for look in self.looks:
            if best is None or look.score.total > best.score.total + MINIMUM_GAIN:
                best = look
        return best

    @property
    def has_stopped_paying(self) -> bool:
        """Whether the last looks, as many as patience, are all after the best one, and something was learned at all."""
        best = self.best
        if best is None or best.score.total == 0:
            return False
        return len(self.looks) - 1 - self.looks.index(best) >= self.patience

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
        text += f", {best.score.copying:.0%} nearer to a training photo than photos are to each other" if best.score.copying else ""
        if self.has_stopped_paying:
            later = self.looks[self.looks.index(best) + 1 :]
            return f"{text}; the {len(later)} looks after it, up to step {later[-1].step}, were no better."
        return f"{text}; the best of {len(self.looks)} looks."

    def forget_after(self, step: int) -> None:
        """Drop looks at later steps: they will be trained again."""
        self.looks = [look for look in self.looks if look.step <= step]

    def to_json(self) -> dict[str, Any]:
        """All that the next decision depends on."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        looks = [
            CheckpointResult(step=look["step"], measured=ValidationResult(**look["measured"]), score=SelectionScore(**look["score"]))
            for look in values["looks"]
        ]
        return cls(frame=ReferenceScores(**values["frame"]), patience=values["patience"], looks=looks)
