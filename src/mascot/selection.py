"""Which checkpoint, and which inference knobs: measured on validation prompts, so that likeness is not bought with the prompt.

Pure logic: whoever draws and measures calls it with numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from mascot.generation.knobs import Knobs

Measure = Callable[[Knobs, int], "Measured"]
"""Draws so many pictures at some knobs (a larger number contains the smaller's) and measures them."""


class Settings(BaseModel):
    """How checkpoint and knobs are chosen while training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    active: bool = Field(default=True, description="choose checkpoint and knobs by measured likeness and prompt fidelity")
    looks: int = Field(default=6, ge=1, le=100, description="checkpoints that are looked at, the last step among them")
    patience: int = Field(default=3, ge=1, le=100, description="looks in a row without a better one after which training stops")
    knobs: bool = Field(default=True, description="search guidance, UNet scale and text scale afterwards")
    identity: str | None = Field(default=None, description="encoder of likeness: folder, hub id or starter; none takes the usual")
    clip: str | None = Field(default=None, description="encoder of prompts, likewise")
    cost: float = Field(default=1.0, gt=0, le=100, description="passes through the denoiser at most, as a share of training's own")


WORTH = 0.01
"""The least gain in score that counts as one: smaller ones come and go with the seeds."""
LEAVING = 0.02
"""The least gain over the recipe's own knobs for which they are left: the best of a dozen settings is a little higher by chance alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What pictures of validation prompts came to."""

    likeness: float
    """Mean cosine to the photos (metrics/subject.py)."""
    prompt: float
    """CLIP-T (metrics/prompt.py)."""
    nearest: float
    """Mean over pictures of the highest cosine to a photo that was trained on, none counted below `Frame.real_nearest`: so one copy among
    many is not hidden by the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Between what the measured lies."""

    base_likeness: float
    """Of the untouched base, asked for the class."""
    real_likeness: float | None
    """Of photos among themselves; None with one photo."""
    base_prompt: float
    floor_prompt: float
    """CLIP-T of noise: what a picture gets that shows nothing."""
    real_nearest: float | None
    """Mean over photos of the highest cosine to another photo; None with one photo."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How good some pictures are, and why."""

    gain: float
    """Likeness, 0 at the untouched base and 1 at real photos."""
    kept: float
    """Prompt fidelity, 0 at the floor and 1 at the base's own."""
    copying: float
    """How far pictures are nearer to a training photo than photos are to each other, 0..1."""
    total: float


def score(measured: Measured, frame: Frame) -> Score:
    """Join likeness and prompt fidelity by their harmonic mean, less the share that is copied; all in 0..1.

    Likeness beyond the photos' own is copying too. Where CLIP cannot tell the base's own pictures from noise, prompts say nothing and count
    as kept; where the base is as near to the photos as they are to each other, only what is nearer still is a gain.
    A harmonic mean is near the smaller of two: a likeness of 1 with a prompt of 0 is worth nothing. With one photo real photos count as
    1 apart from nothing (a cosine of 1), and copying cannot be told from likeness: it is 0.
    """
    real = 1.0 if frame.real_likeness is None else frame.real_likeness
    gain = placed(measured.likeness, frame.base_likeness, real)
    says = frame.base_prompt - frame.floor_prompt > WORTH
    kept = placed(measured.prompt, frame.floor_prompt, frame.base_prompt) if says else 1.0
    copying = 0.0
    if frame.real_nearest is not None and frame.real_likeness is not None:
        copying = max(placed(measured.nearest, frame.real_nearest, 1.0), placed(measured.likeness, max(real, frame.base_likeness), 1.0))
    joined = 2 * gain * kept / (gain + kept) if gain + kept else 0.0
    return Score(gain=gain, kept=kept, copying=copying, total=joined * (1 - copying))


def placed(value: float, low: float, high: float) -> float:
    """Where a value lies between two others, 0..1; where these are not apart, whether it lies above both."""
    if high - low < 1e-6:
        return float(value > max(low, high) + WORTH)
    return min(1.0, max(0.0, (value - low) / (high - low)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One checkpoint that was looked at."""

    step: int
    measured: Measured
    score: Score


@dataclass(slots=True, kw_only=True)
class Chooser:
    """Is told of checkpoints as they come, knows the best, and says when training has stopped paying."""

    frame: Frame
    patience: int
    """Looks in a row without a better one after which training stops."""
    looks: list[Look] = field(default_factory=list[Look])

    def tell(self, step: int, measured: Measured) -> bool:
        """Take one checkpoint in; returns whether it is the best so far. One that was told before is not told again."""
        assert not self.looks or step > self.looks[-1].step, "steps come in order"
        before = self.best
        self.looks.append(Look(step=step, measured=measured, score=score(measured, self.frame)))
        return self.best is not before

    @property
    def best(self) -> Look | None:
        """The earliest look that no later one beats by more than is worth it."""
        best: Look | None = None
        for look in self.looks:
            if best is None or look.score.total > best.score.total + WORTH:
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
        looks = [Look(step=look["step"], measured=Measured(**look["measured"]), score=Score(**look["score"])) for look in values["looks"]]
        return cls(frame=Frame(**values["frame"]), patience=values["patience"], looks=looks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One setting of the knobs that was tried."""

    knobs: Knobs
    count: int
    """Pictures that it was judged by in the end."""
    measured: Measured
    score: Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The knobs to draw with, and all that were tried, the best first."""

    knobs: Knobs
    trials: tuple[Trial, ...]
    usual: Trial
    """The recipe's own knobs, which were judged to the end."""
    drawn: int
    """Pictures that were drawn for it."""

    @property
    def reason(self) -> str:
        """What is recommended, and by how much it beats the recipe's own knobs, in one sentence."""
        best, tried = self.trials[0], f"{len(self.trials)} settings tried with {self.drawn} pictures"
        if len(self.trials) == 1:
            return f"{turned(best.knobs)}, as in the recipe: there were pictures to try no other."
        if best.knobs == self.usual.knobs:
            return f"{turned(best.knobs)}, as in the recipe: score {best.score.total:.2f}; none of {tried} has {LEAVING:g} more."
        usual = f"where the recipe's own ({turned(self.usual.knobs)}) have {self.usual.score.total:.2f}"
        return f"{turned(best.knobs)}: score {best.score.total:.2f}, {usual}; the best of {tried}."


def turned(knobs: Knobs) -> str:
    """The three knobs that are searched, in words."""
    return f"guidance {knobs.guidance:g}, UNet scale {knobs.unet_scale:g}, text scale {knobs.text_scale:g}"


def knob_grid(usual: Knobs) -> list[Knobs]:
    """The study's three knobs around the usual ones, which come first: guidance x UNet scale x text-encoder scale."""
    grid = [
        usual.model_copy(update={"guidance": round(usual.guidance * times, 2), "unet_scale": unet, "text_scale": text})
        for times in (1.0, 0.6, 1.6)
        for unet in (1.0, 0.85, 0.7)
        for text in (1.0, 0.5)
    ]
    return [usual, *(knobs for knobs in grid if knobs != usual)]


def search_knobs(measure: Measure, frame: Frame, grid: Sequence[Knobs], *, budget: int, first: int, last: int) -> Recommendation:
    """Search a grid by successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943), with at most `budget` pictures.

    Every setting is judged by `first` pictures, the better third by twice as many, and so on up to `last`; pictures are those of before
    and some more. The grid's first setting, the usual one, stays to the end: what is recommended instead has beaten it on all pictures.
    So many settings begin as the whole search has pictures for, from the grid's beginning. The usual setting is left for a gain of
    LEAVING alone; of others whose scores are not worth telling apart the earlier in the grid is taken.

    Raises:
        ValueError: there is no setting, or the budget does not hold `first` pictures of one.
    """
    fitting = [count for count in range(1, len(grid) + 1) if cost_of(count, first, last) <= budget]
    alive = list(grid)[: max(fitting, default=budget // first)]
    if not alive:
        raise ValueError("the budget does not hold one setting")
    tried: dict[int, Trial] = {}
    drawn, count, had = 0, first, 0
    while True:
        for knobs in alive:
            measured = measure(knobs, count)
            tried[grid.index(knobs)] = Trial(knobs=knobs, count=count, measured=measured, score=score(measured, frame))
        drawn += (count - had) * len(alive)
        ranked = sorted(alive, key=lambda knobs: order(tried[grid.index(knobs)], grid.index(knobs)))
        better = ranked[: math.ceil(len(alive) / 3)]
        alive = better if grid[0] in better else [*better, grid[0]]
        had, count = count, min(last, 2 * count)
        if had == last or (count - had) * len(alive) > budget - drawn:
            break
    finalists = [(place, trial) for place, trial in tried.items() if trial.count == had]
    top = max(trial.score.total for _, trial in finalists)
    margins = {place: WORTH if place else LEAVING for place, _ in finalists}
    best = min((place, trial) for place, trial in finalists if trial.score.total >= top - margins[place])[1]
    others = [trial for _, trial in sorted(tried.items(), key=lambda item: order(item[1], item[0])) if trial is not best]
    return Recommendation(knobs=best.knobs, trials=(best, *others), usual=tried[0], drawn=drawn)


def cost_of(settings: int, first: int, last: int) -> int:
    """Pictures at most that a search over so many settings draws."""
    total, count = settings * first, first
    while count < last:
        settings = min(settings, math.ceil(settings / 3) + 1)
        total += (min(last, 2 * count) - count) * settings
        count = min(last, 2 * count)
    return total


def order(trial: Trial, place: int) -> tuple[int, float, int]:
    """Sort the longest judged first, then the best, then the grid's order."""
    return -trial.count, -trial.score.total, place
