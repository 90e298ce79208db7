"""Measure what fewer solver steps cost: likeness, prompt fidelity, and distance to many steps.

```sh
mascot train examples/mascot/photos --class-noun owl --out runs/owl
python benchmarks/solvers.py runs/owl --solvers ddim,unipc --steps 8,12,16,25
```

Each run draws its report's prompts with the same seeds and its own knobs; solver and steps alone
differ. Differences are to the first row, paired by image, with the 95 % bootstrap interval.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from mascot.api.diagnose import load_scorers, name_of
from mascot.data.prompt_templates import fill
from mascot.evaluation.bootstrap import Interval, paired_bootstrap
from mascot.evaluation.evaluation_task import EvaluationTask, plan_tasks
from mascot.evaluation.metrics.default_encoders import EncoderPair
from mascot.evaluation.metrics.prompt_fidelity import prompt_fidelity
from mascot.evaluation.metrics.subject_fidelity import similarity
from mascot.generation.generator import Generator
from mascot.generation.loading import open_generator, resolve_adapter

MANY: tuple[str, int] = ("ddim", 100)
"""Solver and steps of the images that distances are measured to."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """All images of one solver and number of steps: a value for each image."""

    likeness: list[float]
    prompt: list[float]
    distance: list[float]
    """Mean difference to the same image with many steps, in levels of 255."""
    seconds: float


def draw(generator: Generator, task: EvaluationTask, solver: str, steps: int) -> tuple[list[Image.Image], float]:
    """Draw the task's prompts; returns the images and the seconds that they took."""
    knobs = task.knobs.model_copy(update={"solver": solver, "steps": steps})
    started = time.perf_counter()
    images = list(
        generator.generate(task.requests([fill(template, task.subject) for template in task.templates]), knobs)
    )
    return images, time.perf_counter() - started


def measure(run: Path, rows: Sequence[tuple[str, int]], images: int) -> Iterator[Drawn]:
    """Draw and score a run with each solver and number of steps."""
    adapter, path = resolve_adapter(run)
    [task] = plan_tasks(
        adapter, path, name=name_of(run), prompts=None, images=images, seed=0, live=None, photos=(), base=None
    )
    encoders = load_scorers(task, adapter, identity=None, clip=None, device="auto").encoders
    generator, _, _ = open_generator(path)
    many, _ = draw(generator, task, *MANY)
    for solver, steps in rows:
        drawn, seconds = draw(generator, task, solver, steps)
        likeness, prompt = score(drawn, task, encoders)
        yield Drawn(likeness, prompt, [apart(*pair) for pair in zip(drawn, many, strict=True)], seconds)


def score(
    images: Sequence[Image.Image], task: EvaluationTask, encoders: EncoderPair
) -> tuple[list[float], list[float]]:
    """Score each image's likeness to the photos, and its fidelity to the prompt."""
    photos_PD = encoders.identity.embed([photo.image for photo in task.photos])
    prompts_BD = encoders.clip.embed_prompts(task.clip_prompts).repeat_interleave(task.images, dim=0)
    likeness = [similarity(row_D[None], photos_PD) for row_D in encoders.identity.embed(images)]
    pairs = zip(encoders.clip.embed(images), prompts_BD, strict=True)
    return likeness, [prompt_fidelity(image_D[None], prompt_D[None]) for image_D, prompt_D in pairs]


def apart(one: Image.Image, other: Image.Image) -> float:
    """Return the mean difference of two images, in levels of 255."""
    return float(np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).mean())


def describe(difference: Interval | None) -> str:
    """Write a difference with its interval, in thousandths."""
    if difference is None or difference.low is None or difference.high is None:
        return "-"
    return f"{1000 * difference.mean:+.0f} [{1000 * difference.low:+.0f}, {1000 * difference.high:+.0f}]"


def main(
    runs: Annotated[list[Path], typer.Argument(help="Runs of mascot train, of one subject each.")],
    solvers: Annotated[str, typer.Option(help="Solvers, by their names.")] = "ddim,dpm++,unipc",
    steps: Annotated[str, typer.Option(help="Numbers of solver steps.")] = "25,16,12,10,8,6",
    images: Annotated[int, typer.Option(min=1, help="Images of each prompt.")] = 1,
) -> None:
    """Print a row for each solver and number of steps; the first row is what others differ from."""
    rows = [(solver, int(number)) for solver in solvers.split(",") for number in steps.split(",")]
    measured = [list(measure(run, rows, images)) for run in runs]
    joined = [
        Drawn(
            likeness=[value for one in same for value in one.likeness],
            prompt=[value for one in same for value in one.prompt],
            distance=[value for one in same for value in one.distance],
            seconds=sum(one.seconds for one in same),
        )
        for same in zip(*measured, strict=True)
    ]
    first = joined[0]
    typer.echo(f"{len(runs)} runs, {len(first.likeness)} images a row; differences in thousandths\n")
    typer.echo("| solver | steps | likeness | prompt | to 100 steps, of 255 | time, ratio |\n|---|--:|--:|--:|--:|--:|")
    for (solver, number), one in zip(rows, joined, strict=True):
        likeness = describe(paired_bootstrap(one.likeness, first.likeness, seed=0))
        prompt = describe(paired_bootstrap(one.prompt, first.prompt, seed=0))
        distance, ratio = float(np.mean(one.distance)), one.seconds / first.seconds
        typer.echo(f"| {solver} | {number} | {likeness} | {prompt} | {distance:.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    typer.run(main)
