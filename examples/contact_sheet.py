"""Draw a run's photos and its subject in every context of the report as one picture: `python examples/contact_sheet.py RUN OUT.png`."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw

import mascot
from mascot.generation.prompt_sets import CONTEXTS

CELL, LINE, COLUMNS, SEEDS = 128, 16, 8, 2


def contact_sheet(run: Path) -> Image.Image:
    """The photos in the first rows, then two pictures of each context with the prompt under the first."""
    recipe = mascot.Recipe.read(run / "recipe.toml")
    from mascot.data.photos import read_photos

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
        square = image.resize((CELL, CELL), Image.Resampling.BICUBIC) if image.width == image.height else fit(image)
        sheet.paste(square, (x, y))
        pen.text((x + 2, y + CELL + 1), label, fill="black")
    return sheet


def fit(image: Image.Image) -> Image.Image:
    """The middle square of a picture."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.resize((CELL, CELL), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))


if __name__ == "__main__":
    contact_sheet(Path(sys.argv[1])).save(sys.argv[2])
