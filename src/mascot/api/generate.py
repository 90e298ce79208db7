"""`generate`: generate images with a trained adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image

from mascot.adapters.adapter_file import Adapter
from mascot.generation.adapter_sources import AdapterSource, read_source
from mascot.generation.generator import fit_start
from mascot.generation.knob_checks import check_knobs, scale_changes
from mascot.generation.knobs import Knobs
from mascot.generation.loading import base_of, open_generator, plan_requests, recommended_knobs, resolve_adapter
from mascot.generation.prompts.prompt_reading import check_prompts
from mascot.generation.start_image import ImageSource, read_source_image
from mascot.progress import OnEvent, ignore
from mascot.storage.run_folder import Run


def generate(
    run: str | Path | Run | AdapterSource,
    prompts: Sequence[str],
    knobs: Knobs | None = None,
    *,
    count: int = 4,
    seed: int = 0,
    base: str | None = None,
    image: ImageSource | None = None,
    strength: float | None = None,
    mask: ImageSource | None = None,
    on_event: OnEvent = ignore,
) -> list[Image]:
    """Generate `count` images of each prompt, in order, by a run, or by its folder or adapter file.

    `run` may also be `owner/name` on the model hub, and may end in scales, as `runs/owl:0.8`: see
    `adapter_sources.read_source`. In prompts, `{subject}` stands for token and class noun. Image k
    of each prompt has `seed + k`. Without `knobs`, those that training recommends are used. `base`
    replaces the path or hub id of the base model that the adapter names. Generation may start from
    an `image`: see `start_image.read_source_image`. It then has the image's size, unless the knobs
    have one. Events: `PromptTruncated`, `PromptRead`, `ImageFitted`.

    Raises:
        UserError: the adapter or its base model cannot be read, they do not fit together, a knob
            has no effect, or prompts, image, strength or mask cannot be used.
    """
    source_image = read_source_image(image, mask=mask, strength=strength, write=str)
    source = read_source(run)
    adapter, path = resolve_adapter(source.file())
    recommended = recommended_knobs(adapter)
    changed = {} if knobs is None else check_changes(adapter, knobs, recommended, base)
    chosen = (knobs or recommended).model_copy(update=scale_changes(source, adapter, changed))
    requests = plan_requests(adapter, prompts, count=count, seed=seed)
    check_prompts([*(request.prompt for request in requests), chosen.negative], base or base_of(adapter))
    generator, _, _ = open_generator(path, base=base, on_event=on_event)
    start, chosen = fit_start(source_image, generator, chosen, sized=bool(knobs and (knobs.width or knobs.height)))
    return list(generator.generate(requests, chosen, start))


def check_changes(adapter: Adapter, knobs: Knobs, recommended: Knobs, base: str | None) -> dict[str, object]:
    """Return the knobs that were chosen and are neither recommended nor default, by name.

    Raises:
        UserError: one of them has no effect.
    """
    given = {name: getattr(knobs, name) for name in knobs.model_fields_set}
    changed = {
        name: value
        for name, value in given.items()
        if value not in {getattr(recommended, name), Knobs.model_fields[name].default}
    }
    check_knobs(adapter, changed, knobs, base=base, write=str)
    return changed
