"""`generate`: generate images with a trained adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image

from mascot.generation.knob_checks import check_knobs
from mascot.generation.knobs import Knobs
from mascot.generation.loading import open_generator, plan_requests, recommended_knobs, resolve_adapter
from mascot.progress import OnEvent, ignore
from mascot.storage.run_folder import Run


def generate(
    run: str | Path | Run,
    prompts: Sequence[str],
    knobs: Knobs | None = None,
    *,
    count: int = 4,
    seed: int = 0,
    base: str | None = None,
    on_event: OnEvent = ignore,
) -> list[Image]:
    """Generate `count` images of each prompt, in order, by a run, or by its folder or adapter file.

    In prompts, `{subject}` stands for token and class noun. Image k of each prompt has `seed + k`.
    Without `knobs`, those that training recommends are used. `base` replaces the path or hub id of
    the base model that the adapter names. Event: `PromptTruncated`.

    Raises:
        UserError: the adapter or its base model cannot be read, they do not fit together, or a
            knob has no effect.
    """
    adapter, _ = resolve_adapter(run)
    recommended = recommended_knobs(adapter)
    if knobs is not None:
        given = {name: getattr(knobs, name) for name in knobs.model_fields_set}
        changed = {
            name: value
            for name, value in given.items()
            if value not in {getattr(recommended, name), Knobs.model_fields[name].default}
        }
        check_knobs(adapter, changed, knobs, base=base, write=str)
    requests = plan_requests(adapter, prompts, count=count, seed=seed)
    generator, _, _ = open_generator(run, base=base, on_event=on_event)
    return list(generator.generate(requests, knobs or recommended))
