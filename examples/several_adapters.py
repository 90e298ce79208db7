"""Generate two subjects with their own adapters and with both at once, side by side.

Usage: `python examples/several_adapters.py RUN RUN OUT.png`. Columns: one adapter, both at scale
1, both at scale 0.7; two seeds each. Rows: the first subject, the second, and both.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

import mascot

CELL, GAP = 96, 8
"""Side of an image, and width of the space between columns, in pixels."""
SEEDS = 2


def several_adapters(first: Path, second: Path) -> Image.Image:
    """Arrange the images; the third row of the first column is by the first adapter alone."""
    prompts = [f"a {{{first.name}}}", f"a {{{second.name}}}", f"a {{{first.name}}} and a {{{second.name}}}"]
    alone = [
        *mascot.generate(first, prompts[:1], count=SEEDS),
        *mascot.generate(second, prompts[1:2], count=SEEDS),
        *mascot.generate(first, [f"a {{{first.name}}} and a {second.name}"], count=SEEDS),
    ]
    both = [mascot.generate([f"{first}:{scale}", f"{second}:{scale}"], prompts, count=SEEDS) for scale in (1, 0.7)]
    sheet = Image.new("RGB", (3 * SEEDS * CELL + 2 * GAP, len(prompts) * CELL), "white")
    for column, images in enumerate((alone, *both)):
        for number, image in enumerate(images):
            row, seed = divmod(number, SEEDS)
            left = column * (SEEDS * CELL + GAP) + seed * CELL
            sheet.paste(image.resize((CELL, CELL), Image.Resampling.BICUBIC), (left, row * CELL))
    return sheet


if __name__ == "__main__":
    *runs, out = map(Path, sys.argv[1:])
    several_adapters(*runs).save(out)
