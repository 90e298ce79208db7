"""`generate`: generate images with a trained adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image

from mascot.generation.knobs import Knobs
from mascot.generation.loading import open_generator, plan_requests, recommended_knobs
from mascot.storage.run_folder import Run


def generate(
    run: str | Path | Run,
    prompts: Sequence[str],
    knobs: Knobs | None = None,
    *,
    count: int = 4,
    seed: int = 0,
    base: str | None = None,
) -> list[Image]:
    """Generate `count` images of each prompt, in order, by a run, or by its folder or adapter file.

    In prompts, `{subject}` stands for token and class noun. Image k of each prompt has `seed + k`.
    Without `knobs`, those that training recommends are used. `base` replaces the path or hub id of
    the base model that the adapter names.

    Raises:
        UserError: the adapter or its base model cannot be read, or they do not fit together.
    """
    generator, adapter, _ = open_generator(run, base=base)
    requests = plan_requests(adapter, prompts, count=count, seed=seed)
    return list(generator.generate(requests, knobs or recommended_knobs(adapter)))
