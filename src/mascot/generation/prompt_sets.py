"""Prompts for previews, for the report and for measuring: what a user wants to see of a subject."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PREVIEWS = (
    "a photo of a {subject}",
    "a {subject} in the snow",
    "a {subject} on a blue background",
    "a photo of a {class}",
)
"""Drawn while training; the last shows whether the class still looks like the class."""


CONTEXTS: Mapping[str, tuple[str, ...]] = {
    "New places": (
        "a {subject} in the snow", "a {subject} on a beach", "a {subject} at night",
        "a {subject} in a forest", "a {subject} in the city", "a {subject} on a red background",
    ),
    "Styles": (
        "a pencil sketch of a {subject}", "a black and white photo of a {subject}",
        "a watercolor painting of a {subject}", "pixel art of a {subject}",
    ),
    "Properties": ("a red {subject}", "a purple {subject}", "a {subject} wearing a top hat"),
    "Views": ("a small {subject} on the grass", "a {subject} upside down on a white background", "a {subject} next to a ball in a room"),
}  # fmt: skip
"""The kinds of the paper's applications (Ruiz et al. 2023, section 4.4), in words that small bases know too."""


KNOBS_PROMPT = "a {subject} on a beach"
"""Drawn over the study's three knobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """Prompts to measure on, for things and for live subjects: an animal can wear a hat, a teapot cannot."""

    things: tuple[str, ...]
    live: tuple[str, ...]

    def for_subject(self, *, live: bool) -> tuple[str, ...]:
        """The prompts that a subject is measured on; each has one `{subject}`."""
        return self.live if live else self.things


SHARED_PLACES = (
    "a {subject} in the jungle", "a {subject} in the snow", "a {subject} on a beach", "a {subject} on a cobblestone street",
    "a {subject} on a pink background", "a {subject} on a wooden floor", "a {subject} in the city", "a {subject} in the mountains",
    "a {subject} in front of a house", "a {subject} on a purple rug",
)  # fmt: skip


PROPERTIES = (
    "a red {subject}",
    "a purple {subject}",
    "a golden {subject}",
    "a wooden {subject}",
    "a striped {subject}",
)


STARTER = PromptSet(
    things=(
        *SHARED_PLACES,
        "a {subject} in a wheat field", "a {subject} in autumn", "a {subject} in space", "a {subject} floating on water",
        "a {subject} under water", "a {subject} on the grass", "a {subject} in front of a brick wall", "a {subject} on a street",
        "a {subject} at night", "a {subject} on a checkered white and blue background",
        *PROPERTIES,
    ),
    live=(
        *SHARED_PLACES,
        "a {subject} wearing a top hat", "a {subject} wearing a crown", "a {subject} wearing a red cap", "a {subject} wearing a sun hat",
        "a {subject} wearing a helmet", "a {subject} wearing a graduation cap", "a {subject} wearing a blue scarf",
        "a {subject} wearing a pink bow", "a {subject} holding a red balloon", "a {subject} holding an umbrella",
        *PROPERTIES,
    ),
)  # fmt: skip
"""25 + 25 prompts that the embedded base understands, in the proportions of the paper's (Ruiz et al. 2023, supplement): things in 20
places and with 5 properties; live subjects in 10 places, with 10 accessories and 5 properties. For the report alone."""


STARTER_VALIDATION = PromptSet(
    things=(
        "a {subject} at sunset", "a {subject} in the rain", "a {subject} in the desert", "a {subject} in a garden",
        "a {subject} on the moon", "a {subject} on a stage", "a {subject} in a kitchen", "a {subject} on a blue background",
        "a green {subject}", "a stone {subject}",
    ),
    live=(
        "a {subject} at sunset", "a {subject} in the rain", "a {subject} in the desert", "a {subject} on the moon",
        "a {subject} wearing a green top hat", "a {subject} wearing a yellow bow", "a {subject} wearing a white scarf",
        "a {subject} holding a blue balloon", "a green {subject}", "a stone {subject}",
    ),
)  # fmt: skip
"""What checkpoints and knobs are chosen on: the same kinds, none of the 50, and no place or property of theirs."""


PAPER_SHARED = (
    "a {subject} in the jungle", "a {subject} in the snow", "a {subject} on the beach", "a {subject} on a cobblestone street",
    "a {subject} on top of pink fabric", "a {subject} on top of a wooden floor", "a {subject} with a city in the background",
    "a {subject} with a mountain in the background", "a {subject} with a blue house in the background",
    "a {subject} on top of a purple rug in a forest",
)  # fmt: skip


PAPER_PROPERTIES = (
    "a red {subject}",
    "a purple {subject}",
    "a shiny {subject}",
    "a wet {subject}",
    "a cube shaped {subject}",
)


PAPER = PromptSet(
    things=(
        *PAPER_SHARED,
        "a {subject} with a wheat field in the background", "a {subject} with a tree and autumn leaves in the background",
        "a {subject} with the Eiffel Tower in the background", "a {subject} floating on top of water",
        "a {subject} floating in an ocean of milk", "a {subject} on top of green grass with sunflowers around it",
        "a {subject} on top of a mirror", "a {subject} on top of the sidewalk in a crowded street", "a {subject} on top of a dirt road",
        "a {subject} on top of a white rug",
        *PAPER_PROPERTIES,
    ),
    live=(
        *PAPER_SHARED,
        "a {subject} wearing a red hat", "a {subject} wearing a santa hat", "a {subject} wearing a rainbow scarf",
        "a {subject} wearing a black top hat and a monocle", "a {subject} in a chef outfit", "a {subject} in a firefighter outfit",
        "a {subject} in a police outfit", "a {subject} wearing pink glasses", "a {subject} wearing a yellow shirt",
        "a {subject} in a purple wizard outfit",
        *PAPER_PROPERTIES,
    ),
)  # fmt: skip
"""The paper's own 25 + 25 prompts (Ruiz et al. 2023), as `prompts_and_classes.txt` of its data set google/dreambooth lists them.
For the report alone."""


LIVE_NOUNS = frozenset(
    "dog cat bear rabbit fox panda lion monkey penguin owl duck bird chick frog turtle elephant pig cow horse "
    "ghost robot monster snowman".split()
)
"""Classes of subjects that can wear things: the paper's live ones (cat, dog) and those that wear things in the embedded base's world."""


def is_live(class_noun: str | None) -> bool:
    """Whether a class of subjects is asked to wear things; one that is not known is taken for a thing."""
    return class_noun is not None and class_noun.strip().lower() in LIVE_NOUNS
