"""Remedies: changes of a run's own recipe that help against a failure mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict

CAPTION_TEMPLATES = ("a photo of a {token} {class}", "a {token} {class}", "a picture of a {token} {class}")
"""Captions with different words around the token, so that it is not learned together with them."""

PRIOR_WEIGHT = 1.0
"""Weight of prior preservation in the paper (Ruiz et al. 2023, section 4.4)."""

CLASS_IMAGES = 100
"""Number of class images to propose where the recipe has none."""

OUTSIDE_MASK_WEIGHT = 0.2
"""Loss weight to propose for what lies outside the masks."""

HIGH_GUIDANCE = 3.0
"""Guidance scale up to which lowering it is not proposed.

This was examined on the embedded base model only, where a lower scale just made images softer.
"""

GREATEST_STEPS = 999_999
"""Most training steps that a recipe takes."""

GREATEST_KNOB = 100.0
"""Most that the guidance scale may be; no other knob is ever raised."""


class Remedy(BaseModel):
    """One change of a recipe and what it does; without a setting where no setting can help."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    setting: str = ""
    """The change as `--set` takes it: `key=value`."""
    why: str
    """What the change does; where there is no setting, a sentence that says what to do."""

    @property
    def option(self) -> str:
        """The change as an option of `mascot train`; empty without a setting."""
        key, _, value = self.setting.partition("=")
        quoted = f"'{self.setting}'" if '"' in self.setting else self.setting
        return f"--steps {value}" if key == "training.steps" else f"--set {quoted}" if self.setting else ""

    @property
    def sentence(self) -> str:
        """Option and reason in one line."""
        return f"{self.option} ({self.why})" if self.setting else self.why


class RecordedRecipe:
    """The recipe that an adapter's file records, as nested values; unknown keys are None."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self.values = values

    def __getitem__(self, key: str) -> object:
        """Look up the value under a dotted key."""
        found: object = self.values
        for part in key.split("."):
            found = as_mapping(found).get(part)
        return found

    def number(self, key: str) -> float | None:
        """Look up a number under a dotted key; None where there is none."""
        value = self[key]
        return value if isinstance(value, int | float) else None

    def learning_rates(self, name: str) -> Iterator[tuple[str, float]]:
        """Find the method's learning rates of one name, at any depth, by dotted key, but for 0."""
        waiting: list[tuple[str, object]] = [("method", self["method"])]
        while waiting:
            path, found = waiting.pop(0)
            for key, value in as_mapping(found).items():
                if key == name and isinstance(value, int | float) and value:
                    yield f"{path}.{key}", float(value)
                waiting.append((f"{path}.{key}", value))


def as_mapping(value: object) -> Mapping[str, object]:
    """Return a nested table of a recipe as a mapping; empty where the value is no table."""
    return {str(key): inner for key, inner in value.items()} if isinstance(value, Mapping) else {}


def scale_steps(recipe: RecordedRecipe, factor: float, why: str) -> Iterator[Remedy]:
    """Propose to train longer or shorter."""
    steps = recipe.number("training.steps")
    if steps is not None:
        changed = min(GREATEST_STEPS, max(1, round(steps * factor)))
        if changed != steps:
            yield Remedy(setting=f"training.steps={changed}", why=why)


def scale_learning_rates(recipe: RecordedRecipe, name: str, factor: float, why: str) -> Iterator[Remedy]:
    """Propose to multiply each learning rate of one name."""
    for key, learning_rate in recipe.learning_rates(name):
        yield Remedy(setting=f"{key}={min(1.0, float(f'{learning_rate * factor:.2g}'))!r}", why=why)


def scale_knob(recipe: RecordedRecipe, name: str, factor: float, why: str) -> Iterator[Remedy]:
    """Propose to multiply a knob, which `mascot generate` also takes without training again."""
    value = recipe.number(f"knobs.{name}")
    if value:
        option = f"--{name.replace('_', '-')}"
        changed = min(GREATEST_KNOB, float(f"{value * factor:.2g}"))
        yield Remedy(
            setting=f"knobs.{name}={changed:g}",
            why=f"{why}; `mascot generate {option} {changed:g}` tries it without training",
        )


def lower_guidance(recipe: RecordedRecipe, why: str) -> Iterator[Remedy]:
    """Propose a lower guidance scale where it is high."""
    if (recipe.number("knobs.guidance") or 0) > HIGH_GUIDANCE:
        yield from scale_knob(recipe, "guidance", 0.6, why)


def strengthen_prior(recipe: RecordedRecipe) -> Iterator[Remedy]:
    """Propose more prior preservation, and class images where they are missing."""
    weight = recipe.number("prior.weight")
    if weight is None or recipe["class_noun"] is None:
        return
    changed = PRIOR_WEIGHT if weight < PRIOR_WEIGHT else min(100.0, weight * 2)
    yield Remedy(
        setting=f"prior.weight={changed:g}",
        why="the class is trained on beside the subject, so that it stays what it was",
    )
    if recipe["prior.form"] == "images" and not recipe["prior.count"]:
        yield Remedy(setting=f"prior.count={CLASS_IMAGES}", why="prior preservation needs images of the class")


def vary_captions(recipe: RecordedRecipe) -> Iterator[Remedy]:
    """Propose several captions where there are fewer."""
    templates = recipe["dataset.templates"]
    if isinstance(templates, Sequence) and 0 < len(templates) < len(CAPTION_TEMPLATES):
        written = ", ".join(f'"{template}"' for template in CAPTION_TEMPLATES)
        yield Remedy(
            setting=f"dataset.templates=[{written}]",
            why="with one caption alone the token is learned together with the caption's other words",
        )


def against_underfitting(recipe: RecordedRecipe) -> Iterator[Remedy]:
    """Propose more training."""
    yield from scale_steps(recipe, 2, "more steps to learn the subject")
    yield from scale_learning_rates(recipe, "learning_rate", 2, "each step changes more")


def against_memorization(recipe: RecordedRecipe) -> Iterator[Remedy]:
    """Propose less training on more varied data."""
    yield from scale_steps(recipe, 0.5, "training stops before the photos are memorized")
    yield from vary_captions(recipe)
    yield from scale_knob(recipe, "unet_scale", 0.8, "applies the adapter less strongly")
    yield Remedy(why="Add photos in other surroundings and poses: what they share is learned, what differs is not.")


def against_language_drift(recipe: RecordedRecipe) -> Iterator[Remedy]:
    """Propose more prior preservation and lower learning rates."""
    yield from strengthen_prior(recipe)
    yield from scale_learning_rates(
        recipe, "learning_rate", 0.5, "a lower learning rate changes less of what is not the subject"
    )
    yield from scale_learning_rates(recipe, "text_learning_rate", 0.5, "the words of the class change less")


def against_reduced_diversity(recipe: RecordedRecipe) -> Iterator[Remedy]:
    """Propose a lower guidance scale, fewer steps and other poses."""
    yield from lower_guidance(recipe, "a high guidance scale makes images of different seeds alike")
    yield from scale_steps(recipe, 0.5, "diversity falls with training time")
    yield Remedy(why="Add photos in other poses: poses that they do not show are not generated.")


def against_prompt_ignored(recipe: RecordedRecipe) -> Iterator[Remedy]:
    """Propose a weaker adapter and less training."""
    yield from scale_knob(recipe, "unet_scale", 0.7, "leaves the rest of the prompt more influence")
    yield from vary_captions(recipe)
    yield from scale_steps(recipe, 0.5, "prompts lose influence with training time")
    yield from scale_learning_rates(recipe, "text_learning_rate", 0.5, "the words of prompts keep their meaning")


def against_entanglement(recipe: RecordedRecipe) -> Iterator[Remedy]:
    """Propose to separate the subject from its background."""
    yield from lower_guidance(recipe, "a high guidance scale spreads the background's colors over the image")
    yield from vary_captions(recipe)
    if recipe["dataset.masked"] is None:
        yield Remedy(
            setting=f"dataset.masked={OUTSIDE_MASK_WEIGHT:g}",
            why="only the subject is learned; the photos need masks for it",
        )
    yield Remedy(why="Add photos in front of other backgrounds: what is in every photo is learned as the subject.")


def against_context_not_generated(recipe: RecordedRecipe) -> Iterator[Remedy]:
    """Propose other words or another base model."""
    yield from scale_knob(recipe, "guidance", 1.6, "follows the prompt more strictly")
    yield Remedy(
        why="Use words that the base model knows, or a base model that can generate it: training is not the cause."
    )


def against_token_leakage(recipe: RecordedRecipe) -> Iterator[Remedy]:
    """Propose to bind the subject to token and class noun together."""
    yield from strengthen_prior(recipe)
    yield from scale_steps(recipe, 0.5, "leakage grows with training time")
    yield from scale_learning_rates(recipe, "text_learning_rate", 0.5, "single words take over less of the subject")


def against_similar_photos(recipe: RecordedRecipe) -> Iterator[Remedy]:
    """Propose more varied photos."""
    yield Remedy(why="Add photos from other sides and in other surroundings, and remove duplicates.")
    yield from scale_steps(recipe, 0.5, "photos of little variety are soon memorized")


def against_subject_leakage(recipe: RecordedRecipe) -> Iterator[Remedy]:
    """Propose to tell the subjects apart by more training, class images and class nouns."""
    yield from scale_steps(recipe, 2, "each subject is in a part of the examples alone, and needs as many as by itself")
    yield from strengthen_prior(recipe)
    yield from vary_captions(recipe)
    nouns = recipe["class_nouns"]
    if isinstance(nouns, Sequence) and len(set(nouns)) < len(nouns):
        yield Remedy(why="Give each subject a class noun of its own: with a shared one only the tokens differ.")
    yield Remedy(why="Train each subject in an adapter of its own where they need not be in one image.")


REMEDIES: Mapping[str, Callable[[RecordedRecipe], Iterator[Remedy]]] = MappingProxyType(
    {
        "underfitting": against_underfitting,
        "memorization": against_memorization,
        "language drift": against_language_drift,
        "reduced diversity": against_reduced_diversity,
        "prompt ignored": against_prompt_ignored,
        "context-appearance entanglement": against_entanglement,
        "context not generated": against_context_not_generated,
        "token leakage": against_token_leakage,
        "photos too similar": against_similar_photos,
        "subject leakage": against_subject_leakage,
    }
)
"""Failure mode -> its remedies, the likeliest to help first."""


def remedies_for(failure_mode: str, recipe: Mapping[str, object]) -> Sequence[Remedy]:
    """List what to change in a recipe against a failure mode, the likeliest to help first.

    Args:
        failure_mode: One of `checks.FailureMode`.
        recipe: The run's recipe as nested values; keys that it lacks are not changed.
    """
    return tuple(REMEDIES[failure_mode](RecordedRecipe(recipe)))
