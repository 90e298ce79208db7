"""The canary: ten known steps of training on the embedded base, compared with stored numbers.

An update of a library, a driver or mascot itself that changes what training computes changes these
numbers: losses, gradient norms, how far the weights move, and one image. How much they differ
between precisions and numbers of threads was measured when they were recorded; the tolerances are a
multiple of that.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from mascot.errors import UserError
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.methods.registry import DEFAULT
from mascot.models import starter
from mascot.recipe.recipe import Recipe
from mascot.runs.inputs import load_base, read_subject
from mascot.runs.training_run import TrainingRun
from mascot.runs.training_steps import begin
from mascot.storage.json_record import JsonRecord
from mascot.storage.run_folder import Run
from mascot.storage.untrusted_files import digest_of
from mascot.training.loop import parameters_of

RECORD = Path(__file__).with_name("canary.json")
STEPS = 10
SEED = 0
SUBJECT = "parrot"
"""The held-out subject whose first photos are trained on."""
PHOTOS = 4
KNOBS = Knobs(guidance=3.0, steps=8, solver="ddim")
THUMBNAIL = 16
"""Side of the stored image in pixels: one pixel is the mean over a square of the image."""
HIGHEST_LEVEL = 255
REINSTALL = "reinstall mascot from a wheel; in a checkout, run `python -m starter_training canary`"

Measure = Literal["loss", "gradient norm", "weight change", "image"]
Level = Annotated[int, Field(ge=0, le=HIGHEST_LEVEL)]


class CanaryNumbers(BaseModel):
    """What ten steps of training and one image come to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    losses: tuple[float, ...]
    gradient_norms: tuple[float, ...]
    weight_changes: Mapping[str, float]
    """Part of the base -> Euclidean length of the change of what is trained in it."""
    image: tuple[Level, ...]
    """THUMBNAIL x THUMBNAIL pixels in RGB, row by row."""

    def deviations(self, stored: CanaryNumbers) -> dict[Measure, float]:
        """Return by how much each kind of number deviates from stored ones, at most.

        Losses, norms and changes deviate relatively. The image deviates by the mean of levels of
        255.
        """
        return {
            "loss": largest(self.losses, stored.losses),
            "gradient norm": largest(self.gradient_norms, stored.gradient_norms),
            "weight change": largest(by_name(self.weight_changes), by_name(stored.weight_changes)),
            "image": float(np.abs(np.subtract(self.image, stored.image)).mean()),
        }


class CanaryRecord(JsonRecord):
    """The stored numbers, what they were computed from, and what was measured around them."""

    damaged = f"{{path}} is damaged; {REINSTALL}."
    trained_on: str
    """Hash of the embedded base and of the photos."""
    recorded_with: Mapping[str, str]
    """Package -> its version when the numbers were recorded."""
    numbers: CanaryNumbers
    tolerances: Mapping[Measure, float]
    variations: Mapping[str, Mapping[Measure, float]]
    """Harmless change, such as another precision -> its deviations."""
    faults: Mapping[str, Mapping[Measure, float]]
    """Planted fault -> its deviations; each exceeds a tolerance."""

    def exceeded(self, deviations: Mapping[Measure, float]) -> list[Measure]:
        """Name the kinds of numbers that deviate by more than their tolerance."""
        return [measure for measure, tolerance in self.tolerances.items() if not deviations[measure] <= tolerance]


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryResult:
    """What the canary came to on this machine."""

    deviations: Mapping[Measure, float]
    exceeded: Sequence[Measure]
    """Kinds of numbers that deviate by more than their tolerance."""
    seconds_per_step: float
    """The fastest step."""
    seconds: float
    """The whole canary."""


def largest(found: Sequence[float], stored: Sequence[float]) -> float:
    """Return the largest relative deviation; infinite where the numbers are not as many."""
    if len(found) != len(stored):
        return float("inf")
    return max(abs(one - other) / max(abs(other), 1e-12) for one, other in zip(found, stored, strict=True))


def by_name(values: Mapping[str, float]) -> list[float]:
    """List values in the order of their names."""
    return [values[name] for name in sorted(values)]


def digest_of_starter() -> str:
    """Hash what the canary is trained on: the embedded base's files, and the photos.

    Raises:
        UserError: one of them is missing.
    """
    files = [*sorted(path for path in starter.folder().rglob("*") if path.suffix in {".json", ".safetensors"})]
    return hashlib.sha256("".join(map(digest_of, [*files, *canary_photos()])).encode()).hexdigest()[:32]


def canary_photos() -> tuple[Path, ...]:
    """Return the photos that the canary is trained on.

    Raises:
        UserError: they are missing from the installation.
    """
    return starter.subjects()[SUBJECT].photos[:PHOTOS]


def canary_recipe(precision: str, device: str) -> Recipe:
    """Build the recipe of the canary; no preset decides any of it.

    Its learning rates are constant and high, and its prior preservation needs no class images.
    """
    return Recipe.parse(
        {
            "base": starter.EMBEDDED,
            "photos": [str(path) for path in canary_photos()],
            "token": "sks",
            "class_noun": starter.subjects()[SUBJECT].class_noun,
            "seed": SEED,
            "device": device,
            "precision": precision,
            "dataset": {"templates": ["a photo of a {token} {class}"]},
            "method": {
                "name": DEFAULT,
                "rank": 4,
                "alpha": 4,
                "layers": "all",
                "learning_rate": 1e-3,
                "text_learning_rate": 1e-3,
            },
            "training": {"steps": STEPS, "batch_size": 1, "max_grad_norm": 1.0},
            "prior": {"form": "outputs", "weight": 0.5},
            "previews": {"every": 0},
        }
    )


def run_canary(precision: str, device: str) -> tuple[CanaryNumbers, float]:
    """Train the steps and generate the image.

    Returns the numbers, and the seconds of the fastest step.

    Raises:
        UserError: the embedded base is missing, or training fails.
    """
    recipe = canary_recipe(precision, device)
    with TemporaryDirectory() as folder:
        run = TrainingRun(recipe=recipe, files=Run(Path(folder)), photos=read_subject(recipe), family=load_base(recipe))
        begin(run)
        before = [tensor.clone() for tensor in trained_values(run)]
        steps = list(run.loop.steps(run.batches))
        numbers = CanaryNumbers(
            losses=tuple(step.loss for step in steps),
            gradient_norms=tuple(step.gradient_norm for step in steps),
            weight_changes=dict(weight_changes(run, before)),
            image=generate_thumbnail(run),
        )
        run.detach()
    return numbers, min(step.seconds for step in steps)


def trained_values(run: TrainingRun) -> list[Tensor]:
    """List the values that are trained, on the CPU in double precision."""
    return [parameter.detach().double().cpu() for parameter in parameters_of(run.attached[run.span.stage])]


def weight_changes(run: TrainingRun, before: Sequence[Tensor]) -> Iterator[tuple[str, float]]:
    """Yield each trained part, and the length of the change of its values since `before`."""
    moved = iter([now - then for now, then in zip(trained_values(run), before, strict=True)])
    for group in run.attached[run.span.stage].groups:
        squares = [next(moved).square().sum() for _ in group.parameters]
        yield group.name, float(torch.stack(squares).sum().sqrt())


def generate_thumbnail(run: TrainingRun) -> tuple[int, ...]:
    """Generate an image with what was trained, and return it small, as levels."""
    request = ImageRequest(f"a photo of a {run.recipe.subject.words} in the snow", SEED)
    with run.generating():
        image = next(iter(Generator(run.family).generate([request], KNOBS)))
    small = image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return tuple(int(level) for level in np.asarray(small).flatten())


def read_record(path: Path = RECORD) -> CanaryRecord:
    """Read the stored numbers.

    Raises:
        UserError: they are damaged, or of another embedded base than the installed one.
    """
    record = CanaryRecord.read(path)
    if record.trained_on != digest_of_starter():
        raise UserError(f"the embedded base is not the one that the numbers are of; {REINSTALL}.")
    return record


def check_canary(record: CanaryRecord, precision: str, device: str) -> CanaryResult:
    """Run the canary and compare it with the stored numbers.

    Raises:
        UserError: the embedded base is missing, or training fails.
    """
    started = time.perf_counter()
    numbers, step = run_canary(precision, device)
    deviations = numbers.deviations(record.numbers)
    return CanaryResult(
        deviations=deviations,
        exceeded=record.exceeded(deviations),
        seconds_per_step=step,
        seconds=time.perf_counter() - started,
    )
