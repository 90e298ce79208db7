"""The words of captions that are not drawings, places or colors: styles, tints, names, plurals."""

from __future__ import annotations

import re
from itertools import product

PHOTO_STYLES = ("a photo of", "a picture of", "an image of", "")
PATTERNS = ("striped", "dotted", "checkered")
TINTS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black", "white")
"""Colors that a figure itself may have in a caption."""
ALIVE = frozenset(
    "dog puppy cat kitten bear rabbit bunny fox wolf panda lion tiger monkey raccoon sloth hedgehog squirrel hamster "
    "mouse kangaroo giraffe zebra elephant rhino llama deer goat sheep pig cow horse penguin owl duck swan bird chick "
    "chicken flamingo frog turtle dragon unicorn ghost robot monster snowman cartoon character".split()
) | {"stuffed animal", "plushie"}
"""Nouns of animals and figures, which can wear and hold accessories."""
PLUSH = frozenset({"stuffed animal", "plushie"})
"""Nouns whose drawings are sewn of plush."""
PLURALS = {
    "puppy": "puppies",
    "bunny": "bunnies",
    "wolf": "wolves",
    "mouse": "mice",
    "deer": "deer",
    "sheep": "sheep",
    "jellyfish": "jellyfish",
    "fairy": "fairies",
    "princess": "princesses",
    "cherry": "cherries",
    "grapes": "grapes",
    "bread": "bread",
    "sunglasses": "sunglasses",
    "scissors": "scissors",
    "glass": "glasses",
    "watch": "watches",
    "couch": "couches",
    "box": "boxes",
    "cactus": "cactuses",
    "butterfly": "butterflies",
    "fox": "foxes",
    "fish": "fish",
    "octopus": "octopuses",
    "glasses": "glasses",
    "bus": "buses",
    "strawberry": "strawberries",
}
"""Nouns whose plural is not the noun and an s."""
BESIDE = (" next to a ", " and a ", " to the left of a ")
"""Words between a figure and another at its right."""
RIGHT_OF = " to the right of a "
"""Words between a figure and another at its left."""
SECOND = re.compile(f"(?:{'|'.join((*BESIDE, RIGHT_OF))})(.+)$")
"""The second noun at the end of a pair's words."""
ARTICLE = re.compile(r"\ba(?= (?!uni)[aeiou])")
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
