"""Prompts for previews and for the report: what a user wants to see of a subject."""

from __future__ import annotations

from collections.abc import Mapping

PREVIEWS = ("a photo of a {subject}", "a {subject} in the snow", "a {subject} on a blue background", "a photo of a {class}")
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
