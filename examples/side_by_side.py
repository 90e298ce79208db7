"""Draw the same prompts and seeds with several runs, a column for each: `python examples/side_by_side.py RUN... OUT.png`."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw

import mascot
from mascot.generation.prompt_sets import CONTEXTS

CELL, LINE, SEEDS = 96, 14, 2
CLASS = "a photo of a {class}"
"""The last row: does the class still look like the class?"""


def side_by_side(runs: list[Path]) -> Image.Image:
    """Runs from left to right, prompts from top to bottom, two seeds of each."""
    prompts = [*(prompt for group in CONTEXTS.values() for prompt in group), CLASS]
    width, height = len(runs) * (SEEDS * CELL + 8), LINE + len(prompts) * (CELL + LINE)
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    for column, run in enumerate(runs):
        left = column * (SEEDS * CELL + 8)
        pen.text((left + 2, 1), run.name, fill="black")
        images = iter(mascot.generate(run, prompts, count=SEEDS))
        for row, prompt in enumerate(prompts):
            top = LINE + row * (CELL + LINE)
            for seed in range(SEEDS):
                sheet.paste(next(images).resize((CELL, CELL), Image.Resampling.BICUBIC), (left + seed * CELL, top))
            pen.text((left + 2, top + CELL), prompt.replace("{subject}", "X"), fill="black")
    return sheet


if __name__ == "__main__":
    side_by_side([Path(name) for name in sys.argv[1:-1]]).save(sys.argv[-1])
