"""Generate the same prompts and seeds with several runs, one column for each.

Usage: `python examples/side_by_side.py RUN... OUT.png`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw

import mascot
from mascot.generation.prompts.prompt_sets import CONTEXTS

CELL, LINE = 96, 14
"""Side of an image, and height of a line of text, in pixels."""

SEEDS = 2

CLASS_PROMPT = "a photo of a {class}"
"""Prompt of the last row, which shows whether the class has drifted."""


def side_by_side(runs: list[Path]) -> Image.Image:
    """Arrange runs from left to right, prompts from top to bottom, two seeds of each."""
    prompts = [*(prompt for group in CONTEXTS.values() for prompt in group), CLASS_PROMPT]
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
