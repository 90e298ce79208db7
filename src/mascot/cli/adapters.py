"""The commands on one adapter: `inspect`, `convert` and `publish`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mascot.cli.options import AdapterBase, RunOrAdapter, read_place
from mascot.errors import escape_control

Files = Annotated[
    list[Path],
    typer.Argument(
        help="Adapter files, runs, RUN@STEP, checkpoints, or folders of bases or adapters.",
        show_default=False,
        parser=read_place,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON list instead, one entry a file.")]
OutFile = Annotated[
    Path, typer.Argument(metavar="OUT", help="The file to write, *.safetensors; for peft a folder.", show_default=False)
]
To = Annotated[
    Literal["diffusers", "kohya", "peft", "comfyui"],
    typer.Option(help="Format: diffusers, kohya (A1111, Forge too), peft or comfyui.", show_default=False),
]
Dtype = Annotated[
    Literal["fp32", "fp16", "bf16"] | None,
    typer.Option(help="Number format of the weights. By default that of the input.", show_default=False),
]
FinishedRun = Annotated[Path, typer.Argument(help="A finished run's folder.", parser=read_place)]
Repo = Annotated[str, typer.Option(help="Repository on the model hub: owner/name.", show_default=False)]
License = Annotated[
    str | None,
    typer.Option(help="License of the adapter: apache-2.0, mit, cc-by-4.0, openrail++, ...", show_default=False),
]
PrivateRepo = Annotated[bool, typer.Option("--private", help="Only you see the repository.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Write the files, and upload nothing.")]
Out = Annotated[
    Path | None, typer.Option(help="Folder for the files. By default published/ in the run.", show_default=False)
]


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
        typer.echo(f"{chr(10) * bool(number)}{escape_control(write_text(look_into(file)))}")


Private = Annotated[bool, typer.Option("--private", help="Write no header for other tools.")]
Thumbnail = Annotated[
    str | None,
    typer.Option(help="Image for the header; run takes the last preview of the adapter's run.", show_default=False),
]


def convert(
    adapter: RunOrAdapter,
    out: OutFile,
    *,
    to: To,
    dtype: Dtype = None,
    private: Private = False,
    thumbnail: Thumbnail = None,
) -> None:
    """Write an adapter in the format of another tool; any tool's file is read.

    Ranks and alphas of each layer keep their meaning. What some tool would read otherwise is said.
    """
    from mascot.api.adapters.convert import convert as write_as
    from mascot.cli.console import quiet_libraries

    quiet_libraries()
    conversion = write_as(adapter, out, to=to, dtype=dtype, private=private, thumbnail=thumbnail)
    for note in conversion.notes:
        typer.echo(escape_control(f"mascot: note: {note}."), err=True)
    layers = f"{conversion.layers} layers" if conversion.layers else "words"
    if conversion.path not in conversion.words:
        typer.echo(f"{conversion.path}: {layers}, from {conversion.format} to {conversion.to}")
    for word in conversion.words:
        typer.echo(f"{word}: a word, from {conversion.format} to {conversion.to}")


def publish(
    run: FinishedRun,
    *,
    repo: Repo,
    license: License = None,  # noqa: A002 - the hub's own word
    private: PrivateRepo = False,
    dry_run: DryRun = False,
    out: Out = None,
    base: AdapterBase = None,
) -> None:
    """Publish a run on the model hub: adapter, images by score, and a model card; no photos."""
    from mascot.api.adapters.publish import publish as upload
    from mascot.cli.console import quiet_libraries

    quiet_libraries()
    done = upload(run, repo, license=license, private=private, dry_run=dry_run, out=out, base=base)
    for name in done.files:
        typer.echo(done.folder / name)
    typer.echo(done.url or f"nothing is uploaded; look at {done.folder / 'README.md'}")
