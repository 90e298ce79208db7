"""The command `inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Files = Annotated[
    list[Path],
    typer.Argument(
        help="Adapter files, runs, RUN@STEP, checkpoints, or folders of bases or adapters.", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON list instead, one entry a file.")]


def inspect(files: Files, *, json: AsJson = False) -> None:
    """Tell what a file holds, which words, how strong each block is, and what is wrong with it.

    No base is loaded.
    """
    from mascot.api.adapters.inspect import inspect as look_into
    from mascot.api.adapters.inspection.inspection_text import write_json, write_text
    from mascot.cli.console import quiet_libraries

    quiet_libraries()
    if json:
        typer.echo(write_json([look_into(file) for file in files]))
        return
    for number, file in enumerate(files):
        typer.echo(f"{chr(10) * bool(number)}{write_text(look_into(file))}")
