"""The runs of the study's replay: its own settings on the embedded base, and what it compared."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mascot.api.notebook.library_notices import quiet_libraries
from mascot.api.notebook.notebook_photos import example_photos
from mascot.api.train import train
from mascot.recipe.recipe import Recipe
from mascot.storage.run_folder import Run

FILE = Path(__file__).resolve().parents[1] / "recipes" / "study.toml"
"""The study's settings for the real base."""

STARTER = (
    "token=none",
    "dataset.resolution=128",
    "training.optimizer=adamw",
    "training.checkpoint_every=100",
    "checkpoints.keep=20",
    "knobs.guidance=3",
    "knobs.unet_scale=1",
    "knobs.text_scale=1",
    "knobs.steps=16",
    "previews.every=0",
    "selection.active=false",
    "diagnosis.active=false",
    "report.images=0",
)
"""What differs on the embedded base, and what is switched off because it is measured here."""

CAPTIONS: Mapping[str, str] = {
    "1": "a {subject} on the grass under a blue sky",
    "2": "a {subject} on a yellow background",
    "3": "a {subject} in a room",
    "4": "a {subject} on a purple background",
    "5": "a {subject} on a beach",
    "6": "a {subject} on a white background",
}
"""Name of a photo of the owl -> what it shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRun:
    """One run of the replay."""

    about: str
    """What it is, in the tables."""
    overrides: tuple[str, ...]
    """Changes of the study's settings."""
    steps: tuple[int, ...]
    """The steps that are measured; the last one ends the run."""
    captioned: bool = False
    """Whether each photo has its caption."""


RUNS: Mapping[str, StudyRun] = {
    "study": StudyRun(about="the study's settings", overrides=(), steps=(100, 300, 500, 600)),
    "captions": StudyRun(about="the same, with captions", overrides=(), steps=(300,), captioned=True),
    "text_rate": StudyRun(
        about="text encoder's rate 5e-5 in place of 1e-5",
        overrides=("method.text_learning_rate=5e-5",),
        steps=(300,),
    ),
    "high_rates": StudyRun(
        about="both rates three times as high",
        overrides=("method.learning_rate=9e-4", "method.text_learning_rate=3e-5"),
        steps=(300,),
    ),
    "tenth_rates": StudyRun(
        about='"batch 10" as it was: batch 1, a tenth of both rates',
        overrides=("method.learning_rate=3e-5", "method.text_learning_rate=1e-6"),
        steps=(100,),
    ),
    "batch_10": StudyRun(about="batch 10", overrides=("training.batch_size=10",), steps=(100,)),
}
"""Name of a run's folder -> the run."""


def recipe_of(one: StudyRun, photos: Path) -> Recipe:
    """Build the recipe of a run."""
    length = f"training.steps={one.steps[-1]}"
    return Recipe.preset(
        base="starter", file=FILE, photos=photos, class_noun="owl", overrides=(*STARTER, *one.overrides, length)
    )


def train_run(name: str, folder: Path) -> Run:
    """Train a run, go on with it, or return it as it is."""
    quiet_libraries()
    one, run = RUNS[name], Run(folder)
    if run.adapter.exists():
        return run
    with TemporaryDirectory() as temporary:
        photos = caption_photos(Path(temporary)) if one.captioned else example_photos()
        return train(recipe_of(one, photos), out=folder, resume=run.recipe.exists(), report=False)


def caption_photos(folder: Path) -> Path:
    """Copy the owl's photos into a folder, each with its caption beside it."""
    for photo in sorted(example_photos().glob("*.png")):
        shutil.copy(photo, folder / photo.name)
        (folder / f"{photo.stem}.txt").write_text(CAPTIONS[photo.stem], encoding="utf-8")
    return folder
