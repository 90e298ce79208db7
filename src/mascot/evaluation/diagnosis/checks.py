"""The number of each ailment, and the threshold beyond which it is one.

All numbers are shares, placed between the untouched base and real photos (see `measurements.py`), so that they mean the same by any encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal, Self, get_args

from mascot.data.photo_audit import ALIKE as ALIKE_BACKGROUNDS
from mascot.evaluation.bootstrap import Interval, bootstrap
from mascot.evaluation.diagnosis.measurements import Rows, RunMeasurements
from mascot.evaluation.diagnosis.thresholds import (
    ALIKE,
    BLED,
    COPIED,
    DRIFTED,
    FOLLOWED,
    HEARD,
    LEAKED,
    LEARNED,
    NAMED,
    TWINS,
    VARIED,
)

FailureMode = Literal[
    "undertrained",
    "memorised",
    "class drifted",
    "diversity collapsed",
    "prompt ignored",
    "context and looks entangled",
    "context not drawn",
    "token leaked",
    "photos too alike",
]


Severity = Literal["serious", "warning", "note"]


FAILURE_MODES: tuple[FailureMode, ...] = get_args(FailureMode)


_SEED = 0  # of the bootstraps: the same evidence always gives the same interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One number that an ailment is looked for by."""

    failure_mode: FailureMode
    severity: Severity
    measured: str
    """What the number is."""
    means: str
    """What it means where it is beyond the threshold."""
    threshold: float
    above: bool
    """Ill above the threshold; else below it."""
    interval: Interval | None = None
    """None where it could not be measured."""
    reason: str = ""
    """Why it could not."""
    only_if: bool = True
    """What else has to be so."""
    added: str = ""
    """What else is to be said."""

    def over(self, rows: Rows) -> Self:
        """The same with the mean of these rows and its interval, or with the reason why there are none."""
        return (
            replace(self, reason=rows) if isinstance(rows, str) else replace(self, interval=bootstrap(rows, seed=_SEED))
        )

    @property
    def bounds(self) -> tuple[float, float]:
        """The interval's; the value itself where there is one row."""
        assert self.interval is not None
        mean = self.interval.mean
        return (
            mean if self.interval.low is None else self.interval.low,
            mean if self.interval.high is None else self.interval.high,
        )

    @property
    def triggered(self) -> bool:
        """Whether the whole interval lies beyond the threshold."""
        if self.interval is None or not self.only_if:
            return False
        return self.bounds[0] > self.threshold if self.above else self.bounds[1] < self.threshold

    @property
    def excess(self) -> float:
        """How far beyond the threshold its mean lies."""
        assert self.interval is not None
        return abs(self.interval.mean - self.threshold)

    @property
    def message(self) -> str:
        """What it means, the number with its interval, and the threshold."""
        assert self.interval is not None
        low, high = self.bounds
        spread = f" ({low:.0%} to {high:.0%})" if high > low else ""
        side = "above" if self.above else "below"
        what = f"{self.measured[0].upper()}{self.measured[1:]}"
        return f"{self.means} {what}: {self.interval.mean:.0%}{spread}; ill {side} {self.threshold:.0%}.{self.added}"


def run_checks(measurements: RunMeasurements) -> tuple[Check, ...]:
    """Everything that ailments are looked for by, in a fixed order."""
    return tuple(read(measurements) for read in CHECKS)


def undertrained(measurements: RunMeasurements) -> Check:
    """Read how much likeness was gained over the base, prompt by prompt."""
    return Check(
        failure_mode="undertrained", severity="serious", measured="likeness gained, from the untouched base (0) to the photos (1)",
        means="The subject was hardly learned.", threshold=LEARNED, above=False,
    ).over(measurements.gains)  # fmt: skip


def memorised(measurements: RunMeasurements) -> Check:
    """Read how near pictures lie to a single photo; only where prompts are not followed either is that a copy."""
    heard = None if isinstance(measurements.obeyed, str) else fmean(measurements.obeyed)
    said = (
        ""
        if heard is None
        else f" Prompts move its pictures {heard:.0%} as far as the base's (for this {HEARD:.0%} would excuse it)."
    )
    return Check(
        failure_mode="memorised", severity="serious",
        measured="nearness to one photo, from as near as the next photo (0) to the photo itself (1)",
        means="Its pictures are training photos again.", threshold=COPIED, above=True,
        only_if=heard is None or heard < HEARD, added=said,
    ).over(measurements.copies)  # fmt: skip


def class_drifted(measurements: RunMeasurements) -> Check:
    """Read how far the class moved to the photos: PRES less the untouched base's, seed by seed."""
    return Check(
        failure_mode="class drifted", severity="warning", measured="movement of the class (PRES - base) to the photos, which lie at 1",
        means="The class has turned towards the subject.", threshold=DRIFTED, above=True,
    ).over(measurements.drifts)  # fmt: skip


def diversity_collapsed(measurements: RunMeasurements) -> Check:
    """Read how different the pictures of one prompt are, beside the base's."""
    return Check(
        failure_mode="diversity collapsed", severity="warning", measured="variety (DIV) of a prompt's pictures, of which the base has 1",
        means="Other seeds draw the same picture.", threshold=VARIED, above=False,
    ).over(measurements.varieties)  # fmt: skip


def prompt_ignored(measurements: RunMeasurements) -> Check:
    """Read how far prompts move the pictures, beside the base's; of prompts that the base can draw."""
    rows = [prompt for prompt in measurements.drawable if prompt.fidelity is not None]
    trained, base = (fmean(values) if values else 0.0 for values in (
        [float(prompt.fidelity or 0) for prompt in rows], [float(prompt.base_fidelity or 0) for prompt in rows]
    ))  # fmt: skip
    return Check(
        failure_mode="prompt ignored", severity="serious", measured="how far prompts move its pictures, of which they move the base's 1",
        means="What stands beside the subject in the prompt is not drawn.", threshold=FOLLOWED, above=False,
        added=f" CLIP-T is {trained:.3f}, the base's {base:.3f}.",
    ).over(measurements.obeyed)  # fmt: skip


def entangled(measurements: RunMeasurements) -> Check:
    """Read how much of the scene's change of colour the subject takes over, more than the base's class does, seed by seed."""
    return Check(
        failure_mode="context and looks entangled", severity="warning",
        measured="share of the scene's change of colour that the subject takes over, less the base's",
        means="The subject's colours move with the scene.", threshold=BLED, above=True,
    ).over(measurements.bleeding)  # fmt: skip


def context_not_drawn(measurements: RunMeasurements) -> Check:
    """Read how many prompts the untouched base cannot draw either."""
    known = [prompt for prompt in measurements.prompts if prompt.contrasts is not None]
    undrawn = [prompt for prompt in known if not prompt.drawn_by_base]
    listed = "; ".join(
        f"{prompt.prompt!r} (matched better than the base's other pictures {prompt.base_rank or 0:.0%} of the time)"
        for prompt in undrawn
    )
    rows = (
        [len(undrawn) / len(known)]
        if len(known) > 1
        else "without a class noun and two prompts the base's own pictures say nothing"
    )
    return Check(
        failure_mode="context not drawn", severity="note", measured="prompts that the untouched base does not draw either",
        means="Some of what was asked for, the base cannot draw.", threshold=0.0, above=True, added=f" {listed}." if listed else "",
    ).over(rows)  # fmt: skip


def leaked_by_class(measurements: RunMeasurements) -> Check:
    """Read whether the class alone draws the subject."""
    return Check(
        failure_mode="token leaked", severity="serious", measured="likeness of the class alone, from the untouched base (0) to the photos (1)",
        means="The class without the token draws the subject.", threshold=LEAKED, above=True,
    ).over(measurements.placed(measurements.class_now))  # fmt: skip


def leaked_by_token(measurements: RunMeasurements) -> Check:
    """Read whether the token draws the subject without the class noun."""
    return Check(
        failure_mode="token leaked", severity="note", measured="likeness of the token alone, from the untouched base (0) to the photos (1)",
        means="The token draws the subject without the class noun, which then says little.", threshold=NAMED, above=True,
    ).over(measurements.placed(measurements.token_alone))  # fmt: skip


def photos_alike(measurements: RunMeasurements) -> Check:
    """Read how alike the photos are, beside how alike the base's class is to them."""
    scale = measurements.scale
    rows = scale if isinstance(scale, str) else [(scale[1] - scale[0]) / (1 - scale[0])]
    return Check(
        failure_mode="photos too alike", severity="warning", measured="likeness of the photos, from the base's to them (0) to one picture (1)",
        means="The photos show the same thing again and again.", threshold=ALIKE, above=True,
    ).over(rows)  # fmt: skip


def photos_twice(measurements: RunMeasurements) -> Check:
    """Read how many photos show what another one shows."""
    rows = [measurements.twins / measurements.photos] if measurements.photos > 1 else "there are not two photos"
    return Check(
        failure_mode="photos too alike", severity="warning", measured="photos that show what another one shows",
        means="The same photo is there more than once.", threshold=TWINS, above=True,
    ).over(rows)  # fmt: skip


def backgrounds_alike(measurements: RunMeasurements) -> Check:
    """Read how much the backgrounds of the photos have in common: what is always there is learned with the subject."""
    rows = "there are not two photos with a background" if measurements.sameness is None else [measurements.sameness]
    return Check(
        failure_mode="photos too alike", severity="note", measured="colours that the photos' backgrounds share",
        means="The photos have one background, which comes along where the prompt names none.", threshold=ALIKE_BACKGROUNDS, above=True,
    ).over(rows)  # fmt: skip


CHECKS: tuple[Callable[[RunMeasurements], Check], ...] = (
    undertrained, memorised, class_drifted, diversity_collapsed, prompt_ignored, entangled, context_not_drawn, leaked_by_class,
    leaked_by_token, photos_alike, photos_twice, backgrounds_alike,
)  # fmt: skip
"""All readings, in the order of the ailments."""
