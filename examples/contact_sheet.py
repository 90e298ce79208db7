"""Make one sheet of a run's photos and of its subject in every context of the report.

Usage: `python examples/contact_sheet.py RUN OUT.png`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw

import mascot
from mascot.data.photos import read_photos
from mascot.generation.prompts.prompt_sets import CONTEXTS

CELL, LINE = 128, 16
"""Side of an image, and height of a line of text, in pixels."""

COLUMNS, SEEDS = 8, 2


def contact_sheet(run: Path) -> Image.Image:
    """Arrange the photos in the first rows, then the images of each prompt with a label."""
    recipe = mascot.Recipe.read(run / "recipe.toml")
    photos = [photo.image for photo in read_photos([Path(path) for path in recipe.photos]).photos][:COLUMNS]
    prompts = [prompt for group in CONTEXTS.values() for prompt in group]
    images = mascot.generate(run, prompts, count=SEEDS)
    labels = [prompts[i // SEEDS].replace("{subject}", "X") if i % SEEDS == 0 else "" for i in range(len(images))]
    cells = [(photo, "") for photo in photos] + [(Image.new("RGB", (1, 1), "white"), "")] * (-len(photos) % COLUMNS)
    cells += list(zip(images, labels, strict=True))
    rows = -(-len(cells) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (CELL + 4), rows * (CELL + LINE + 4)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (image, label) in enumerate(cells):
        x, y = i % COLUMNS * (CELL + 4), i // COLUMNS * (CELL + LINE + 4)
        sheet.paste(crop_square(image), (x, y))
        pen.text((x + 2, y + CELL + 1), label, fill="black")
    return sheet


def crop_square(image: Image.Image) -> Image.Image:
    """Resize the center square of an image to one cell."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.resize((CELL, CELL), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))


if __name__ == "__main__":
    contact_sheet(Path(sys.argv[1])).save(sys.argv[2])
