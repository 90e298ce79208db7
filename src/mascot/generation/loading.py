"""Load an adapter with its base model, and plan what it generates: prompts, seeds and knobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from mascot.adapters.adapter_file import Adapter
from mascot.adapters.formats.registry import BASE_NAMES, architecture_of
from mascot.adapters.headers.adapter_facts import architecture_in
from mascot.adapters.peft_folder import is_peft_folder
from mascot.errors import UserError, list_some
from mascot.generation.generator import Generator
from mascot.generation.knob_checks import scales_of
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.stack.adapter_sources import AdapterSource, name_of, published_file
from mascot.generation.stack.stack_checks import check_stack, report_shared_tokens
from mascot.generation.stack.stacked_adapter import Stack, StackedAdapter
from mascot.generation.stack.subject_names import fill_prompts
from mascot.models.base_files.base_reading import BaseReading
from mascot.models.devices import choose_device
from mascot.models.families.registry import Precision, family_name, load_family, text_width
from mascot.progress import OnEvent, ignore
from mascot.protocols import Family
from mascot.storage.run_folder import Run, locate, open_run
from mascot.storage.strict_parsing import is_unicode


class LoadFamily(Protocol):
    """Loads a base, as `load_family` does."""

    def __call__(self, base: str, *, device: str, precision: Precision, reading: BaseReading | None = None) -> Family:
        """Load a base model, or return it where it is loaded already."""
        ...


DEVICE_REMEDY = "give --device cpu"
"""Remedy for a missing device, where a command has an option of its own for it."""


def resolve_adapter(source: str | Path | Run) -> tuple[Adapter, Path]:
    """Read the adapter of a run, a file, or a folder; returns its path too.

    A folder is a run's, one of peft, or one as it is on the hub. `RUN@STEP` is the adapter of a
    step that a run keeps, finished or not.

    Raises:
        UserError: the run is not finished, the step is not kept, or the file cannot be read.
    """
    path = source.adapter if isinstance(source, Run) else locate(Path(source))
    if path.is_dir() and not is_peft_folder(path):
        path = adapter_in(path)
    return Adapter.read(path), path


def adapter_in(folder: Path) -> Path:
    """Return the adapter's file of a run, or of a folder as it is on the hub.

    Raises:
        UserError: the folder holds none, or a run that is not finished.
    """
    run = Run(folder)
    if not run.recipe.exists() and (published := published_file(folder)) is not None:
        return published
    if not run.recipe.exists() and (folder / "model_index.json").exists():
        raise UserError(f"{folder} is a base, and no adapter; give an adapter, and this folder as --base.")
    if not open_run(folder).adapter.exists():
        raise UserError(f"{folder} is not trained to the end; finish it with `mascot train --resume --out {folder}`.")
    return run.adapter


def open_stack(sources: Sequence[AdapterSource], on_event: OnEvent = ignore) -> tuple[StackedAdapter, ...]:
    """Read the adapters that are to be in one image; event: `TokenShared`.

    Each of several has scales of its own: those that the user gave, else those that its training
    recommends.

    Raises:
        UserError: an adapter cannot be read, a scale has no effect, or the adapters cannot be
            together (see `check_stack`).
    """
    stack: list[StackedAdapter] = []
    for source in sources:
        adapter, path = resolve_adapter(source.file())
        scales = scales_of(source, adapter)
        one = StackedAdapter(
            adapter=adapter,
            path=path,
            name=name_of(source),
            named=source.name is not None,
            place=str(source.place.folder if isinstance(source.place, Run) else source.place),
            scales=scales,
        )
        if len(sources) > 1:
            knobs = recommended_knobs(adapter).model_copy(update=scales)
            one = replace(one, unet_scale=knobs.unet_scale, text_scale=knobs.text_scale)
        stack.append(one)
    check_stack(stack)
    report_shared_tokens(stack, on_event)
    return tuple(stack)


def stack_knobs(stack: Stack) -> Knobs:
    """Return the recommended knobs of adapters: those of the first that has some.

    The images of several are as large as the largest that one of them recommends.

    Raises:
        UserError: another version of mascot wrote the knobs.
    """
    with_knobs = [one for one in stack if one.adapter.manifest] or list(stack)
    recommended = [recommended_knobs(one.adapter) for one in with_knobs]
    if len(stack) == 1:
        return with_scales(stack, recommended[0])
    sides = [one.adapter.manifest.resolution if one.adapter.manifest else 0 for one in with_knobs]
    sizes = [(knobs.height or side, knobs.width or side) for knobs, side in zip(recommended, sides, strict=True)]
    largest = max(sizes, key=lambda size: size[0] * size[1])
    size = {"height": largest[0] or None, "width": largest[1] or None}
    return with_scales(stack, recommended[0].model_copy(update=size))


def with_scales(stack: Stack, knobs: Knobs) -> Knobs:
    """Set the scales of knobs: those behind the path of one adapter, and 1 for several."""
    scales = stack[0].scales if len(stack) == 1 else {"unet_scale": 1.0, "text_scale": 1.0}
    return knobs.model_copy(update=scales)


def open_generator(
    source: str | Path | Run,
    *,
    base: str | None = None,
    device: str = "auto",
    family: Family | None = None,
    on_event: OnEvent = ignore,
) -> tuple[Generator, Adapter, str]:
    """Load an adapter and its base; returns the generator, the adapter and the base's name.

    Arguments:
        source: a run, its folder, or an adapter file.
        base: the base, in place of the one that the adapter names.
        device: `auto`, `cpu`, or another device's name.
        family: the base, where it is loaded already.
        on_event: receives the generator's events.

    Raises:
        UserError: the adapter names no base, or the adapter, the base or the device cannot be used.
    """
    adapter, path = resolve_adapter(source)
    stack = (StackedAdapter(adapter=adapter, path=path),)
    generator, name = open_stack_generator(stack, base=base, device=device, family=family, on_event=on_event)
    return generator, adapter, name


def open_stack_generator(
    stack: Stack,
    *,
    base: str | None = None,
    device: str = "auto",
    family: Family | None = None,
    on_event: OnEvent = ignore,
    load: LoadFamily = load_family,
) -> tuple[Generator, str]:
    """Load the base of adapters and apply them; returns the generator and the base's name.

    The arguments are those of `open_generator`. The base is that of the first adapter that names
    one. `load` takes the place of `load_family`, to keep a base from one call to the next.

    Raises:
        UserError: no adapter names a base, two were trained with other readings of it, or an
            adapter, the base or the device cannot be used.
    """
    manifests = [(one, one.adapter.manifest) for one in stack if one.adapter.manifest is not None]
    if base is None and not manifests:
        raise UserError(f"{stack[0].path} does not say which base it is for; give --base.")
    first, manifest = manifests[0] if manifests else (stack[0], None)
    name = base or (manifest.base if manifest else "")
    chosen = choose_device(device, DEVICE_REMEDY)
    recipe = manifest.recipe if manifest else {}
    precision = "fp32" if chosen == "cpu" else recipe.get("precision", "bf16")
    reading = reading_of(first.adapter, first.path)
    for other, _ in manifests[1:]:
        check_same_reading(first, reading, other, reading_of(other.adapter, other.path))
    if family is None:
        check_architectures(stack, name)
        family = load(name, device=chosen, precision=precision, reading=reading)
    return Generator(family, stack, on_event=on_event), name


def check_architectures(stack: Stack, base: str) -> None:
    """Refuse an adapter of another kind of base before the base is loaded, where shapes tell.

    Raises:
        UserError: it names both kinds.
    """
    found = architecture_in(family_name(base), text_width(base))
    for one in stack:
        own = architecture_of(one.adapter.tensors)
        if own is not None and own != found:
            other = f"one of {BASE_NAMES[found]}" if found in BASE_NAMES else "another kind of base"
            raise UserError(
                f"{one.path} is an adapter of {BASE_NAMES[own]}, and the base {base} is {other}; "
                f"give --base a base of {BASE_NAMES[own]}."
            )


def check_same_reading(first: StackedAdapter, reading: BaseReading, other: StackedAdapter, read: BaseReading) -> None:
    """Refuse two adapters whose bases were read in other ways, which no image can do at once.

    Raises:
        UserError: it names the settings.
    """
    own, others = reading.model_dump(), read.model_dump()
    if different := [key for key, value in own.items() if value != others[key]]:
        raise UserError(
            f"{first.place} and {other.place} were trained with other settings of their base ({list_some(different)}), "
            "and one image has one base; leave out one of them."
        )


def reading_of(adapter: Adapter, path: Path) -> BaseReading:
    """Return how the adapter's base was read in training; adapters of other tools do not say.

    Raises:
        UserError: another version of mascot wrote the settings.
    """
    recipe = adapter.manifest.recipe if adapter.manifest else {}
    try:
        return BaseReading.model_validate({name: recipe[name] for name in BaseReading.model_fields if name in recipe})
    except ValidationError as error:
        raise UserError(
            f"{path} does not say how to read its base: it was written by another version of mascot; update mascot."
        ) from error


def base_of(stack: Stack) -> str | None:
    """Return the base that the first of some adapters names; those of other tools do not say."""
    return next((one.adapter.manifest.base for one in stack if one.adapter.manifest), None)


def recommended_knobs(adapter: Adapter) -> Knobs:
    """Return the knobs that the knob search chose, else those of the run's recipe.

    Raises:
        UserError: another version of mascot wrote the knobs.
    """
    manifest = adapter.manifest
    try:
        return Knobs.model_validate(manifest.knobs or manifest.recipe.get("knobs", {})) if manifest else Knobs()
    except ValidationError as error:
        raise UserError(
            "the adapter's own knobs cannot be read: it was written by another version of mascot; update mascot."
        ) from error


def plan_requests(adapter: Adapter | Stack, prompts: Sequence[str], *, count: int, seed: int) -> list[ImageRequest]:
    """Fill the prompts with the subjects of adapters, and request `count` images of each.

    With several subjects, a prompt with `{subject}` becomes one prompt for each of them (see
    `fill_prompts`). Image k of every prompt has the seed `seed + k`.

    Raises:
        UserError: a prompt has a placeholder that cannot be filled, or is not UTF-8.
    """
    for prompt in prompts:
        if not is_unicode(prompt):
            raise UserError(f"the prompt {prompt!a} is not UTF-8; write it with that encoding.")
    stack = (StackedAdapter(adapter=adapter),) if isinstance(adapter, Adapter) else adapter
    return [ImageRequest(prompt, seed + k) for prompt in fill_prompts(prompts, stack) for k in range(count)]
