"""TODO cli.generate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mascot.cli.console import quiet_libraries
from mascot.errors import UserError
from mascot.generation.knobs import Knobs, settings_text
from mascot.generation.loading import open_generator, plan_requests, recommended_knobs, resolve_adapter
from mascot.storage.atomic_write import fresh_path
from mascot.storage.image_files import image_stem, write_image


def generate_visibly(
    where: Path, prompts: Sequence[str], turned: dict[str, Any], *, count: int, seed: int, base: str | None, out: Path | None
) -> None:
    """Draw, write each picture with its settings, and print where it is."""
    quiet_libraries()
    adapter, path = resolve_adapter(where)
    usual = recommended_knobs(adapter)
    try:
        knobs = Knobs.model_validate(usual.model_dump() | turned)
    except ValidationError as error:
        mistakes = "; ".join(f"--{str(m['loc'][0]).replace('_', '-')} {m['input']}: {m['msg']}" for m in error.errors())
        raise UserError(f"{mistakes}.") from None
    requests = plan_requests(adapter, prompts, count=count, seed=seed)
    generator, _, name = open_generator(where, base=base)
    folder = out or path.parent / "pictures"
    knobs = generator.with_defaults(knobs)
    height, width = generator.size(knobs)
    for request, image in zip(requests, generator.generate(requests, knobs), strict=True):
        target = image_path(folder, request.prompt, request.seed)
        write_image(image, target, settings_text(request, knobs, (height, width), name, path.name))
        print(target, flush=True)  # noqa: T201 - the command's output, one path a line


def image_path(folder: Path, prompt: str, seed: int) -> Path:
    """Name a picture by its prompt and seed; one that exists is never overwritten."""
    return fresh_path(folder, image_stem(prompt, seed), ".png")
