"""Prompts for previews, for reports and for scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mascot.protocols import Subject  # protocols import torch, which a table of prompts does not need

PREVIEWS = (
    "a photo of a {subject}",
    "a {subject} in the snow",
    "a {subject} on a blue background",
    "a photo of a {class}",
)
"""Prompts of the previews during training; the last one shows whether the class has changed."""

CONTEXTS: Mapping[str, tuple[str, ...]] = {
    "New places": (
        "a {subject} in the snow",
        "a {subject} on a beach",
        "a {subject} at night",
        "a {subject} in a forest",
        "a {subject} in the city",
        "a {subject} on a red background",
    ),
    "Styles": (
        "a pencil sketch of a {subject}",
        "a black and white photo of a {subject}",
        "a watercolor painting of a {subject}",
        "pixel art of a {subject}",
    ),
    "Properties": ("a red {subject}", "a purple {subject}", "a {subject} wearing a top hat"),
    "Views": (
        "a small {subject} on the grass",
        "a {subject} upside down on a white background",
        "a {subject} next to a ball in a room",
    ),
}
"""The applications of the DreamBooth paper (Ruiz et al. 2023, section 4.4) as report prompts.

Their words are ones that small bases know too.
"""

KNOBS_PROMPT = "a {subject} on a beach"
"""Prompt of the grid over guidance scale, UNet scale and text scale."""


TOGETHER = (("a photo of ", ""), ("", " on a blue background"), ("", " in the snow"), ("", " in a kitchen"))
"""What stands before and after the names of all subjects, in prompts for one image of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """Prompts to score on, for objects and for live subjects.

    An animal can wear a hat; a teapot cannot. Each prompt has one `{subject}`.
    """

    objects: tuple[str, ...]
    live: tuple[str, ...]

    def for_subject(self, *, live: bool) -> tuple[str, ...]:
        """Return the prompts for an object or for a live subject."""
        return self.live if live else self.objects


SHARED_PLACES = (
    "a {subject} in the jungle",
    "a {subject} in the snow",
    "a {subject} on a beach",
    "a {subject} on a cobblestone street",
    "a {subject} on a pink background",
    "a {subject} on a wooden floor",
    "a {subject} in the city",
    "a {subject} in the mountains",
    "a {subject} in front of a house",
    "a {subject} on a purple rug",
)

PROPERTIES = (
    "a red {subject}",
    "a purple {subject}",
    "a golden {subject}",
    "a wooden {subject}",
    "a striped {subject}",
)

STARTER = PromptSet(
    objects=(
        *SHARED_PLACES,
        "a {subject} in a wheat field",
        "a {subject} in autumn",
        "a {subject} in space",
        "a {subject} floating on water",
        "a {subject} under water",
        "a {subject} on the grass",
        "a {subject} in front of a brick wall",
        "a {subject} on a street",
        "a {subject} at night",
        "a {subject} on a checkered white and blue background",
        *PROPERTIES,
    ),
    live=(
        *SHARED_PLACES,
        "a {subject} wearing a top hat",
        "a {subject} wearing a crown",
        "a {subject} wearing a red cap",
        "a {subject} wearing a sun hat",
        "a {subject} wearing a helmet",
        "a {subject} wearing a graduation cap",
        "a {subject} wearing a blue scarf",
        "a {subject} wearing a pink bow",
        "a {subject} holding a red balloon",
        "a {subject} holding an umbrella",
        *PROPERTIES,
    ),
)
"""25 + 25 prompts that the embedded base understands, for reports only.

They have the proportions of the paper's (Ruiz et al. 2023, supplement). Objects get 20 places and 5
properties; live subjects get 10 places, 10 accessories and 5 properties.
"""

STARTER_VALIDATION = PromptSet(
    objects=(
        "a {subject} at sunset",
        "a {subject} in the rain",
        "a {subject} in the desert",
        "a {subject} in a garden",
        "a {subject} on the moon",
        "a {subject} on a stage",
        "a {subject} in a kitchen",
        "a {subject} on a blue background",
        "a green {subject}",
        "a stone {subject}",
    ),
    live=(
        "a {subject} at sunset",
        "a {subject} in the rain",
        "a {subject} in the desert",
        "a {subject} on the moon",
        "a {subject} wearing a green top hat",
        "a {subject} wearing a yellow bow",
        "a {subject} wearing a white scarf",
        "a {subject} holding a blue balloon",
        "a green {subject}",
        "a stone {subject}",
    ),
)
"""Validation prompts, on which checkpoints and knobs are chosen.

They are of the same kinds, but none is among the 50, nor shares a place or a property with them.
"""

PAPER_SHARED = (
    "a {subject} in the jungle",
    "a {subject} in the snow",
    "a {subject} on the beach",
    "a {subject} on a cobblestone street",
    "a {subject} on top of pink fabric",
    "a {subject} on top of a wooden floor",
    "a {subject} with a city in the background",
    "a {subject} with a mountain in the background",
    "a {subject} with a blue house in the background",
    "a {subject} on top of a purple rug in a forest",
)

PAPER_PROPERTIES = (
    "a red {subject}",
    "a purple {subject}",
    "a shiny {subject}",
    "a wet {subject}",
    "a cube shaped {subject}",
)

PAPER = PromptSet(
    objects=(
        *PAPER_SHARED,
        "a {subject} with a wheat field in the background",
        "a {subject} with a tree and autumn leaves in the background",
        "a {subject} with the Eiffel Tower in the background",
        "a {subject} floating on top of water",
        "a {subject} floating in an ocean of milk",
        "a {subject} on top of green grass with sunflowers around it",
        "a {subject} on top of a mirror",
        "a {subject} on top of the sidewalk in a crowded street",
        "a {subject} on top of a dirt road",
        "a {subject} on top of a white rug",
        *PAPER_PROPERTIES,
    ),
    live=(
        *PAPER_SHARED,
        "a {subject} wearing a red hat",
        "a {subject} wearing a santa hat",
        "a {subject} wearing a rainbow scarf",
        "a {subject} wearing a black top hat and a monocle",
        "a {subject} in a chef outfit",
        "a {subject} in a firefighter outfit",
        "a {subject} in a police outfit",
        "a {subject} wearing pink glasses",
        "a {subject} wearing a yellow shirt",
        "a {subject} in a purple wizard outfit",
        *PAPER_PROPERTIES,
    ),
)
"""The paper's own 25 + 25 prompts (Ruiz et al. 2023), for reports only.

They are those of `prompts_and_classes.txt` in the data set google/dreambooth.
"""


def together(subject: Subject) -> str:
    """Name all subjects that are trained together: `a {owl} next to a {cat}`."""
    return " next to ".join(f"a {{{one.name}}}" for one in subject.all)


def together_prompts(subject: Subject) -> tuple[str, ...]:
    """List prompts that name all subjects that are trained together."""
    return tuple(f"{start}{together(subject)}{end}" for start, end in TOGETHER)
