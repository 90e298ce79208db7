"""Draw the 24 prompts with a pipeline, to look at."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw

from starter_recipe.prompts import PROMPTS


def draw_grid(
    pipeline: StableDiffusionPipeline, out: Path, *, guidance: float = 5.0, steps: int = 25, scale: int = 3
) -> None:
    """Write the grid, four columns of captioned pictures; picture i has seed i."""
    pipeline.set_progress_bar_config(disable=True)
    side = 64 * scale
    sheet = Image.new("RGB", (6 * side, 4 * (side + 26)), "white")
    pen = ImageDraw.Draw(sheet)
    generators = [torch.Generator().manual_seed(i) for i in range(len(PROMPTS))]
    pictures = pipeline(
        list(PROMPTS), num_inference_steps=steps, guidance_scale=guidance, generator=generators, height=64, width=64
    ).images
    for i, (prompt, picture) in enumerate(zip(PROMPTS, pictures, strict=True)):
        x, y = i % 6 * side, i // 6 * (side + 26)
        sheet.paste(picture.resize((side, side), Image.Resampling.BICUBIC), (x, y))
        middle = len(prompt) // 2
        cut = prompt.find(" ", middle) if " " in prompt[middle:] else len(prompt)
        pen.text((x + 3, y + side), f"{prompt[:cut]}\n{prompt[cut:].strip()}", fill="black")
    sheet.save(out)
