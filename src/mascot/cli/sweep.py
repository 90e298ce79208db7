"""The commands `sweep` and `token`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mascot.cli.options import Base, Overrides, given
from mascot.errors import UserError


def sweep(
    what: Annotated[
        Path,
        typer.Argument(help="A recipe (.toml) to train with several settings, or a run or adapter to vary knobs of."),
    ],
    *,
    over: Annotated[list[str], typer.Option(help="A setting and its values: method.rank=4,16 or guidance=3,5,9.")],
    overrides: Overrides = None,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Search with this many settings instead of trying all.", show_default=False),
    ] = None,
    by: Annotated[str, typer.Option(help="The metric of `mascot evaluate` that ranks the runs.")] = "identity",
    images: Annotated[int, typer.Option(min=1, max=1000, help="Images of each prompt that score a run.")] = 1,
    prompt: Annotated[str | None, typer.Option(help="Prompt of the image grid.", show_default=False)] = None,
    engine: Annotated[str, typer.Option(help="Where runs are trained: local, or ray.")] = "local",
    address: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster. By default this machine.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the sweep. An interrupted sweep goes on in it.", show_default=False)
    ] = None,
) -> None:
    """Train and score a recipe with several settings, or generate with several knobs. Makes a leaderboard and a grid."""
    if what.suffix == ".toml":
        show_sweep(
            what,
            over,
            overrides or [],
            trials=trials,
            by=by,
            images=images,
            prompt=prompt,
            engine=engine,
            address=address,
            out=out,
        )
        return
    if trials or overrides or by != "identity":
        raise UserError("knobs are not trained or scored: give --over, --prompt and --out alone.")
    show_knob_grid(what, over, prompt=prompt, out=out)


def show_sweep(
    file: Path,
    over: list[str],
    overrides: list[str],
    *,
    trials: int | None,
    by: str,
    images: int,
    prompt: str | None,
    engine: str,
    address: str | None,
    out: Path | None,
) -> None:
    """Sweep a recipe, print each run as it ends, and print the leaderboard."""
    from mascot.api.sweep import sweep as sweep_recipe
    from mascot.cli.console import open_display, show_table
    from mascot.experiments.leaderboard_page import leaderboard_table
    from mascot.experiments.search_space import parse_over
    from mascot.recipe.overrides import merge, parse_overrides, read_toml

    values = merge(read_toml(file), parse_overrides(overrides))
    folder = out or Path("runs") / f"sweep-{file.stem}"
    with open_display() as display:
        board = sweep_recipe(
            values,
            parse_over(over),
            out=folder,
            by=by,
            trials=trials,
            images=images,
            engine=engine,
            address=address,
            on_event=display,
            **given(prompt=prompt),
        )
    for kind, path in display.files.items():
        display.say(f"{kind}: {path}")
    show_table(
        display.console, leaderboard_table(board, metrics=(board.by,))
    )  # all other metrics are in the file and on the page


def show_knob_grid(where: Path, over: list[str], *, prompt: str | None, out: Path | None) -> None:
    """Generate a grid of knobs, and print its path."""
    from mascot.api.sweep import draw_knob_grid
    from mascot.cli.console import quiet_libraries
    from mascot.experiments.search_space import ValueRange, parse_over
    from mascot.generation.loading import resolve_adapter
    from mascot.storage.atomic_write import fresh_path

    quiet_libraries()
    choices = parse_over(over)
    listed = {key: values for key, values in choices.items() if not isinstance(values, ValueRange)}
    if len(listed) < len(choices):
        raise UserError("a grid of knobs needs listed values; write them with commas, such as guidance=3,5,9.")
    _, path = resolve_adapter(where)
    target = out or fresh_path(path.parent, "knobs", ".png")
    typer.echo(draw_knob_grid(where, listed, out=target, **given(prompt=prompt)))


def token(
    *,
    base: Base = None,
    count: Annotated[int, typer.Option(min=1, max=100, help="Tokens to show.")] = 5,
    candidates: Annotated[int, typer.Option(min=1, max=10_000, help="Rare words to generate images of.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the candidates and of their images.")] = 0,
) -> None:
    """Find a rare token to use as the subject's identifier, and show what it means to the base model."""
    from mascot.api.find_token import find_token
    from mascot.cli.console import open_display, show_rows
    from mascot.evaluation.selection.token_choice import rows_of
    from mascot.models.devices import choose_device

    name = "starter" if base is None else base
    with open_display() as display:
        search = find_token(
            name, count=count, candidates=candidates, seed=seed, device=choose_device("auto"), on_event=display
        )
    show_rows(display.console, f"rare words of {name}, the one that means least first", rows_of(search))
