"""Everything that was measured of a run to find out what ails it: numbers, placed between the untouched base and real photos.

Encoders differ in what they call alike. So no number is judged by itself: likeness lies between the untouched base's pictures (0) and the
photos among themselves (1), following a prompt between none of it (0) and as much as the base (1), variety beside the base's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

APART = 0.05
"""The least difference in cosine between the base's likeness and the photos' that is a scale to place anything on."""


ROOM = 0.01
"""The least that the photos' nearest neighbours must leave below a cosine of 1, for copies to be told from likenesses."""


DRAWN = 0.75
"""How often, at least, the base's picture of a prompt has to match it better than its pictures of the others do: by chance it is 0.5."""


Rows = list[float] | str
"""A number for each prompt or seed, never none; or why there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptMeasurements:
    """One prompt: means over its pictures; None for what cannot be computed."""

    prompt: str
    """As it was drawn."""
    likeness: float | None
    """Mean cosine to the photos."""
    base_likeness: float | None
    """The same of the untouched base's pictures, which it was asked for with the class noun alone."""
    excess: float | None
    """Mean of the highest cosine to a photo that was learned from, less `RunMeasurements.real_nearest` (see metrics/memory.py)."""
    fidelity: float | None
    """CLIP-T: cosine to the prompt without the token."""
    unrelated: float | None
    """The same of the run's pictures of the other prompts: what a picture gets that ignores this one."""
    base_fidelity: float | None
    base_unrelated: float | None
    base_rank: float | None
    """How often one of the base's pictures of this prompt matches it better than one of the base's pictures of another prompt does."""
    diversity: float | None
    """Mean distance between its pictures."""
    base_diversity: float | None

    @property
    def drawn_by_base(self) -> bool:
        """Whether the untouched base draws what it asks for."""
        return (
            self.base_rank is not None
            and self.base_rank >= DRAWN
            and self.contrasts is not None
            and self.contrasts[1] > 0
        )

    @property
    def contrasts(self) -> tuple[float, float] | None:
        """How much better the run's, and the base's, pictures of this prompt match it than those of the others."""
        values = (self.fidelity, self.unrelated, self.base_fidelity, self.base_unrelated)
        if any(value is None for value in values):
            return None
        fidelity, unrelated, base_fidelity, base_unrelated = (float(value or 0) for value in values)
        return fidelity - unrelated, base_fidelity - base_unrelated


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMeasurements:
    """A run, measured."""

    class_noun: str | None
    prompts: tuple[PromptMeasurements, ...]
    photos: int
    """On which likeness is measured."""
    trained: int
    """From which it learned; 0 where that is not known."""
    real_likeness: float | None = None
    """Mean cosine of two different photos; None with fewer than two."""
    real_nearest: float | None = None
    """Mean over photos it learned from of the highest cosine to another; None with fewer than two."""
    class_now: tuple[float, ...] = ()
    """Likeness of each picture of the class alone."""
    class_before: tuple[float, ...] = ()
    """The same by the untouched base, at the same seeds."""
    token_alone: tuple[float, ...] = ()
    """Likeness of each picture of the token without the class noun; none without a class noun."""
    followed: tuple[float | None, ...] = ()
    """For each seed, the share of the scene's change of colour that the middle of the picture made too (see metrics/colours.py)."""
    base_followed: tuple[float | None, ...] = ()
    twins: int = 0
    """Photos that show what another one shows, by their bytes or their perceptual hashes."""
    sameness: float | None = None
    """How alike the photos' backgrounds are, 0..1."""

    @property
    def scale(self) -> tuple[float, float] | str:
        """Likeness of the untouched base and of real photos, between which likenesses are placed; or why there is no such scale."""
        if self.class_noun is None:
            return "without a class noun the untouched base cannot be asked for the same"
        if not self.photos:
            return "no photos of the subject are known; give --photos FOLDER"
        if self.real_likeness is None:
            return "one photo alone does not say how alike photos of the subject are"
        base = fmean(float(prompt.base_likeness or 0) for prompt in self.prompts)
        if self.real_likeness - base < APART:
            return "the untouched base's pictures are as near to the photos as these are to each other"
        return base, self.real_likeness

    @property
    def drawable(self) -> tuple[PromptMeasurements, ...]:
        """The prompts that the untouched base draws: only these can be ignored."""
        return tuple(prompt for prompt in self.prompts if prompt.drawn_by_base)

    def placed(self, likenesses: Sequence[float]) -> Rows:
        """Place likenesses between the untouched base's class (0) and the photos (1)."""
        scale = self.scale
        return (
            scale
            if isinstance(scale, str)
            else [(likeness - scale[0]) / (scale[1] - scale[0]) for likeness in likenesses]
        )

    @property
    def gains(self) -> Rows:
        """For each prompt, likeness over the base's of the same prompt, of which the photos have 1."""
        scale = self.scale
        if isinstance(scale, str):
            return scale
        width = scale[1] - scale[0]
        return [(float(prompt.likeness or 0) - float(prompt.base_likeness or 0)) / width for prompt in self.prompts]

    @property
    def copies(self) -> Rows:
        """For each prompt, how near its pictures lie to one photo: 0 as near as the next photo, 1 the photo itself."""
        if not self.trained:
            return "it is not known what it learned from"
        if self.real_nearest is None:
            return "it learned from one photo alone, so that likeness and copy cannot be told apart"
        if 1 - self.real_nearest < ROOM:
            return "the photos are too alike to tell a copy of one from a likeness of all"
        return [float(prompt.excess or 0) / (1 - self.real_nearest) for prompt in self.prompts]

    @property
    def drifts(self) -> Rows:
        """For each picture of the class, how far it moved from the base's at the same seed, of which the photos lie at 1."""
        now, before = self.placed(self.class_now), self.placed(self.class_before)
        if isinstance(now, str) or isinstance(before, str):
            return now if isinstance(now, str) else before
        return [one - other for one, other in zip(now, before, strict=True)]

    @property
    def varieties(self) -> Rows:
        """For each prompt, the distance between its pictures, of which the base's have 1 on average."""
        bases = [prompt.base_diversity for prompt in self.prompts if prompt.base_diversity is not None]
        if self.class_noun is None:
            return "without a class noun the untouched base cannot be asked for the same"
        if not bases or fmean(bases) < ROOM:
            return "the untouched base's own pictures of a prompt are all alike"
        return [float(prompt.diversity or 0) / fmean(bases) for prompt in self.prompts]

    @property
    def obeyed(self) -> Rows:
        """For each prompt that the base draws, how much better its pictures match it than the others do, of which the base's have 1."""
        contrasts = [contrasts for prompt in self.drawable if (contrasts := prompt.contrasts) is not None]
        if self.class_noun is None:
            return "without a class noun the prompts cannot be read without the token"
        if not contrasts:
            return "the untouched base draws none of the prompts"
        width = fmean(base for _, base in contrasts)
        return [trained / width for trained, _ in contrasts]

    @property
    def bleeding(self) -> Rows:
        """For each seed, the share of the scene's change of colour that the subject takes over, less the base's."""
        if not self.followed:
            return "no prompt has a plain background; leave the prompts to mascot"
        if not self.base_followed:
            return "without a class noun the untouched base cannot be asked for the same"
        pairs = [
            (now, base)
            for now, base in zip(self.followed, self.base_followed, strict=True)
            if now is not None and base is not None
        ]
        if not pairs:
            return "the background does not change with the prompt"
        return [now - base for now, base in pairs]
