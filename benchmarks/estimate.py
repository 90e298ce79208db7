"""Compare the estimates of `mascot doctor` and `mascot train` with the time that training takes.

```sh
python benchmarks/estimate.py --set training.steps=100
```

The bundled subject is trained on the embedded base, with a cache of its own, so that class images
are generated. Times are those of this machine as busy as it is.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from mascot.api.doctor import doctor
from mascot.api.train import train
from mascot.progress import Event, SettingsResolved
from mascot.recipe.recipe import Recipe
from mascot.runs.effective_settings import TIME

PHOTOS = Path(__file__).resolve().parents[1] / "examples" / "mascot" / "photos"
UNITS = {"s": 1.0, "minutes": 60.0, "hours": 3600.0}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Estimated and measured seconds of one command, and the estimates' own words."""

    doctor: float
    train: float
    truth: float
    rows: tuple[str, str]


def compare(overrides: Sequence[str], folder: Path) -> Comparison:
    """Estimate a training of the bundled subject, and then train it."""
    recipe = Recipe.preset(photos=(str(PHOTOS),), class_noun="owl", overrides=overrides)
    before = dict(doctor(recipe).settings)["cost"]
    at_start: list[str] = []

    def watch(event: Event) -> None:
        if isinstance(event, SettingsResolved):
            at_start.append(dict(event.rows)[TIME])

    started = time.perf_counter()
    train(recipe, out=folder / "run", on_event=watch)
    truth = time.perf_counter() - started
    return Comparison(seconds_in(before), seconds_in(at_start[0]), truth, (before, at_start[0]))


def seconds_in(text: str) -> float:
    """Read the seconds of the whole command from an estimate's sentence."""
    found = re.search(r"about ([\d.]+) (s|minutes|hours) for the whole command", text)
    assert found is not None, text
    return float(found[1]) * UNITS[found[2]]


def main(overrides: Annotated[list[str] | None, typer.Option("--set", help="Change one recipe key.")] = None) -> None:
    """Print both estimates beside the truth."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MASCOT_CACHE"] = f"{folder}/cache"
        found = compare(overrides or (), Path(folder))
    for row in found.rows:
        typer.echo(row)
    typer.echo(f"doctor {found.doctor:.0f} s, train {found.train:.0f} s, truth {found.truth:.0f} s")


if __name__ == "__main__":
    typer.run(main)
