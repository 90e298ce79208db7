"""TODO api.generate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image

from mascot.generation.knobs import Knobs
from mascot.generation.loading import open_generator, plan_requests, recommended_knobs
from mascot.storage.run_folder import Run


def generate(
    where: str | Path | Run,
    prompts: Sequence[str],
    knobs: Knobs | None = None,
    *,
    count: int = 4,
    seed: int = 0,
    base: str | None = None,
) -> list[Image]:
    """Draw prompts with a trained adapter, `count` pictures each, in order; `{subject}` stands for token and class noun.

    Raises:
        UserError: the adapter or its base cannot be read or do not fit together.
    """
    generator, adapter, _ = open_generator(where, base=base)
    return list(
        generator.generate(plan_requests(adapter, prompts, count=count, seed=seed), knobs or recommended_knobs(adapter))
    )
