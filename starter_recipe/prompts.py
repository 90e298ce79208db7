"""The 24 fixed prompts by which the base is judged: object, place, style, colour, two objects, view."""

from __future__ import annotations

PROMPTS = (
    "a photo of a dog in the snow", "a photo of a cat on a red background", "a penguin on a beach", "a fox at night",
    "an elephant at sunset", "a rocket in space", "an owl in a forest", "a car on a street",
    "a purple cat on a white background", "a green bear in the mountains",
    "a blue robot on a yellow background", "a pink elephant on the grass",
    "a pencil sketch of a lion on a white background", "pixel art of a ghost on a blue background",
    "a watercolor painting of a flower in a garden", "a black and white photo of a panda in the city",
    "a dog next to a cup in a room", "two apples on a blue background",
    "a cat next to a ball on the grass", "a duck next to a boat under water",
    "the face of a monkey on a green background", "a turtle upside down on an orange background", "a small mushroom in a forest",
    "a penguin wearing a top hat on a pink background",
)  # fmt: skip
