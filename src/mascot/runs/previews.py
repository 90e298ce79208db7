"""Preview images at fixed prompts and seeds while a run trains."""

from __future__ import annotations

from pathlib import Path

from mascot.data.prompt_templates import expand
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, settings_text
from mascot.protocols import Family
from mascot.recipe.recipe import Recipe
from mascot.storage.image_files import write_image
from mascot.storage.run_folder import Run


def preview_prompts(recipe: Recipe) -> list[str]:
    """List the prompts of a recipe's previews; with several subjects, each for all of them."""
    return [prompt for template in recipe.previews.prompts for prompt in expand(template, recipe.subject)]


def write_previews(recipe: Recipe, family: Family, files: Run, *, resolution: int, step: int) -> tuple[Path, ...]:
    """Generate a recipe's previews with the base as it is now, and write them as those of a step.

    `resolution` is the side of the square images in pixels. Returns the files, prompt by prompt.
    """
    generator = Generator(family)
    knobs = generator.with_defaults(recipe.knobs.model_copy(update={"height": resolution, "width": resolution}))
    prompts = preview_prompts(recipe)
    requests = [ImageRequest(prompt, recipe.previews.seed + i) for i, prompt in enumerate(prompts)]
    for i, image in enumerate(generator.generate(requests, knobs)):
        facts = generator.reading(requests[i].prompt, knobs).facts
        text = settings_text(requests[i], knobs, (resolution, resolution), recipe.base, f"step {step}", facts=facts)
        write_image(image, files.preview(step, i), text)
    return tuple(files.preview(step, i) for i in range(len(prompts)))
