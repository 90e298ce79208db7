"""Checks: one statistic and one threshold for each symptom of a failure mode.

All statistics are shares, normalized by the base model and the photos (see `measurements`), so that
a threshold means the same for any encoder. DreamBooth (Ruiz et al. 2023) describes five of the
failure modes. Section 3.3 has language drift and reduced diversity. Section 5 has incorrect context
synthesis, context-appearance entanglement, and overfitting, here called memorization.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal, Self, get_args

from mascot.data.photo_audit import MAXIMUM_BACKGROUND_SIMILARITY
from mascot.evaluation.bootstrap import Interval, bootstrap
from mascot.evaluation.diagnosis import thresholds
from mascot.evaluation.diagnosis.measurements import RunMeasurements, ValuesOrReason
from mascot.evaluation.metrics.subject_leakage import Leak

FailureMode = Literal[
    "underfitting",
    "memorization",
    "language drift",
    "reduced diversity",
    "prompt ignored",
    "context-appearance entanglement",
    "context not generated",
    "token leakage",
    "photos too similar",
    "subject leakage",
]

Severity = Literal["serious", "warning", "note"]

BETWEEN_SUBJECTS: tuple[FailureMode, ...] = ("subject leakage",)
"""The failure modes that only an adapter of several subjects can have."""

FAILURE_MODES: tuple[FailureMode, ...] = tuple(mode for mode in get_args(FailureMode) if mode not in BETWEEN_SUBJECTS)
"""The failure modes of one subject."""

_SEED = 0  # of the bootstraps: the same measurements always give the same interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One statistic of a run, compared with the threshold of a failure mode."""

    failure_mode: FailureMode
    severity: Severity
    statistic: str
    """What the number is, in words."""
    conclusion: str
    """Sentence that holds where the number lies beyond the threshold."""
    threshold: float
    above: bool
    """Whether the failure mode lies above the threshold; else it lies below."""
    interval: Interval | None = None
    """Mean and 95 % bootstrap interval; None where the statistic could not be measured."""
    reason: str = ""
    """Why the statistic could not be measured."""
    condition: bool = True
    """Further condition: the check is not triggered where it is False."""
    note: str = ""
    """Text that follows the numbers in the message."""

    def with_values(self, values: ValuesOrReason) -> Self:
        """Return the check with the values' mean and interval, or with the reason for none."""
        if isinstance(values, str):
            return replace(self, reason=values)
        return replace(self, interval=bootstrap(values, seed=_SEED))

    @property
    def bounds(self) -> tuple[float, float]:
        """Bounds of the interval; the value itself where there is one value."""
        assert self.interval is not None
        mean = self.interval.mean
        return (
            mean if self.interval.low is None else self.interval.low,
            mean if self.interval.high is None else self.interval.high,
        )

    @property
    def triggered(self) -> bool:
        """Whether the whole interval lies beyond the threshold."""
        if self.interval is None or not self.condition:
            return False
        return self.bounds[0] > self.threshold if self.above else self.bounds[1] < self.threshold

    @property
    def excess(self) -> float:
        """Distance of the mean from the threshold."""
        assert self.interval is not None
        return abs(self.interval.mean - self.threshold)

    @property
    def message(self) -> str:
        """The conclusion, the number with its interval, and the threshold."""
        assert self.interval is not None
        low, high = self.bounds
        interval = f" ({low:.0%} to {high:.0%})" if high > low else ""
        side = "above" if self.above else "below"
        statistic = f"{self.statistic[0].upper()}{self.statistic[1:]}"
        number = f"{statistic}: {self.interval.mean:.0%}{interval}; triggered {side} {self.threshold:.0%}."
        return f"{self.conclusion} {number}{self.note}"


def run_checks(measurements: RunMeasurements) -> tuple[Check, ...]:
    """Run all checks, in a fixed order; those between subjects come last."""
    between = (check_subject_leakage(name, leak) for name, leak in measurements.leaks.items())
    return (*(check(measurements) for check in CHECKS), *between)


def check_underfitting(measurements: RunMeasurements) -> Check:
    """Check the likeness that was gained over the base model, prompt by prompt."""
    return Check(
        failure_mode="underfitting",
        severity="serious",
        statistic="likeness gained, from the base model (0) to the photos (1)",
        conclusion="The subject was hardly learned.",
        threshold=thresholds.MINIMUM_LIKENESS_GAIN,
        above=False,
    ).with_values(measurements.likeness_gains)


def check_memorization(measurements: RunMeasurements) -> Check:
    """Check how near images lie to a single photo; it counts where prompts are not followed."""
    limit = thresholds.MEMORIZATION_PROMPT_ADHERENCE
    adherence = None if isinstance(measurements.prompt_adherence, str) else fmean(measurements.prompt_adherence)
    note = (
        ""
        if adherence is None
        else f" Prompt adherence is {adherence:.0%} of the base model's; with {limit:.0%} they would be no copies."
    )
    return Check(
        failure_mode="memorization",
        severity="serious",
        statistic="nearness to one photo, from as near as the next photo (0) to the photo itself (1)",
        conclusion="Its images are copies of training photos.",
        threshold=thresholds.MAXIMUM_PHOTO_NEARNESS,
        above=True,
        condition=adherence is None or adherence < limit,
        note=note,
    ).with_values(measurements.photo_nearness)


def check_language_drift(measurements: RunMeasurements) -> Check:
    """Check how far class images moved to the photos: PRES less the base model's, seed by seed."""
    return Check(
        failure_mode="language drift",
        severity="warning",
        statistic="movement of class images (PRES - base) towards the photos, which lie at 1",
        conclusion="The class noun has drifted towards the subject.",
        threshold=thresholds.MAXIMUM_CLASS_DRIFT,
        above=True,
    ).with_values(measurements.class_drifts)


def check_reduced_diversity(measurements: RunMeasurements) -> Check:
    """Check how different the images of one prompt are, relative to the base model's."""
    return Check(
        failure_mode="reduced diversity",
        severity="warning",
        statistic="diversity (DIV) of a prompt's images, of which the base model has 1",
        conclusion="Different seeds give the same image.",
        threshold=thresholds.MINIMUM_DIVERSITY_RATIO,
        above=False,
    ).with_values(measurements.diversity_ratios)


def check_prompt_ignored(measurements: RunMeasurements) -> Check:
    """Check how far feasible prompts change the images, relative to the base model."""
    prompts = [prompt for prompt in measurements.feasible_prompts if prompt.clip_t is not None]
    trained = fmean(float(prompt.clip_t or 0) for prompt in prompts) if prompts else 0.0
    base = fmean(float(prompt.base_clip_t or 0) for prompt in prompts) if prompts else 0.0
    return Check(
        failure_mode="prompt ignored",
        severity="serious",
        statistic="how far prompts change its images, of which they change the base model's 1",
        conclusion="What the prompt names beside the subject is not generated.",
        threshold=thresholds.MINIMUM_PROMPT_ADHERENCE,
        above=False,
        note=f" CLIP-T is {trained:.3f}, the base model's {base:.3f}.",
    ).with_values(measurements.prompt_adherence)


def check_entanglement(measurements: RunMeasurements) -> Check:
    """Check how far the subject's colors follow the background, less the base model's, by seed."""
    return Check(
        failure_mode="context-appearance entanglement",
        severity="warning",
        statistic="share of the background's color change that the subject follows, less the base model's",
        conclusion="The subject's colors change with the background.",
        threshold=thresholds.MAXIMUM_COLOR_LEAKAGE,
        above=True,
    ).with_values(measurements.color_leakage)


def check_context_not_generated(measurements: RunMeasurements) -> Check:
    """Check how many prompts the base model does not generate either."""
    known = [prompt for prompt in measurements.prompts if prompt.margins is not None]
    missing = [prompt for prompt in known if not prompt.generated_by_base]
    listed = "; ".join(
        f"{prompt.prompt!r} (matched better than the base model's other images {prompt.base_match_rate or 0:.0%} "
        "of the time)"
        for prompt in missing
    )
    values = (
        [len(missing) / len(known)]
        if len(known) > 1
        else "without a class noun and two prompts the base model's own images have nothing to compare with"
    )
    return Check(
        failure_mode="context not generated",
        severity="note",
        statistic="prompts that the base model does not generate either",
        conclusion="The base model cannot generate some of the prompts.",
        threshold=0.0,
        above=True,
        note=f" {listed}." if listed else "",
    ).with_values(values)


def check_class_leakage(measurements: RunMeasurements) -> Check:
    """Check whether the class noun alone generates the subject."""
    return Check(
        failure_mode="token leakage",
        severity="serious",
        statistic="likeness of the class noun alone, from the base model (0) to the photos (1)",
        conclusion="The class noun without the token generates the subject.",
        threshold=thresholds.MAXIMUM_CLASS_LIKENESS,
        above=True,
    ).with_values(measurements.normalize(measurements.class_likeness))


def check_token_leakage(measurements: RunMeasurements) -> Check:
    """Check whether the token generates the subject without the class noun."""
    return Check(
        failure_mode="token leakage",
        severity="note",
        statistic="likeness of the token alone, from the base model (0) to the photos (1)",
        conclusion="The token generates the subject without the class noun, which then has little effect.",
        threshold=thresholds.MAXIMUM_TOKEN_LIKENESS,
        above=True,
    ).with_values(measurements.normalize(measurements.token_likeness))


def check_photo_likeness(measurements: RunMeasurements) -> Check:
    """Check how similar the photos are to each other, relative to the base model's images."""
    scale = measurements.likeness_scale
    return Check(
        failure_mode="photos too similar",
        severity="warning",
        statistic="likeness of the photos, from the base model's images to them (0) to identical photos (1)",
        conclusion="The photos all show the same thing.",
        threshold=thresholds.MAXIMUM_PHOTO_LIKENESS,
        above=True,
    ).with_values(scale if isinstance(scale, str) else [(scale[1] - scale[0]) / (1 - scale[0])])


def check_duplicate_photos(measurements: RunMeasurements) -> Check:
    """Check how many photos duplicate another one."""
    count = measurements.photo_count
    return Check(
        failure_mode="photos too similar",
        severity="warning",
        statistic="photos that duplicate another photo",
        conclusion="The same photo is there more than once.",
        threshold=thresholds.MAXIMUM_DUPLICATE_SHARE,
        above=True,
    ).with_values([measurements.duplicate_count / count] if count > 1 else "there are not two photos")


def check_photo_backgrounds(measurements: RunMeasurements) -> Check:
    """Check how similar the photos' backgrounds are: a constant background is learned too."""
    similarity = measurements.background_similarity
    return Check(
        failure_mode="photos too similar",
        severity="note",
        statistic="colors that the photos' backgrounds share",
        conclusion="The photos have one background, which appears where the prompt names none.",
        threshold=MAXIMUM_BACKGROUND_SIMILARITY,
        above=True,
    ).with_values("there are not two photos with a background" if similarity is None else [similarity])


def check_subject_leakage(name: str, leak: Leak | str) -> Check:
    """Check how far images of the subject look like the photos of another, prompt by prompt."""
    note = (
        ""
        if isinstance(leak, str)
        else f" {leak.nearer:.0%} of the images look like {name} rather than like the subject."
    )
    values = leak if isinstance(leak, str) else leak.reason or list(leak.values)
    return Check(
        failure_mode="subject leakage",
        severity="serious",
        statistic=f"likeness of its images to {name}, from its class and its photos (0) to the photos of {name} (1)",
        conclusion=f"Its images look like {name}.",
        threshold=thresholds.MAXIMUM_SUBJECT_LEAKAGE,
        above=True,
        note=note,
    ).with_values(values)


CHECKS: tuple[Callable[[RunMeasurements], Check], ...] = (
    check_underfitting,
    check_memorization,
    check_language_drift,
    check_reduced_diversity,
    check_prompt_ignored,
    check_entanglement,
    check_context_not_generated,
    check_class_leakage,
    check_token_leakage,
    check_photo_likeness,
    check_duplicate_photos,
    check_photo_backgrounds,
)
"""All checks of one subject, in the order of the failure modes."""
