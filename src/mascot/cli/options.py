"""Options that several commands share, and the parsing of their values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, TypedDict, Unpack

import typer

from mascot.errors import UserError, shorten

if TYPE_CHECKING:
    from mascot.recipe.recipe import Recipe


def read_place(text: str | Path) -> Path:
    """Read a file's or folder's place, or a default; an empty one would be the present folder.

    Raises:
        UserError: it is empty.
    """
    if not str(text).strip():
        raise UserError("a place is empty, where a run, an adapter or a file must be; give its path.")
    return Path(text)


Photos = Annotated[
    list[Path] | None, typer.Argument(help="Folders and files with 3 to 10 photos of the subject.", show_default=False)
]
ClassNoun = Annotated[
    str | None,
    typer.Option(help="Class noun of the subject: dog, toy, ... Several subjects: owl,cat.", show_default=False),
]
Base = Annotated[
    str | None,
    typer.Option(
        help="Base model: starter (the embedded one), a folder, a .safetensors file or a hub id.", show_default=False
    ),
]
AdapterBase = Annotated[
    str | None, typer.Option(help="Where the adapter's base model is now, if it was moved.", show_default=False)
]
Token = Annotated[
    str | None,
    typer.Option(help="Identifier token of the subject. By default a rare word is chosen.", show_default=False),
]
RecipeFile = Annotated[
    Path | None,
    typer.Option("--recipe", help="A recipe in TOML. Options on the command line override it.", show_default=False),
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Change one recipe key: --set method.rank=16.", show_default=False)
]
Seed = Annotated[int | None, typer.Option(min=0, help="Random seed.", show_default=False)]
Steps = Annotated[int | None, typer.Option(help="Training steps.", show_default=False)]
RunOrAdapter = Annotated[
    Path, typer.Argument(help="A run's folder (RUN@200 for a kept step), or an adapter file.", parser=read_place)
]
Images = Annotated[int, typer.Option(min=1, max=1000, help="Images of each prompt.")]
FirstSeed = Annotated[
    int, typer.Option(min=0, help="Seed of the first image of each prompt. The next image has seed + 1.")
]
Identity = Annotated[
    str | None, typer.Option(help="Identity encoder: starter, a folder or a hub id.", show_default=False)
]
Clip = Annotated[str | None, typer.Option(help="CLIP encoder: starter, a folder or a hub id.", show_default=False)]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    typer.Option(help="Device to run on. auto takes an accelerator if there is one."),
]


OPTION_OF = {
    "base": "--base",
    "token": "--token",
    "class_noun": "--class-noun",
    "seed": "--seed",
    "training.steps": "--steps",
    "method.name": "--method",
    "prior.folder": "--class-images",
    "dataset.caption_with": "--caption-with",
    "dataset.recursive": "--recursive",
}
"""Recipe key -> the option that sets it."""


class RecipeOptions(TypedDict):
    """What a command line says about a recipe; None where it says nothing."""

    photos: list[Path] | None
    class_noun: str | None
    base: str | None
    overrides: list[str] | None
    token: str | None
    seed: int | None
    method: str | None
    steps: int | None
    start_from: NotRequired[str | None]
    class_images: NotRequired[Path | None]
    caption_with: NotRequired[str | None]
    recursive: NotRequired[bool]


def build_recipe(file: Path | None, **options: Unpack[RecipeOptions]) -> Recipe:
    """Build the recipe of a command line: preset, then file, then options, then `--set`.

    Raises:
        UserError: all mistakes at once, each with its key; or a setting is given twice, or has no
            effect.
    """
    from mascot.recipe.overrides import parse_overrides, read_toml
    from mascot.recipe.recipe import Recipe
    from mascot.recipe.subject_tables import tables_in
    from mascot.recipe.unused_settings import check_given_once, check_used

    changes = parse_overrides(options["overrides"] or [])
    check_given_once(changes, {key: option for key, option in OPTION_OF.items() if is_given(key, **options)})
    in_file = {} if file is None else read_toml(file)
    overrides, given = recipe_values(tables_in(in_file), **options)
    recipe = Recipe.preset(overrides=overrides, file=file, **given)
    check_used([recipe], overrides=changes, in_file=in_file)
    return recipe


def toml_value(value: bool | int | str | Path) -> str:  # noqa: FBT001 - the value is what is written
    """Write a value of an option as `--set` reads it."""
    return json.dumps(value if isinstance(value, bool | int) else str(value), ensure_ascii=False)


def is_given(key: str, **options: Unpack[RecipeOptions]) -> bool:
    """Tell whether an option that sets a recipe key is given."""
    value = options.get(OPTION_OF[key].removeprefix("--").replace("-", "_"))
    return value is not None and value is not False


def recipe_values(
    tables: Sequence[Mapping[str, Any]], **options: Unpack[RecipeOptions]
) -> tuple[list[str], dict[str, Any]]:
    """Turn options into overrides such as `training.steps=200`, and values of top-level keys.

    `tables` are those of several subjects in the recipe's file.
    """
    from mascot.recipe.subject_tables import split_options

    values = {
        "training.steps": options["steps"],
        "method.name": options["method"],
        "prior.folder": options.get("class_images"),
        "dataset.caption_with": options.get("caption_with"),
        "dataset.recursive": options.get("recursive") or None,
    }
    more = [f"{key}={toml_value(value)}" for key, value in values.items() if value is not None]
    photos = [str(path) for path in options["photos"] or ()]
    given = split_options(photos, options["class_noun"], options["token"], tables)
    given |= {"seed": options["seed"], "base": options["base"], "start_from": options.get("start_from")}
    return [*more, *(options["overrides"] or [])], given


def given_options(context: typer.Context, *names: str) -> list[str]:
    """List those of some parameters that stand on the command line, as options."""
    return [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in names
        and (source := context.get_parameter_source(parameter.name)) is not None
        and source.name == "COMMANDLINE"
    ]


def parse_names(listed: str | None) -> list[str]:
    """Parse names separated by commas; empty if nothing was given."""
    return [name.strip() for name in (listed or "").split(",") if name.strip()]


def parse_folds(photos: str | None) -> int | Literal["all"] | None:
    """Parse how many photos are held out: `all`, or a number.

    Raises:
        UserError: it is neither.
    """
    if photos is None or photos == "all":
        return photos
    if not photos.isdecimal() or len(photos) > LONGEST_NUMBER or int(photos) < 1:
        raise UserError(
            f"--cross-validate {shorten(photos)!r} is neither all nor a number of photos; give --cross-validate all, "
            "or 3 (say)."
        )
    return int(photos)


LONGEST_NUMBER = 20
"""Most digits of a number that is read; Python refuses to read thousands of them."""


def parse_size(size: str | None) -> dict[str, int]:
    """Parse `WIDTHxHEIGHT`, or the side of a square, in pixels; empty if nothing was given.

    Raises:
        UserError: it is not of that form.
    """
    if size is None:
        return {}
    width, cross, height = size.lower().partition("x")
    height = height if cross else width
    if not all(side.isdecimal() and len(side) <= LONGEST_NUMBER for side in (width, height)):
        raise UserError(f"--size {shorten(size)!r} is not of the form WIDTHxHEIGHT; give 512x768, or 768 for a square.")
    return {"width": int(width), "height": int(height)}
