"""Load an adapter with its base model, and plan what it generates: prompts, seeds and knobs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from mascot.adapters.adapter_file import Adapter
from mascot.adapters.peft_folder import is_peft_folder
from mascot.data.prompt_templates import expand
from mascot.errors import UserError
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.models.base_files.base_reading import BaseReading
from mascot.models.devices import choose_device
from mascot.models.families.registry import load_family
from mascot.progress import OnEvent, ignore
from mascot.protocols import Family
from mascot.storage.run_folder import Run, locate, open_run
from mascot.storage.strict_parsing import is_unicode

DEVICE_REMEDY = "give --device cpu"
"""Remedy for a missing device, where a command has an option of its own for it."""


def resolve_adapter(source: str | Path | Run) -> tuple[Adapter, Path]:
    """Read the adapter of a run, a run's folder, a file or a folder of peft; returns its path too.

    `RUN@STEP` is the adapter of a step that a run keeps, finished or not.

    Raises:
        UserError: the run is not finished, the step is not kept, or the file cannot be read.
    """
    path = source.adapter if isinstance(source, Run) else locate(Path(source))
    if path.is_dir() and not is_peft_folder(path):
        run = open_run(path)
        if not run.adapter.exists():
            raise UserError(f"{path} is not trained to the end; finish it with `mascot train --resume --out {path}`.")
        path = run.adapter
    return Adapter.read(path), path


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
    if base is None and adapter.manifest is None:
        raise UserError(f"{path} does not say which base it is for; give --base.")
    name = base or (adapter.manifest.base if adapter.manifest else "")
    chosen = choose_device(device, DEVICE_REMEDY)
    recipe = adapter.manifest.recipe if adapter.manifest else {}
    precision = "fp32" if chosen == "cpu" else recipe.get("precision", "bf16")
    family = family or load_family(name, device=chosen, precision=precision, reading=reading_of(adapter, path))
    return Generator(family, adapter, on_event=on_event), adapter, name


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


def base_of(adapter: Adapter) -> str | None:
    """Return the base that an adapter was trained on; adapters of other tools do not say."""
    return adapter.manifest.base if adapter.manifest else None


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


def plan_requests(adapter: Adapter, prompts: Sequence[str], *, count: int, seed: int) -> list[ImageRequest]:
    """Fill the prompts with the adapter's subjects, and request `count` images of each.

    With several subjects, a prompt with `{subject}` becomes one prompt for each of them. Image k of
    every prompt has the seed `seed + k`.

    Raises:
        UserError: a prompt has a placeholder that cannot be filled, or is not UTF-8.
    """
    manifest = adapter.manifest
    if manifest is None and any("{" in prompt for prompt in prompts):
        raise UserError("this adapter does not name its subject; write the token into the prompt instead of {subject}.")
    subject = manifest.subject if manifest else None
    for prompt in prompts:
        if not is_unicode(prompt):
            raise UserError(f"the prompt {prompt!a} is not UTF-8; write it with that encoding.")
    filled = [text for prompt in prompts for text in (expand(prompt, subject) if subject else [prompt])]
    return [ImageRequest(prompt, seed + k) for prompt in filled for k in range(count)]
