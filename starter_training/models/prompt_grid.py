"""The fixed prompts of the base, and the grid of images that it generates for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw

from starter_training.drawings.objects import read_objects
from starter_training.scenes.caption_words import ARTICLE

PROMPTS = (
    "a photo of a dog in the snow",
    "a photo of a cat on a red background",
    "a penguin on a beach",
    "a fox at night",
    "an elephant at sunset",
    "a rocket in space",
    "an owl in a forest",
    "a car on a street",
    "a purple cat on a white background",
    "a green bear in the mountains",
    "a blue robot on a yellow background",
    "a pink elephant on the grass",
    "a pencil sketch of a lion on a white background",
    "pixel art of a ghost on a blue background",
    "a watercolor painting of a flower in a garden",
    "a black and white photo of a panda in the city",
    "a dog next to a cup in a room",
    "two apples on a blue background",
    "a cat next to a ball on the grass",
    "a duck next to a boat under water",
    "the face of a monkey on a green background",
    "a turtle upside down on an orange background",
    "a small mushroom in a forest",
    "a penguin wearing a top hat on a pink background",
)
"""Object, place, style, color, two objects and view."""

TWO_OBJECTS = (
    "a dog next to a cup in a room",
    "a cat next to a ball on the grass",
    "a duck next to a boat on a yellow background",
    "a robot and a tree in the snow",
    "an owl to the left of a teapot on a white background",
    "a car next to a house in the mountains",
)
"""Two objects each, the first at the left."""
BATCH = 24
"""Images that are generated at once."""
MARGIN = 26
"""Pixels below an image, for its prompt."""


def noun_prompts() -> list[str]:
    """Return one prompt for each noun of the base, in alphabetical order, without a background."""
    return [ARTICLE.sub("an", f"a photo of a {noun}") for noun in sorted(read_objects()["nouns"])]


def write_grid(
    pipeline: StableDiffusionPipeline,
    out: Path,
    prompts: Sequence[str] = PROMPTS,
    *,
    guidance: float = 5.0,
    steps: int = 25,
    side: int = 192,
) -> None:
    """Generate prompts and write them as captioned images, six in a row or more.

    Image i has seed i.

    Args:
        pipeline: the base to look at.
        out: image file to write.
        prompts: what to generate.
        guidance: guidance scale.
        steps: denoising steps.
        side: pixels of the grid along each side of an image.
    """
    pipeline.set_progress_bar_config(disable=True)
    columns = 6 if len(prompts) <= BATCH else round(math.sqrt(2 * len(prompts)))
    sheet = Image.new("RGB", (columns * side, math.ceil(len(prompts) / columns) * (side + MARGIN)), "white")
    pen = ImageDraw.Draw(sheet)
    for start in range(0, len(prompts), BATCH):
        asked = list(prompts[start : start + BATCH])
        generators = [torch.Generator().manual_seed(start + i) for i in range(len(asked))]
        images = pipeline(asked, num_inference_steps=steps, guidance_scale=guidance, generator=generators).images
        for i, (prompt, image) in enumerate(zip(asked, images, strict=True), start):
            x, y = i % columns * side, i // columns * (side + MARGIN)
            sheet.paste(image.resize((side, side), Image.Resampling.BICUBIC), (x, y))
            middle = len(prompt) // 2
            cut = prompt.find(" ", middle) if " " in prompt[middle:] else len(prompt)
            pen.text((x + 3, y + side), f"{prompt[:cut]}\n{prompt[cut:].strip()}", fill="black")
    sheet.save(out)
