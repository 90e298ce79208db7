"""The steps of the starter's training, one command each."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from mascot.errors import UserError

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

WORK = Path("starter_work")
ROOT = Path(__file__).resolve().parent.parent
STARTER = ROOT / "src" / "mascot" / "models" / "starter"

Work = Annotated[Path, typer.Option(help="Folder that holds all intermediate results.")]
Start = Annotated[
    Path | None, typer.Option(help="Folder of an earlier base or CLIP, from whose weights training starts.")
]
Objective = Annotated[
    Literal["contrast", "distillation"], typer.Option(help="Training objective of the identity encoder.")
]


@contextmanager
def user_errors_printed() -> Generator[None]:
    """Turn a `UserError` into one printed sentence and exit code 1."""
    try:
        yield
    except UserError as error:
        raise SystemExit(str(error)) from None


@app.command()
def collect(work: Work = WORK) -> None:
    """Install the drawings' npm packages, check their licenses and render every drawing."""
    from starter_training.drawings.collect import collect as run

    run(work)


@app.command()
def scenes(out: Path, work: Work = WORK, difficulty: float = 1.0, seed: int = 1) -> None:
    """Write a sheet of 96 composed scenes to look at, and print their captions."""
    from itertools import islice

    from PIL import Image

    from starter_training.scenes.scene_grammar import stream
    from starter_training.scenes.world import World

    world = World(work / "drawings.npz")
    sheet = Image.new("RGB", (12 * world.side, 8 * world.side))
    for i, (image, caption) in enumerate(islice(stream(world, [seed], difficulty), 96)):
        sheet.paste(image, (i % 12 * world.side, i // 12 * world.side))
        print(caption)
    sheet.save(out)


@app.command()
def tokenizer(work: Work = WORK) -> None:
    """Train the tokenizer on captions."""
    from starter_training.models.tokenizer import train_tokenizer

    train_tokenizer(work)


@app.command()
def vae(
    work: Work = WORK, minutes: float = 60, replicas: int = 2, learning_rate: float = 2e-3, start: Start = None
) -> None:
    """Train the autoencoder; a stopped run resumes."""
    from starter_training.models.autoencoder import train_autoencoder

    train_autoencoder(work, minutes=minutes, replicas=replicas, learning_rate=learning_rate, start=start)


@app.command()
def base(
    work: Work = WORK,
    *,
    minutes: float = 200,
    replicas: int = 2,
    learning_rate: float = 1e-3,
    scenes: Annotated[int, typer.Option(help="Encoded scenes that each process keeps.")] = 4096,
    start: Start = None,
) -> None:
    """Train the text encoder and the UNet together; a stopped run resumes."""
    from starter_training.models.base import train_base

    train_base(work, minutes=minutes, replicas=replicas, learning_rate=learning_rate, scenes=scenes, start=start)


@app.command()
def clip(
    work: Work = WORK, minutes: float = 60, replicas: int = 2, learning_rate: float = 1e-3, start: Start = None
) -> None:
    """Train the CLIP that scores prompt fidelity; a stopped run resumes."""
    from starter_training.models.encoder_training import train_clip

    train_clip(work, minutes=minutes, replicas=replicas, learning_rate=learning_rate, start=start)


@app.command()
def identity(
    work: Work = WORK, minutes: float = 25, learning_rate: float = 1e-3, objective: Objective = "contrast"
) -> None:
    """Train the identity encoder that scores subject fidelity; a stopped run resumes."""
    from starter_training.models.encoder_training import train_identity_encoder

    train_identity_encoder(work, minutes, learning_rate, objective)


@app.command()
def grid(
    out: Path,
    work: Work = WORK,
    guidance: float = 5.0,
    of: Annotated[
        Literal["prompts", "pairs", "nouns"],
        typer.Option(help="The 24 fixed prompts, six of two objects, or all nouns."),
    ] = "prompts",
) -> None:
    """Generate fixed prompts with the weights trained so far, to look at."""
    from starter_training.models.base import read_pipeline
    from starter_training.models.prompt_grid import PROMPTS, TWO_OBJECTS, noun_prompts, write_grid

    asked = {"prompts": lambda: PROMPTS, "pairs": lambda: TWO_OBJECTS, "nouns": noun_prompts}[of]()
    write_grid(read_pipeline(work), out, asked, guidance=guidance)


@app.command()
def mascot(folder: Path = ROOT / "examples" / "mascot") -> None:
    """Make the demo's photos from the mascot's drawing."""
    from starter_training.scenes.mascot_photos import make_photos

    make_photos(folder)


@app.command()
def subjects(work: Work = WORK, out: Path = STARTER / "subjects") -> None:
    """Make the photos of the held-out subjects."""
    from starter_training.scenes.subjects import make_subjects

    with user_errors_printed():
        print(f"{make_subjects(work, out) / 1e6:.2f} MB")


@app.command()
def encoders(work: Work = WORK, out: Path = STARTER, objective: Objective = "contrast") -> None:
    """Write the trained encoders as package data."""
    from starter_training.export.export_encoders import export_encoders

    with user_errors_printed():
        print(export_encoders(work, out, objective))


@app.command()
def export(work: Work = WORK, out: Path = STARTER / "base") -> None:
    """Write the trained base as package data: a Stable Diffusion folder in half precision."""
    from starter_training.export.export_base import export_base

    with user_errors_printed():
        print(export_base(work, out).summary())


@app.command()
def canary(out: Path = ROOT / "src" / "mascot" / "api" / "installation" / "canary.json") -> None:
    """Record the numbers that `mascot doctor` compares training with; takes a few minutes."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # on a busy machine threads would spin for minutes
    from mascot.cli.console import plain_display
    from starter_training.export.canary_record import record_canary

    display = plain_display()
    with user_errors_printed():
        display.say(record_canary(out))
