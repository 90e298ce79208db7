"""Measure the effect of a preset's setting on held-out subjects: likeness, prompt, drift.

    python benchmarks/preset_ablation.py --set prior.weight=1

Repeat with any key of a recipe. The scores are by the embedded encoders, on the validation prompts,
so that the 50 prompts of the report stay unused. The base model's own row is below. A higher
likeness is no gain if prompt fidelity falls, or if the class has become the subject.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated

import typer
from PIL import Image

from mascot.api.train import train
from mascot.data.prompt_templates import fill
from mascot.evaluation.metrics.image_encoders import ClipEncoder, IdentityEncoder, read_clip, read_identity_encoder
from mascot.evaluation.metrics.prompt_fidelity import prompt_fidelity
from mascot.evaluation.metrics.subject_fidelity import real_similarity, similarity
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.loading import open_generator
from mascot.generation.prompts.prompt_sets import STARTER_VALIDATION
from mascot.models import starter
from mascot.models.starter import HeldOutSubject
from mascot.protocols import Subject
from mascot.recipe.recipe import Recipe
from mascot.runs.inputs import load_base

PER_PROMPT = 2
"""Images of each prompt."""
CLASS_IMAGES = 8
"""Images of the class alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PresetScores:
    """One subject's row."""

    identity: float
    """Similarity of generated images and photos, by the embedded identity encoder."""
    prompt: float
    """CLIP-T, with the prompt read without the token."""
    drift: float
    """PRES: similarity of generated images of the class and the subject's photos."""


def score(
    generator: Generator,
    held_out: HeldOutSubject,
    token: str,
    knobs: Knobs,
    encoders: tuple[IdentityEncoder, ClipEncoder],
) -> PresetScores:
    """Generate the validation prompts and the class, and score the images.

    Args:
        generator: the base with or without an adapter.
        held_out: the subject.
        token: the identifier token; without an adapter the class noun.
        knobs: inference settings.
        encoders: the identity encoder and the CLIP.
    """
    identity, clip = encoders
    prompts = [prompt for prompt in STARTER_VALIDATION.for_subject(live=held_out.live) for _ in range(PER_PROMPT)]
    plain = Subject(token=held_out.class_noun)
    subject = plain if token == held_out.class_noun else Subject(token=token, class_noun=held_out.class_noun)
    requests = [ImageRequest(fill(prompt, subject), 100 + i) for i, prompt in enumerate(prompts)]
    class_requests = [ImageRequest(fill("a photo of a {subject}", plain), i) for i in range(CLASS_IMAGES)]
    images = list(generator.generate(requests, knobs))
    class_images = list(generator.generate(class_requests, knobs))
    photos = identity.embed(read_images(held_out.photos))
    return PresetScores(
        identity=similarity(identity.embed(images), photos),
        prompt=prompt_fidelity(clip.embed(images), clip.embed_prompts([fill(prompt, plain) for prompt in prompts])),
        drift=similarity(identity.embed(class_images), photos),
    )


def read_images(files: Sequence[Path]) -> list[Image.Image]:
    """Read image files as RGB."""
    images: list[Image.Image] = []
    for file in files:
        with Image.open(file) as image:
            images.append(image.convert("RGB"))
    return images


def print_row(name: str, scores: PresetScores) -> None:
    """Print one row of the table."""
    print(f"| {name} | {scores.identity:.3f} | {scores.prompt:.3f} | {scores.drift:.3f} |", flush=True)


def mean(rows: Sequence[PresetScores]) -> PresetScores:
    """Average rows over subjects."""
    return PresetScores(
        identity=statistics.mean(row.identity for row in rows),
        prompt=statistics.mean(row.prompt for row in rows),
        drift=statistics.mean(row.drift for row in rows),
    )


def main(
    subjects: Annotated[
        str, typer.Option(help="Held-out subjects, separated by commas.")
    ] = "poodle,parrot,teddy_bear,taxi",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the recipe, such as prior.weight=1.")
    ] = None,
    keep: Annotated[Path | None, typer.Option(help="Keep the runs in this folder.")] = None,
) -> None:
    """Train each subject by the changed preset, and print its and the base's scores."""
    encoders = read_identity_encoder(starter.identity_folder()), read_clip(starter.clip_folder())
    print("\n".join(f"- {encoder.describe()}" for encoder in encoders))
    print(f"- preset with {' '.join(overrides or ['no change'])}\n")
    print("| subject | identity | CLIP-T | class to subject |\n|---|---|---|---|", flush=True)
    runs = keep or Path(mkdtemp())
    trained, base, real = list[PresetScores](), list[PresetScores](), list[float]()
    for name in subjects.split(","):
        held_out = starter.subjects()[name]
        recipe = Recipe.preset(
            overrides=[*(overrides or []), "previews.every=0"],
            photos=tuple(str(photo) for photo in held_out.photos),
            class_noun=held_out.class_noun,
        )
        run = train(recipe, out=runs / name, report=False)
        generator, _, _ = open_generator(runs / name)
        trained.append(score(generator, held_out, Recipe.read(run.recipe).subject.token, recipe.knobs, encoders))
        base.append(score(Generator(load_base(recipe)), held_out, held_out.class_noun, recipe.knobs, encoders))
        real.append(real_similarity(encoders[0].embed(read_images(held_out.photos))) or 0.0)
        print_row(name, trained[-1])
    print_row("mean", mean(trained))
    print_row("the base, with the class noun", mean(base))
    print(f"| real photos | {statistics.mean(real):.3f} | | |")
    if keep is None:
        shutil.rmtree(runs)


if __name__ == "__main__":
    typer.run(main)
