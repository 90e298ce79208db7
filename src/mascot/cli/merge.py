"""The commands `merge`, `extract` and `resize`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mascot.cli.options import given_options
from mascot.errors import UserError

if TYPE_CHECKING:
    from mascot.api.adapters.rank_reduction import FileWork
    from mascot.progress import OnEvent

Adapters = Annotated[
    list[str],
    typer.Argument(
        help="Adapters, each with its scale: a run's folder (RUN@200 for a kept step) or a file, as ADAPTER:0.7. "
        "ADAPTER:0.7:0.2 sets the scales of denoiser and text encoders, NAME=ADAPTER its name in prompts.",
    ),
]
OneAdapter = Annotated[str, typer.Argument(help="A run's folder (RUN@200 for a kept step), or an adapter file.")]
OutFile = Annotated[Path, typer.Option(help="The .safetensors file to write.")]
OutBase = Annotated[Path, typer.Option(help="The .safetensors file to write, or with --into the new base.")]
Rank = Annotated[int | None, typer.Option(help="Largest rank of a layer.", show_default=False)]
Energy = Annotated[
    float | None,
    typer.Option(help="Share of each layer's squared weight change to keep, such as 0.95.", show_default=False),
]
Ratio = Annotated[
    float | None,
    typer.Option(
        help="Keep the singular values of each layer that are at least its largest divided by this, such as 10.",
        show_default=False,
    ),
]
Into = Annotated[
    str | None,
    typer.Option(
        help="Write this base with the adapters' changes in its weights: a folder, a file or starter.",
        show_default=False,
    ),
]
Shapes = Annotated[
    str | None,
    typer.Option(
        help="Where the base is now, if it was moved. Only a LoHa or LoKr of convolutions needs it.", show_default=False
    ),
]
Format = Annotated[
    str | None,
    typer.Option(help="Format: diffusers, kohya or comfyui. By default that of the input.", show_default=False),
]
Tuned = Annotated[str, typer.Argument(help="The trained model: a folder in the diffusers layout, or a file.")]
TunedFrom = Annotated[str, typer.Option("--base", help="The base it was trained from: a folder, a file or starter.")]
ConvRank = Annotated[
    int | None, typer.Option(help="Largest rank of a convolution. By default --rank.", show_default=False)
]
NewFormat = Annotated[
    str | None, typer.Option(help="Format: diffusers, kohya or comfyui. By default diffusers.", show_default=False)
]

ONLY_FILES = ("rank", "energy", "base", "to")
"""Options of `merge` that a base has no use for."""


def merge(
    context: typer.Context,
    adapters: Adapters,
    *,
    out: OutBase,
    rank: Rank = None,
    energy: Energy = None,
    into: Into = None,
    base: Shapes = None,
    to: Format = None,
) -> None:
    """Add adapters' weight changes exactly, or to a rank; or bake them into a base."""
    if into is not None:
        if unused := given_options(context, *ONLY_FILES):
            raise UserError(f"{unused[0]} has no effect beside --into, where sums are exact; leave it out.")
        from mascot.api.adapters.bake import bake

        show_work(lambda on_event: bake(adapters, into, out, on_event=on_event))
        return
    from mascot.api.adapters.merge import merge as merge_adapters

    show_work(
        lambda on_event: merge_adapters(adapters, out, rank=rank, energy=energy, base=base, to=to, on_event=on_event)
    )


def extract(
    tuned: Tuned,
    *,
    base: TunedFrom,
    out: OutFile,
    rank: Rank = None,
    energy: Energy = None,
    conv_rank: ConvRank = None,
    to: NewFormat = None,
) -> None:
    """Find the LoRA that is closest to what training did to a whole model."""
    from mascot.api.adapters.extract import extract as extract_adapter

    show_work(
        lambda on_event: extract_adapter(
            tuned, base, out, rank=rank, energy=energy, conv_rank=conv_rank, to=to, on_event=on_event
        )
    )


def resize(
    adapter: OneAdapter,
    *,
    out: OutFile,
    rank: Rank = None,
    energy: Energy = None,
    ratio: Ratio = None,
    base: Shapes = None,
    to: Format = None,
) -> None:
    """Write an adapter with other ranks, each layer as close as its rank allows."""
    from mascot.api.adapters.resize import resize as resize_adapter

    show_work(
        lambda on_event: resize_adapter(
            adapter, out, rank=rank, energy=energy, ratio=ratio, base=base, to=to, on_event=on_event
        )
    )


def show_work(run: Callable[[OnEvent], FileWork]) -> None:
    """Run a verb under a progress bar, and print what it kept and wrote."""
    from mascot.cli.console import open_display, show_rows

    with open_display() as display:
        work = run(display)
    show_rows(display.console, "result", work.rows)
    typer.echo(work.path)
