"""What a setting of the embedded base's preset does: likeness, prompt and drift on held-out subjects, by the embedded encoders.

`python benchmarks/preset.py`, and again with `--set prior.weight=1` or any other key of a recipe. Scores are of the validation prompts,
so that the 50 prompts of the report are left alone. The untouched base's own row stands below: a likeness that is bought with the
prompt's score, or with a class that has turned into the subject, is not a gain.
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
from mascot.generation.prompt_sets import STARTER_VALIDATION
from mascot.models import starter
from mascot.models.starter import HeldOutSubject
from mascot.protocols import Subject
from mascot.recipe.recipe import Recipe
from mascot.runs.inputs import load_base

PER_PROMPT = 2
"""Pictures of each prompt."""
OF_CLASS = 8
"""Pictures of the class alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """One subject's row."""

    identity: float
    """Similarity of drawings and photos, in DINO's place."""
    prompt: float
    """CLIP-T, the prompt read without the token."""
    drift: float
    """PRES: similarity of drawings of the class and the subject's photos."""


def score(
    generator: Generator, held: HeldOutSubject, token: str, knobs: Knobs, encoders: tuple[IdentityEncoder, ClipEncoder]
) -> Scores:
    """Draw the validation prompts and the class, and judge them; without an adapter `token` is the class noun."""
    identity, clip = encoders
    prompts = [prompt for prompt in STARTER_VALIDATION.for_subject(live=held.live) for _ in range(PER_PROMPT)]
    trained, plain = Subject(token=token, class_noun=held.class_noun), Subject(token=held.class_noun)
    requests = [
        ImageRequest(fill(prompt, trained if token != held.class_noun else plain), 100 + i)
        for i, prompt in enumerate(prompts)
    ]
    drawn = list(generator.generate(requests, knobs))
    of_class = list(
        generator.generate([ImageRequest(fill("a photo of a {subject}", plain), i) for i in range(OF_CLASS)], knobs)
    )
    photos = identity.embed(read(held.photos))
    return Scores(
        identity=similarity(identity.embed(drawn), photos),
        prompt=prompt_fidelity(clip.embed(drawn), clip.embed_prompts([fill(prompt, plain) for prompt in prompts])),
        drift=similarity(identity.embed(of_class), photos),
    )


def read(files: Sequence[Path]) -> list[Image.Image]:
    """Photos as pictures."""
    images: list[Image.Image] = []
    for file in files:
        with Image.open(file) as image:
            images.append(image.convert("RGB"))
    return images


def show(name: str, scores: Scores) -> None:
    """One line of the table."""
    print(f"| {name} | {scores.identity:.3f} | {scores.prompt:.3f} | {scores.drift:.3f} |", flush=True)


def mean(rows: Sequence[Scores]) -> Scores:
    """The average over subjects."""
    return Scores(
        identity=statistics.mean(r.identity for r in rows), prompt=statistics.mean(r.prompt for r in rows),
        drift=statistics.mean(r.drift for r in rows),
    )  # fmt: skip


def main(
    subjects: Annotated[str, typer.Option(help="Held-out subjects, with commas.")] = "poodle,parrot,teddy_bear,taxi",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the recipe, such as prior.weight=1.")
    ] = None,
    keep: Annotated[Path | None, typer.Option(help="Keep the runs in this folder.")] = None,
) -> None:
    """Train each subject with the starter's preset and these changes; print its scores, and the untouched base's."""
    encoders = read_identity_encoder(starter.identity_folder()), read_clip(starter.clip_folder())
    print("\n".join(f"- {judge.describe()}" for judge in encoders))
    print(f"- preset with {' '.join(overrides or ['no change'])}\n")
    print("| subject | identity | CLIP-T | class to subject |\n|---|---|---|---|", flush=True)
    runs = keep or Path(mkdtemp())
    trained, base, real = list[Scores](), list[Scores](), list[float]()
    for name in subjects.split(","):
        held = starter.subjects()[name]
        recipe = Recipe.preset(
            overrides=[*(overrides or []), "previews.every=0"],
            photos=tuple(str(p) for p in held.photos),
            class_noun=held.class_noun,
        )
        run = train(recipe, out=runs / name, report=False)
        generator, _, _ = open_generator(runs / name)
        trained.append(score(generator, held, Recipe.read(run.recipe).subject.token, recipe.knobs, encoders))
        base.append(score(Generator(load_base(recipe)), held, held.class_noun, recipe.knobs, encoders))
        real.append(real_similarity(encoders[0].embed(read(held.photos))) or 0.0)
        show(name, trained[-1])
    show("mean", mean(trained))
    show("the base, asked for the class", mean(base))
    print(f"| real photos | {statistics.mean(real):.3f} | | |")
    if keep is None:
        shutil.rmtree(runs)


if __name__ == "__main__":
    typer.run(main)
