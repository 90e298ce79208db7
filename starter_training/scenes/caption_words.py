"""The words of captions that are not drawings, places or colors: styles, tints, names, plurals."""

from __future__ import annotations

import re
from itertools import product

PHOTO_STYLES = ("a photo of", "a picture of", "an image of", "")
PATTERNS = ("striped", "dotted", "checkered")
TINTS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black", "white")
"""Colors that a figure itself may have in a caption."""
ALIVE = frozenset(
    "dog cat bear rabbit fox panda lion monkey penguin owl duck bird chick frog turtle elephant pig cow horse "
    "ghost robot monster snowman".split()
)
"""Nouns of animals and figures, which can wear and hold accessories."""
PLURALS = {
    "butterfly": "butterflies",
    "fox": "foxes",
    "fish": "fish",
    "octopus": "octopuses",
    "glasses": "glasses",
    "bus": "buses",
    "strawberry": "strawberries",
}
"""Nouns whose plural is not the noun and an s."""
ARTICLE = re.compile(r"\ba(?= [aeiou])")
"""An article that has to become `an`."""


def invented_names() -> list[str]:
    """Return the 90 words that name individuals in captions.

    Each has two syllables, and none is another word of a caption.
    """
    return [
        a + b
        for a, b in product(
            ("bo", "zu", "ki", "mo", "ta", "lu", "ri", "ve", "no"),
            ("ba", "do", "fi", "ga", "mu", "pi", "ro", "su", "ta", "zo"),
        )
    ]
