"""Measurements of a run for the diagnosis, normalized so that encoders need not agree on a scale.

Encoders differ in what they call similar. So no number is judged by itself. Likeness is 0 for the
base model's images and 1 for the photos among themselves. Prompt adherence is 0 where the prompt
changes nothing and 1 at the base model's own. Diversity is relative to the base model's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from mascot.evaluation.metrics.subject_leakage import Leak

MINIMUM_SCALE_WIDTH = 0.05
"""Least cosine between the base model's likeness and the photos' that makes a usable scale."""

MINIMUM_NEAREST_GAP = 0.01
"""Least gap between a cosine of 1 and `real_nearest` that tells copies from likeness."""

MINIMUM_BASE_DIVERSITY = 0.01
"""Least mean distance between the base model's images of a prompt that can be a reference."""

MINIMUM_BASE_MATCH_RATE = 0.75
"""Least match rate at which the base model counts as generating a prompt; chance is 0.5."""

ValuesOrReason = list[float] | str
"""One value per prompt or seed, at least one; or the reason why there is none."""

NO_CLASS_NOUN = "without a class noun the base model cannot be asked for the same"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptMeasurements:
    """Means over the images of one prompt; None where a value cannot be computed."""

    prompt: str
    """The prompt as it was generated."""
    likeness: float | None
    """Mean cosine to the photos."""
    base_likeness: float | None
    """Likeness of the base model's images of the same prompt with the class noun alone."""
    nearest_excess: float | None
    """Mean highest cosine to a training photo, less `RunMeasurements.real_nearest`.

    See `metrics.memorization.nearest_excess`.
    """
    clip_t: float | None
    """CLIP-T: mean cosine to the prompt without the token."""
    clip_t_others: float | None
    """CLIP-T of the run's images of the other prompts: the value of images that ignore this one."""
    base_clip_t: float | None
    """CLIP-T of the base model's images of this prompt."""
    base_clip_t_others: float | None
    """CLIP-T of the base model's images of the other prompts."""
    base_match_rate: float | None
    """How often a base image of this prompt matches it better than one of another prompt, 0..1."""
    diversity: float | None
    """Mean distance between the prompt's images."""
    base_diversity: float | None
    """Mean distance between the base model's images of the prompt."""

    @property
    def margins(self) -> tuple[float, float] | None:
        """CLIP-T of the prompt's images less that of the others: the run's, the base model's."""
        values = (self.clip_t, self.clip_t_others, self.base_clip_t, self.base_clip_t_others)
        if any(value is None for value in values):
            return None
        clip_t, clip_t_others, base_clip_t, base_clip_t_others = (float(value or 0) for value in values)
        return clip_t - clip_t_others, base_clip_t - base_clip_t_others

    @property
    def generated_by_base(self) -> bool:
        """Whether the base model generates what the prompt asks for."""
        return (
            self.base_match_rate is not None
            and self.base_match_rate >= MINIMUM_BASE_MATCH_RATE
            and self.margins is not None
            and self.margins[1] > 0
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMeasurements:
    """Measurements of one run, and the statistics that the checks take from them."""

    class_noun: str | None
    prompts: tuple[PromptMeasurements, ...]
    photo_count: int
    """Number of photos on which likeness is measured."""
    training_photo_count: int
    """Number of photos that the run was trained on; 0 where that is not known."""
    real_likeness: float | None = None
    """Mean cosine of two different photos; None with fewer than two."""
    real_nearest: float | None = None
    """Mean over training photos of the highest cosine to another; None with fewer than two."""
    class_likeness: tuple[float, ...] = ()
    """Likeness of each image of the class noun alone."""
    base_class_likeness: tuple[float, ...] = ()
    """Likeness of the base model's images of the class noun, at the same seeds."""
    token_likeness: tuple[float, ...] = ()
    """Likeness of each image of the token alone; empty without a class noun."""
    leakage: tuple[float | None, ...] = ()
    """Color leakage for each seed (see `metrics.color_leakage`); None where it is undefined."""
    base_leakage: tuple[float | None, ...] = ()
    """Color leakage of the base model's images, at the same seeds."""
    duplicate_count: int = 0
    """Number of photos that have a duplicate, by their bytes or their perceptual hashes."""
    background_similarity: float | None = None
    """Similarity of the photos' backgrounds, 0..1; None where it cannot be measured."""
    leaks: Mapping[str, Leak | str] = field(default_factory=dict[str, "Leak | str"])
    """How far its images look like each other subject, by name, or why that is not known."""

    @property
    def likeness_scale(self) -> tuple[float, float] | str:
        """Likeness of the base model (0) and of real photos (1), or why there is no scale."""
        if self.class_noun is None:
            return NO_CLASS_NOUN
        if not self.photo_count:
            return "no photos of the subject are known; give --photos FOLDER"
        if self.real_likeness is None:
            return "one photo alone does not show how similar photos of the subject are"
        base = fmean(float(prompt.base_likeness or 0) for prompt in self.prompts)
        if self.real_likeness - base < MINIMUM_SCALE_WIDTH:
            return "the base model's images are as near to the photos as the photos are to each other"
        return base, self.real_likeness

    @property
    def feasible_prompts(self) -> tuple[PromptMeasurements, ...]:
        """Prompts that the base model generates: only these can be ignored by a run."""
        return tuple(prompt for prompt in self.prompts if prompt.generated_by_base)

    def normalize(self, likenesses: Sequence[float]) -> ValuesOrReason:
        """Normalize likenesses: 0 is the base model's images of the prompts, 1 is the photos."""
        scale = self.likeness_scale
        if isinstance(scale, str):
            return scale
        return [(likeness - scale[0]) / (scale[1] - scale[0]) for likeness in likenesses]

    @property
    def likeness_gains(self) -> ValuesOrReason:
        """For each prompt, likeness less the base model's, where the photos have 1."""
        scale = self.likeness_scale
        if isinstance(scale, str):
            return scale
        width = scale[1] - scale[0]
        return [(float(prompt.likeness or 0) - float(prompt.base_likeness or 0)) / width for prompt in self.prompts]

    @property
    def photo_nearness(self) -> ValuesOrReason:
        """For each prompt, nearness to one photo: 0 as the next photo, 1 the photo itself."""
        if not self.training_photo_count:
            return "it is not known which photos it was trained on"
        if self.real_nearest is None:
            return "it was trained on one photo alone, so that likeness and copy cannot be told apart"
        if 1 - self.real_nearest < MINIMUM_NEAREST_GAP:
            return "the photos are too similar to tell a copy of one from a likeness of all"
        return [float(prompt.nearest_excess or 0) / (1 - self.real_nearest) for prompt in self.prompts]

    @property
    def class_drifts(self) -> ValuesOrReason:
        """For each class image, likeness less the base model's, where the photos have 1."""
        trained, base = self.normalize(self.class_likeness), self.normalize(self.base_class_likeness)
        if isinstance(trained, str) or isinstance(base, str):
            return trained if isinstance(trained, str) else base
        return [one - other for one, other in zip(trained, base, strict=True)]

    @property
    def diversity_ratios(self) -> ValuesOrReason:
        """For each prompt, the distance between its images over the base model's mean distance."""
        base = [prompt.base_diversity for prompt in self.prompts if prompt.base_diversity is not None]
        if self.class_noun is None:
            return NO_CLASS_NOUN
        if not base or fmean(base) < MINIMUM_BASE_DIVERSITY:
            return "the base model's own images of a prompt are all alike"
        return [float(prompt.diversity or 0) / fmean(base) for prompt in self.prompts]

    @property
    def prompt_adherence(self) -> ValuesOrReason:
        """For each feasible prompt, the CLIP-T margin over the base model's mean margin."""
        margins = [margins for prompt in self.feasible_prompts if (margins := prompt.margins) is not None]
        if self.class_noun is None:
            return "without a class noun the prompts cannot be read without the token"
        if not margins:
            return "the base model generates none of the prompts"
        base_mean = fmean(base for _, base in margins)
        return [trained / base_mean for trained, _ in margins]

    @property
    def color_leakage(self) -> ValuesOrReason:
        """For each seed, the background's color leakage, less the base model's."""
        if not self.leakage:
            return "no prompt has a plain background; leave the prompts to mascot"
        if not self.base_leakage:
            return NO_CLASS_NOUN
        pairs = [
            (trained, base)
            for trained, base in zip(self.leakage, self.base_leakage, strict=True)
            if trained is not None and base is not None
        ]
        if not pairs:
            return "the background does not change with the prompt"
        return [trained - base for trained, base in pairs]
