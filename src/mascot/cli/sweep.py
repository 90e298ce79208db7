"""The commands `sweep` and `token`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mascot.cli.options import Base, Clip, Identity, Overrides, given_options, read_place
from mascot.errors import UserError

if TYPE_CHECKING:
    from mascot.experiments.leaderboard import Leaderboard

Source = Annotated[
    Path,
    typer.Argument(
        help="A recipe (.toml) to train with several settings, or a run or adapter to vary knobs of.", parser=read_place
    ),
]
Over = Annotated[list[str], typer.Option(help="A setting and its values: method.rank=4,16 or guidance=3,5,9.")]
Trials = Annotated[
    int | None, typer.Option(min=1, help="Search with this many settings instead of trying all.", show_default=False)
]
By = Annotated[str, typer.Option(help="The metric of `mascot evaluate` that ranks the runs.")]
ScoredImages = Annotated[int, typer.Option(min=1, max=1000, help="Images of each prompt that score a run.")]
GridPrompt = Annotated[str | None, typer.Option(help="Prompt of the image grid.", show_default=False)]
Engine = Annotated[str, typer.Option(help="Where runs are trained: local, or ray.")]
Address = Annotated[
    str | None, typer.Option(help="Address of a Ray cluster. By default this machine.", show_default=False)
]
Out = Annotated[
    Path | None, typer.Option(help="Folder of the sweep. An interrupted sweep goes on in it.", show_default=False)
]
TokenCount = Annotated[int, typer.Option(min=1, max=100, help="Tokens to show.")]
Candidates = Annotated[int, typer.Option(min=1, max=10_000, help="Rare words to generate images of.")]
CandidateSeed = Annotated[int, typer.Option(min=0, help="Random seed of the candidates and of their images.")]


KNOBS_ONLY = ("overrides", "trials", "by", "images", "identity", "clip", "engine", "address")
"""Options of `sweep` that a grid of knobs cannot use."""


def sweep(
    context: typer.Context,
    what: Source,
    *,
    over: Over,
    overrides: Overrides = None,
    trials: Trials = None,
    by: By = "identity",
    images: ScoredImages = 1,
    prompt: GridPrompt = None,
    identity: Identity = None,
    clip: Clip = None,
    engine: Engine = "local",
    address: Address = None,
    out: Out = None,
) -> None:
    """Train and rank a recipe with several settings, or generate a grid of inference knobs."""
    if what.suffix != ".toml":
        if unused := given_options(context, *KNOBS_ONLY):
            raise UserError(
                f"knobs are not trained or scored, so {unused[0]} has no effect: give --over, --prompt and --out alone."
            )
        show_knob_grid(what, over, prompt=prompt, out=out)
        return
    from mascot.api.experiments.sweep import sweep as sweep_recipe
    from mascot.generation.prompts.prompt_sets import KNOBS_PROMPT

    run = partial(
        sweep_recipe,
        out=out or Path("runs") / f"sweep-{what.stem}",
        by=by,
        trials=trials,
        images=images,
        prompt=KNOBS_PROMPT if prompt is None else prompt,
        identity=identity,
        clip=clip,
        engine=engine,
        address=address,
    )
    show_sweep(run, what, overrides or [], over)


def show_sweep(run: Callable[..., Leaderboard], file: Path, overrides: list[str], over: list[str]) -> None:
    """Sweep a recipe file with changes on top, and print the leaderboard."""
    from mascot.cli.console import open_display, show_leaderboard
    from mascot.experiments.search_space import expand_keys, parse_over
    from mascot.recipe.overrides import merge, parse_overrides, read_toml
    from mascot.recipe.unused_settings import check_given_once, check_undiagnosed, flatten

    given, choices = parse_overrides(overrides), parse_over(over)
    check_given_once(given, {key: f"--over {key}" for key in expand_keys(choices)})
    check_undiagnosed(dict(flatten(given)), "sweep")
    with open_display() as display:
        board = run(merge(read_toml(file), given), choices, on_event=display)
    show_leaderboard(display, board)


def show_knob_grid(source: Path, over: list[str], *, prompt: str | None, out: Path | None) -> None:
    """Generate a grid of knobs, and print its path."""
    from mascot.api.experiments.sweep import generate_knob_grid
    from mascot.cli.console import quiet_libraries, show_note
    from mascot.experiments.search_space import ValueRange, parse_over
    from mascot.generation.prompts.prompt_sets import KNOBS_PROMPT

    quiet_libraries()
    choices = parse_over(over)
    listed = {key: values for key, values in choices.items() if not isinstance(values, ValueRange)}
    if len(listed) < len(choices):
        raise UserError("a grid of knobs needs listed values; write them with commas, such as guidance=3,5,9.")
    if prompt is not None and "prompt" in listed:
        raise UserError("--prompt has no effect where --over varies the prompt; leave one of them out.")
    asked = KNOBS_PROMPT if prompt is None else prompt
    typer.echo(generate_knob_grid(source, listed, out=out, prompt=asked, on_event=show_note))


def token(
    *,
    base: Base = None,
    count: TokenCount = 5,
    candidates: Candidates = 16,
    seed: CandidateSeed = 0,
    identity: Identity = None,
    clip: Clip = None,
) -> None:
    """Find rare words for the identifier token, and show what they mean to the base model."""
    from mascot.api.experiments.find_token import find_token
    from mascot.cli.console import open_display, show_rows
    from mascot.evaluation.selection.token_choice import search_rows
    from mascot.models.devices import choose_device
    from mascot.models.starter import EMBEDDED

    name, device = EMBEDDED if base is None else base, choose_device("auto")
    with open_display() as display:
        search = find_token(
            name,
            count=count,
            candidates=candidates,
            seed=seed,
            identity=identity,
            clip=clip,
            device=device,
            on_event=display,
        )
    show_rows(display.console, f"rare words of {name}, the one that means least first", search_rows(search))
