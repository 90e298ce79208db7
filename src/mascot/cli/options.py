"""TODO cli.options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mascot.errors import UserError
from mascot.recipe.recipe import Recipe

Photos = Annotated[list[Path] | None, typer.Argument(help="Folders and files with 3 to 10 photos of the subject.", show_default=False)]


ClassNoun = Annotated[str | None, typer.Option(help="What kind of thing it is: dog, toy, ...", show_default=False)]


Base = Annotated[
    str | None, typer.Option(help="starter (the embedded base), a folder, a .safetensors file or a hub id.", show_default=False)
]


Token = Annotated[
    str | None, typer.Option(help="The word that will mean the subject; the base is asked for one when not given.", show_default=False)
]


RecipeFile = Annotated[Path | None, typer.Option("--recipe", help="A recipe in TOML; options given here win over it.", show_default=False)]


Set = Annotated[list[str] | None, typer.Option("--set", help="Change any setting: --set method.rank=16.", show_default=False)]


Seed = Annotated[int | None, typer.Option(min=0, help="Decides everything random.", show_default=False)]


Steps = Annotated[int | None, typer.Option(help="Training steps.", show_default=False)]


RunOrAdapter = Annotated[Path, typer.Argument(help="A run's folder or an adapter file.")]


def build_recipe(
    photos: list[Path] | None, *, class_noun: str | None, base: str | None, token: str | None, file: Path | None,
    overrides: list[str] | None, seed: int | None, method: str | None = None, steps: int | None = None,
) -> Recipe:  # fmt: skip
    """Build the recipe that options describe."""
    from mascot.recipe.recipe import Recipe

    more = [f"training.steps={steps}"] * (steps is not None) + [f'method.name="{method}"'] * (method is not None)
    given = tuple(str(path) for path in photos or ())
    return Recipe.preset(
        overrides=[*more, *(overrides or [])],
        file=file,
        photos=given or None,
        class_noun=class_noun,
        token=token,
        seed=seed,
        base=base,
    )


def names(listed: str | None) -> list[str] | None:
    """Names between commas; None where nothing was given."""
    return None if listed is None else [name.strip() for name in listed.split(",") if name.strip()]


def parse_folds(photos: str | None) -> int | Literal["all"] | None:
    """Read how many photos are held out: `all`, or a number."""
    if photos is None or photos == "all":
        return photos
    if not photos.isdecimal() or int(photos) < 1:
        raise UserError(f"--cross-validate {photos!r} is neither all nor a number of photos; give --cross-validate all, or 3 (say).")
    return int(photos)


def parse_size(size: str | None) -> dict[str, Any]:
    """Read `WIDTHxHEIGHT`."""
    if size is None:
        return {}
    width, cross, height = size.lower().partition("x")
    if not (cross and width.isdigit() and height.isdigit()):
        raise UserError(f"--size {size!r} is not of the form WIDTHxHEIGHT, such as 512x768.")
    return {"width": int(width), "height": int(height)}
