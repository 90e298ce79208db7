"""The command `publish`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mascot.cli.options import AdapterBase, read_place

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
