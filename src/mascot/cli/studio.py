"""The command `studio`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mascot.cli.options import read_place
from mascot.errors import UserError

Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
Address = Annotated[
    str, typer.Option(help="Address to listen on; any that others reach needs --password, such as 0.0.0.0.")
]
Password = Annotated[
    str | None,
    typer.Option(help="Password of the page, 8 letters or more.", envvar="MASCOT_PASSWORD", show_default=False),
]
Share = Annotated[
    Literal["never"],
    typer.Option(help="Link through another machine: never. Photos stay here; others reach the page by --address."),
]
Library = Annotated[Path, typer.Option(help="Folder of the runs.", parser=read_place)]


def studio(
    *,
    port: Port = 7860,
    address: Address = "127.0.0.1",
    password: Password = None,
    share: Share = "never",
    library: Library = Path("runs"),
) -> None:
    """Open the studio: photos, training, images and comparisons on a page in the browser."""
    del share  # there is one value: whoever expects Gradio's link is told so by the parser
    from mascot.cli.console import quiet_libraries

    try:
        from mascot.studio.app import serve
    except ModuleNotFoundError as error:
        raise UserError(f"the studio needs {error.name}; run pip install 'mascot[studio]'.") from error
    quiet_libraries()
    serve(library, port=port, address=address, password=password, say=typer.echo)
