"""The command `suite`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from mascot.cli.options import Base, Clip, Device, FirstSeed, Identity, Images, Overrides, parse_names

Folder = Annotated[
    Path,
    typer.Argument(
        help="A collection: prompts_and_classes.txt and a folder of photos for each subject.", show_default=False
    ),
]
Methods = Annotated[str | None, typer.Option(help="Training methods, separated by commas.", show_default=False)]
Subjects = Annotated[str | None, typer.Option(help="Only these subjects, separated by commas.", show_default=False)]
Prompts = Annotated[
    int | None, typer.Option(min=1, help="Only this many of the prompts of each list.", show_default=False)
]
Out = Annotated[
    Path | None, typer.Option(help="Folder of the suite. An interrupted suite goes on in it.", show_default=False)
]


def suite(
    folder: Folder,
    *,
    methods: Methods = None,
    subjects: Subjects = None,
    prompts: Prompts = None,
    overrides: Overrides = None,
    images: Images = 4,
    seed: FirstSeed = 0,
    base: Base = None,
    identity: Identity = None,
    clip: Clip = None,
    device: Device = "auto",
    out: Out = None,
) -> None:
    """Train and score every subject of a collection by the protocol of the DreamBooth paper."""
    from mascot.api.experiments.evaluate_suite import evaluate_suite
    from mascot.cli.console import open_display, show_suite
    from mascot.methods.registry import DEFAULT
    from mascot.models.starter import EMBEDDED

    with open_display() as display:
        scores = evaluate_suite(
            folder,
            out=out or Path("runs") / f"suite-{Path(os.path.realpath(folder)).name}",
            methods=parse_names(methods) or (DEFAULT,),
            subjects=parse_names(subjects),
            prompts=prompts,
            overrides=overrides or (),
            images=images,
            seed=seed,
            base=EMBEDDED if base is None else base,
            identity=identity,
            clip=clip,
            device=device,
            on_event=display,
        )
    show_suite(display, scores)
