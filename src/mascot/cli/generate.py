"""The command `generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mascot.cli.options import AdapterBase, FirstSeed, RunOrAdapter, given, parse_size
from mascot.errors import UserError


def generate(
    adapter: RunOrAdapter,
    prompts: Annotated[list[str], typer.Argument(help="Prompts; {subject} stands for token and class noun.")],
    *,
    count: Annotated[int, typer.Option(min=1, max=10_000, help="Images of each prompt.")] = 4,
    seed: FirstSeed = 0,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale.", show_default=False)] = None,
    unet_scale: Annotated[
        float | None, typer.Option(help="Adapter scale of the denoiser; 0 is the base model.", show_default=False)
    ] = None,
    text_scale: Annotated[
        float | None, typer.Option(help="Adapter scale of the text encoder.", show_default=False)
    ] = None,
    negative: Annotated[str | None, typer.Option(help="Negative prompt.", show_default=False)] = None,
    steps: Annotated[int | None, typer.Option(help="Solver steps.", show_default=False)] = None,
    solver: Annotated[str | None, typer.Option(help="Solver: ddim, dpm++, euler or unipc.", show_default=False)] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels.", show_default=False)] = None,
    base: AdapterBase = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the images. By default images/ beside the adapter.", show_default=False),
    ] = None,
) -> None:
    """Generate images with a trained adapter. Knobs that are not given are those that training recommends."""
    from mascot.cli.console import quiet_libraries

    quiet_libraries()
    knobs = given(
        guidance=guidance, unet_scale=unet_scale, text_scale=text_scale, negative=negative, steps=steps, solver=solver
    )
    write_images(adapter, prompts, {**knobs, **parse_size(size)}, count=count, seed=seed, base=base, out=out)


def write_images(
    where: Path,
    prompts: list[str],
    changes: dict[str, Any],
    *,
    count: int,
    seed: int,
    base: str | None,
    out: Path | None,
) -> None:
    """Generate, write each image with its settings, and print its path."""
    from pydantic import ValidationError

    from mascot.generation.knobs import Knobs, settings_text
    from mascot.generation.loading import open_generator, plan_requests, recommended_knobs, resolve_adapter
    from mascot.storage.atomic_write import fresh_path
    from mascot.storage.image_files import image_stem, write_image

    adapter, path = resolve_adapter(where)
    try:
        knobs = Knobs.model_validate(recommended_knobs(adapter).model_dump() | changes)
    except ValidationError as error:
        mistakes = "; ".join(f"--{str(m['loc'][0]).replace('_', '-')} {m['input']}: {m['msg']}" for m in error.errors())
        raise UserError(f"{mistakes}.") from None
    requests = plan_requests(adapter, prompts, count=count, seed=seed)
    generator, _, name = open_generator(where, base=base)
    knobs = generator.with_defaults(knobs)
    for request, image in zip(requests, generator.generate(requests, knobs), strict=True):
        target = fresh_path(out or path.parent / "images", image_stem(request.prompt, request.seed), ".png")
        write_image(image, target, settings_text(request, knobs, generator.size(knobs), name, path.name))
        typer.echo(target)
