"""`generate`: generate images with one trained adapter, or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL.Image import Image
from pydantic import ValidationError

from mascot.errors import UserError, suggest
from mascot.generation.generator import Generator, fit_start
from mascot.generation.knob_checks import check_stack_knobs
from mascot.generation.knobs import Knobs
from mascot.generation.loading import (
    base_of,
    open_stack,
    open_stack_generator,
    plan_requests,
    stack_knobs,
    with_scales,
)
from mascot.generation.prompts.prompt_reading import check_prompts
from mascot.generation.stack.adapter_sources import AdapterSource, read_source
from mascot.generation.stack.stacked_adapter import Stack
from mascot.generation.start_image import ImageSource, read_source_image
from mascot.progress import OnEvent, ignore
from mascot.storage.run_folder import Run

Source = str | Path | Run | AdapterSource
"""How a caller names an adapter; see `read_source` for texts."""


def generate(
    run: Source | Sequence[Source],
    prompts: str | Sequence[str],
    knobs: Knobs | Mapping[str, object] | None = None,
    *,
    count: int = 4,
    seed: int = 0,
    base: str | None = None,
    image: ImageSource | None = None,
    strength: float | None = None,
    mask: ImageSource | None = None,
    on_event: OnEvent = ignore,
) -> list[Image]:
    """Generate `count` images of a prompt or of each of several, with one adapter or several.

    `run` is a run, its folder, an adapter file, or `owner/name` on the model hub. It may end in
    scales, as `runs/owl:0.8`, or begin with a name, as `owl=runs/a`: see `read_source`. Several
    are given as a list.

    In prompts, `{subject}` stands for token and class noun, and `{owl}` for those of the adapter of
    that name. Image k of each prompt has `seed + k`. Without `knobs`, those that training
    recommends are used; a mapping such as `{"guidance": 5}` changes single ones of them. `base`
    replaces the path or hub id of the base model that the adapter names. Generation may start from
    an `image`: see `start_image.read_source_image`. It then has the image's size, unless the knobs
    have one. Events: `PromptTruncated`, `PromptRead`, `ImageFitted`, `TokenShared`.

    Raises:
        UserError: an adapter or its base model cannot be read, they do not fit together, a knob
            has no effect, or prompts, image, strength or mask cannot be used.
    """
    opened = open_adapter(run, base=base, on_event=on_event)
    return opened.generate(prompts, knobs, count=count, seed=seed, image=image, strength=strength, mask=mask)


@dataclass(frozen=True, kw_only=True)
class OpenedAdapter:
    """An adapter, or several, whose base stays in memory between images.

    The base is loaded for the first image, and leaves memory with this value.
    """

    stack: Stack
    base: str | None
    on_event: OnEvent

    @cached_property
    def generator(self) -> Generator:
        """The base with the adapters applied."""
        return open_stack_generator(self.stack, base=self.base, on_event=self.on_event)[0]

    def generate(
        self,
        prompts: str | Sequence[str],
        knobs: Knobs | Mapping[str, object] | None = None,
        *,
        count: int = 4,
        seed: int = 0,
        image: ImageSource | None = None,
        strength: float | None = None,
        mask: ImageSource | None = None,
    ) -> list[Image]:
        """Generate `count` images of a prompt or of each of several; see `generate`.

        Raises:
            UserError: as `generate`.
        """
        source_image = read_source_image(image, mask=mask, strength=strength, write=str)
        changed = change_knobs(self.stack, knobs) if isinstance(knobs, Mapping) else knobs
        chosen = choose_knobs(self.stack, changed, self.base)
        asked = [prompts] if isinstance(prompts, str) else prompts
        requests = plan_requests(self.stack, asked, count=count, seed=seed)
        check_prompts([*(request.prompt for request in requests), chosen.negative], self.base or base_of(self.stack))
        sized = bool(changed and (changed.width or changed.height))
        start, chosen = fit_start(source_image, self.generator, chosen, sized=sized)
        return list(self.generator.generate(requests, chosen, start))


def open_adapter(
    run: Source | Sequence[Source], *, base: str | None = None, on_event: OnEvent = ignore
) -> OpenedAdapter:
    """Open one adapter or several, to generate with them again and again.

    `run`, `base` and the events are those of `generate`.

    Raises:
        UserError: an adapter cannot be read, or they do not fit together.
    """
    return OpenedAdapter(stack=open_stack(read_sources(run), on_event), base=base, on_event=on_event)


def read_sources(run: Source | Sequence[Source]) -> list[AdapterSource]:
    """Read what a caller names: one adapter, or several in a list.

    Raises:
        UserError: nothing is there, or the list is empty.
    """
    sources = [run] if isinstance(run, str | Path | Run | AdapterSource) else list(run)
    if not sources:
        raise UserError("no adapter is given; give a run, its folder or an adapter file.")
    return [read_source(source) for source in sources]


def change_knobs(stack: Stack, changes: Mapping[str, object]) -> Knobs | None:
    """Return the recommended knobs with some of them changed; None where nothing is.

    Raises:
        UserError: there is no such knob, or its value is out of range.
    """
    if unknown := [name for name in changes if name not in Knobs.model_fields]:
        raise UserError(f"{unknown[0]} is not a knob{suggest(unknown[0], Knobs.model_fields)}")
    if not changes:
        return None
    recommended = stack_knobs(stack)
    try:
        return Knobs.model_validate({**recommended.model_dump(exclude_unset=True), **changes})
    except ValidationError as error:
        raise UserError("; ".join(f"{m['loc'][0]}={m['input']}: {m['msg']}" for m in error.errors()) + ".") from None


def choose_knobs(stack: Stack, knobs: Knobs | None, base: str | None) -> Knobs:
    """Return the knobs that were chosen, or those that are recommended, with the adapters' scales.

    Raises:
        UserError: a knob that is neither recommended nor default has no effect, or is unclear.
    """
    recommended = stack_knobs(stack)
    if knobs is None:
        return recommended
    given = {name: getattr(knobs, name) for name in knobs.model_fields_set}
    changed = {
        name: value
        for name, value in given.items()
        if value not in {getattr(recommended, name), Knobs.model_fields[name].default}
    }
    check_stack_knobs(stack, changed, knobs, base=base, write=str)
    return with_scales(stack, knobs)
