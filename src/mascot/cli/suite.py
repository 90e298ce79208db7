"""The command `suite`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from mascot.cli.options import Base, Clip, Device, FirstSeed, Identity, Images, Overrides, given, parse_names


def suite(
    folder: Annotated[
        Path,
        typer.Argument(
            help="A collection: prompts_and_classes.txt and a folder of photos for each subject.", show_default=False
        ),
    ],
    *,
    methods: Annotated[
        str | None, typer.Option(help="Training methods, separated by commas.", show_default=False)
    ] = None,
    subjects: Annotated[
        str | None, typer.Option(help="Only these subjects, separated by commas.", show_default=False)
    ] = None,
    prompts: Annotated[
        int | None, typer.Option(min=1, help="Only this many of the prompts of each list.", show_default=False)
    ] = None,
    overrides: Overrides = None,
    images: Images = 4,
    seed: FirstSeed = 0,
    base: Base = None,
    identity: Identity = None,
    clip: Clip = None,
    device: Device = "auto",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the suite. An interrupted suite goes on in it.", show_default=False)
    ] = None,
) -> None:
    """Train and score every subject of a collection by the protocol of the DreamBooth paper, in one table."""
    from mascot.api.evaluate_suite import evaluate_suite
    from mascot.cli.console import open_display, show_table
    from mascot.experiments.suite_page import difference_tables, other_table, paper_table

    options = given(
        methods=parse_names(methods), subjects=parse_names(subjects), prompts=prompts, overrides=overrides, base=base
    )
    place = out or Path("runs") / f"suite-{Path(os.path.realpath(folder)).name}"
    with open_display() as display:
        found = evaluate_suite(
            folder,
            out=place,
            images=images,
            seed=seed,
            identity=identity,
            clip=clip,
            device=device,
            on_event=display,
            **options,
        )
    for table in (paper_table(found), other_table(found), *difference_tables(found)):
        show_table(display.console, table)
    display.say(f"report: {display.files['report']}")
