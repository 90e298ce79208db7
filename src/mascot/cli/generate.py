"""The command `generate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mascot.cli.options import FirstSeed, parse_size
from mascot.errors import UserError

if TYPE_CHECKING:
    from mascot.generation.knobs import Knobs
    from mascot.generation.stack.adapter_sources import AdapterSource
    from mascot.generation.start_image import SourceImage

Words = Annotated[
    list[str],
    typer.Argument(
        metavar="adapters, prompts",
        help="First adapters: a run's folder (RUN@200 for a kept step), a file, or owner/name on the model hub. "
        "ADAPTER:0.8 sets its scale, ADAPTER:0.8:0.5 those of denoiser and text encoders. Then prompts: {subject} "
        "stands for token and class noun, {NAME} for one of several.",
    ),
]
Count = Annotated[int, typer.Option(min=1, max=10_000, help="Images of each prompt.")]
Size = Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels, or the side of a square.", show_default=False)]
Out = Annotated[
    Path | None, typer.Option(help="Folder for the images. By default images/ beside the adapter.", show_default=False)
]

ADAPTERS = "Adapters"
"""Heading of the options of adapters."""
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        help="An adapter in the same form, or NAME=ADAPTER to call it {NAME}.",
        show_default=False,
        rich_help_panel=ADAPTERS,
    ),
]
UnetScale = Annotated[
    float | None,
    typer.Option(
        help="Scale of one adapter in the denoiser; 0 is the base model.", show_default=False, rich_help_panel=ADAPTERS
    ),
]
TextScale = Annotated[
    float | None,
    typer.Option(help="Scale of one adapter in the text encoders.", show_default=False, rich_help_panel=ADAPTERS),
]
BaseModel = Annotated[
    str | None,
    typer.Option(
        help="Base model: where it is now, if it was moved, or which, if the adapter does not name one.",
        show_default=False,
        rich_help_panel=ADAPTERS,
    ),
]

SOLVER = "Guidance and solver (by default as training chose)"
"""Heading of the knobs."""
Negative = Annotated[str | None, typer.Option(help="Negative prompt.", show_default=False, rich_help_panel=SOLVER)]
Guidance = Annotated[float | None, typer.Option(help="Guidance scale.", show_default=False, rich_help_panel=SOLVER)]
TrueGuidance = Annotated[
    float | None,
    typer.Option(
        help="Guidance scale of the negative prompt, where --guidance is an input of the base itself.",
        show_default=False,
        rich_help_panel=SOLVER,
    ),
]
SolverSteps = Annotated[int | None, typer.Option(help="Solver steps.", show_default=False, rich_help_panel=SOLVER)]
SolverName = Annotated[
    str | None,
    typer.Option(
        help="Solver: ddim, dpm++, euler or unipc, as far as the base has it.",
        show_default=False,
        rich_help_panel=SOLVER,
    ),
]

START = "From an image"
"""Heading of the options of an image to start from."""
StartFrom = Annotated[
    Path | None,
    typer.Option(
        help="Image to start from. Images get its size, unless --size is given.",
        show_default=False,
        rich_help_panel=START,
    ),
]
Strength = Annotated[
    float | None,
    typer.Option(
        help="How much of --image is redrawn, above 0 and up to 1. By default 0.6; on an inpainting base with a "
        "mask 1.",
        show_default=False,
        rich_help_panel=START,
    ),
]
Mask = Annotated[
    Path | None,
    typer.Option(
        help="White where --image is redrawn, black where it stays as it is; grays blend.",
        show_default=False,
        rich_help_panel=START,
    ),
]


def generate(
    words: Words,
    *,
    count: Count = 4,
    seed: FirstSeed = 0,
    size: Size = None,
    out: Out = None,
    adapter: Adapters = None,
    unet_scale: UnetScale = None,
    text_scale: TextScale = None,
    base: BaseModel = None,
    negative: Negative = None,
    guidance: Guidance = None,
    true_guidance: TrueGuidance = None,
    steps: SolverSteps = None,
    solver: SolverName = None,
    image: StartFrom = None,
    strength: Strength = None,
    mask: Mask = None,
) -> None:
    """Generate images with a trained adapter, by default with the knobs that training chose."""
    from mascot.cli.console import quiet_libraries
    from mascot.generation.stack.adapter_sources import split_words
    from mascot.generation.start_image import read_source_image

    quiet_libraries()
    sources, prompts = split_words(words, adapter or [])
    knobs = {
        "guidance": guidance,
        "unet_scale": unet_scale,
        "text_scale": text_scale,
        "negative": negative,
        "true_guidance": true_guidance,
        "steps": steps,
        "solver": solver,
    }
    changes = {name: value for name, value in knobs.items() if value is not None} | parse_size(size)
    source_image = read_source_image(image, mask=mask, strength=strength)
    write_images(sources, prompts, changes, source_image, count=count, seed=seed, base=base, out=out)


def write_images(
    sources: list[AdapterSource],
    prompts: list[str],
    changes: dict[str, float | str],
    source_image: SourceImage | None = None,
    *,
    count: int,
    seed: int,
    base: str | None,
    out: Path | None,
) -> None:
    """Generate, write each image with its settings, and print its path.

    `changes` are knobs that replace the recommended ones.
    """
    from mascot.cli.console import show_note
    from mascot.generation.generator import fit_start
    from mascot.generation.knob_checks import check_stack_knobs
    from mascot.generation.knobs import settings_text
    from mascot.generation.loading import base_of, open_stack, open_stack_generator, plan_requests, stack_knobs
    from mascot.generation.prompts.prompt_reading import check_prompts
    from mascot.generation.stack.stacked_adapter import describe_adapters
    from mascot.storage.image_files import image_stem, write_new_image

    stack = open_stack(sources, on_event=show_note)
    knobs = change_knobs(stack_knobs(stack), changes)
    check_stack_knobs(stack, changes, knobs, base=base)
    requests = plan_requests(stack, prompts, count=count, seed=seed)
    check_prompts([*(request.prompt for request in requests), knobs.negative], base or base_of(stack))
    generator, name = open_stack_generator(stack, base=base, on_event=show_note)
    start, knobs = fit_start(source_image, generator, generator.with_defaults(knobs), sized="width" in changes)
    adapter, started = describe_adapters(stack, knobs), start.facts if start else {}
    folder = out or default_folder(sources[0], stack[0].path)
    for request, image in zip(requests, generator.generate(requests, knobs, start), strict=True):
        facts = {**generator.reading(request.prompt, knobs).facts, **started}
        text = settings_text(request, knobs, generator.size(knobs), name, adapter, facts=facts)
        target = write_new_image(image, folder, image_stem(request.prompt, request.seed), text)
        typer.echo(target)


def default_folder(source: AdapterSource, path: Path) -> Path:
    """Return the folder for images where none is given: beside the first adapter, or here."""
    from mascot.generation.stack.adapter_sources import is_repository
    from mascot.storage.run_folder import images_folder

    return Path("images") if is_repository(str(source.place)) else images_folder(path)


def change_knobs(recommended: Knobs, changes: dict[str, float | str]) -> Knobs:
    """Return the knobs with some of them changed.

    Raises:
        UserError: a value is out of range; it names the option.
    """
    from pydantic import ValidationError

    from mascot.generation.knobs import Knobs

    try:
        return Knobs.model_validate(recommended.model_dump() | changes)
    except ValidationError as error:
        of_size = {"width": "size, width", "height": "size, height"}
        named = [(of_size.get(str(m["loc"][0]), str(m["loc"][0]).replace("_", "-")), m) for m in error.errors()]
        mistakes = "; ".join(f"--{option} {m['input']}: {m['msg']}" for option, m in named)
        raise UserError(f"{mistakes}.") from None
