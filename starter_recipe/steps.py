"""The steps of the recipe as commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
Work = Annotated[Path, typer.Option(help="Where everything of the recipe is kept.")]
WORK = Path("starter_work")
Objective = Annotated[Literal["contrast", "distillation"], typer.Option(help="What the identity encoder learns by.")]


@app.command()
def collect(work: Work = WORK) -> None:
    """Install the drawings' npm packages, check their licences, render every drawing."""
    from starter_recipe.drawings import collect as run

    run(work)


@app.command()
def scenes(out: Path, work: Work = WORK, difficulty: float = 1.0, seed: int = 1) -> None:
    """Draw a sheet of 96 composed scenes, to look at."""
    from itertools import islice

    from PIL import Image

    from starter_recipe.world import World

    world = World(work / "drawings.npz")
    sheet = Image.new("RGB", (12 * world.side, 8 * world.side))
    for i, (picture, caption) in enumerate(islice(world.stream([seed], difficulty), 96)):
        sheet.paste(picture, (i % 12 * world.side, i // 12 * world.side))
        print(caption)
    sheet.resize((sheet.width * 2, sheet.height * 2)).save(out)


@app.command()
def tokenizer(work: Work = WORK) -> None:
    """Train the tokenizer on captions."""
    from starter_recipe.tokenizer import train_tokenizer

    train_tokenizer(work)


@app.command()
def vae(work: Work = WORK, minutes: float = 15, replicas: int = 2) -> None:
    """Train the autoencoder; goes on where it was stopped."""
    from starter_recipe.autoencoder import train_autoencoder

    train_autoencoder(work, minutes, replicas)


@app.command()
def base(work: Work = WORK, minutes: float = 100, replicas: int = 2, learning_rate: float = 8e-4) -> None:
    """Train the text encoder and the UNet together; goes on where it was stopped."""
    from starter_recipe.base import train_base

    train_base(work, minutes, replicas, learning_rate)


@app.command()
def clip(work: Work = WORK, minutes: float = 25, learning_rate: float = 1e-3) -> None:
    """Train the CLIP that judges prompts; goes on where it was stopped."""
    from starter_recipe.encoders import train_clip

    train_clip(work, minutes, learning_rate)


@app.command()
def identity(
    work: Work = WORK, minutes: float = 25, learning_rate: float = 1e-3, objective: Objective = "contrast"
) -> None:
    """Train the identity encoder that judges likeness; goes on where it was stopped."""
    from starter_recipe.encoders import train_identity_encoder

    train_identity_encoder(work, minutes, learning_rate, objective)


@app.command()
def grid(out: Path, work: Work = WORK, guidance: float = 5.0) -> None:
    """Draw the 24 fixed prompts with what has been trained so far."""
    from starter_recipe.base import read_pipeline
    from starter_recipe.grid import draw_grid

    draw_grid(read_pipeline(work), out, guidance=guidance)


ROOT = Path(__file__).resolve().parent.parent
STARTER = ROOT / "src" / "mascot" / "starter"


@app.command()
def mascot(folder: Path = ROOT / "examples" / "mascot") -> None:
    """Make the demo's photos from the mascot's drawing."""
    from starter_recipe.mascot_photos import make_photos

    make_photos(folder)


@app.command()
def subjects(work: Work = WORK, out: Path = STARTER / "subjects") -> None:
    """Make the photos of the held-out subjects."""
    from mascot.errors import UserError
    from starter_recipe.subjects import make_subjects

    try:
        print(f"{make_subjects(work, out) / 1e6:.2f} MB")
    except UserError as error:
        raise SystemExit(str(error)) from None


@app.command()
def encoders(work: Work = WORK, out: Path = STARTER, objective: Objective = "contrast") -> None:
    """Write the trained encoders as package data."""
    from mascot.errors import UserError
    from starter_recipe.export_encoders import export_encoders

    try:
        print(export_encoders(work, out, objective))
    except UserError as error:
        raise SystemExit(str(error)) from None


@app.command()
def export(work: Work = WORK, out: Path = STARTER / "base") -> None:
    """Write the trained base as package data: a Stable Diffusion folder in half precision."""
    from mascot.errors import UserError
    from starter_recipe.export import export_base

    try:
        print(export_base(work, out).summary())
    except UserError as error:
        raise SystemExit(str(error)) from None
