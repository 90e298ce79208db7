"""What the replay of the study measures: prompts, knobs and runs, each by the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import typer
from PIL import Image
from torch import Tensor

from benchmarks.study_runs import RUNS
from mascot.api.generate import OpenedAdapter, open_adapter
from mascot.api.notebook.notebook_photos import example_photos
from mascot.data.photos import read_photos
from mascot.data.prompt_templates import fill
from mascot.evaluation.metrics.default_encoders import EncoderPair, load_encoders
from mascot.evaluation.selection.criterion import ReferenceScores, score_subject
from mascot.evaluation.selection.validation_set import SubjectValidation
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.prompts.prompt_sets import STARTER_VALIDATION
from mascot.protocols import Subject
from mascot.storage.run_folder import Run

SEED = 123
"""Seed of the first image of each prompt, which is the study's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPrompt:
    """A prompt of the study, its knobs there, and what was seen."""

    text: str
    guidance: float
    unet_scale: float
    text_scale: float
    verdict: str
    simple: bool = False
    """Whether it asks for one thing that does nothing."""


PROMPTS = (
    StudyPrompt(text="{subject} a toy", guidance=13, unet_scale=0.5, text_scale=0.1, verdict="good", simple=True),
    StudyPrompt(
        text="crochet toy {subject}", guidance=11, unet_scale=0.5, text_scale=0.1, verdict="many failures", simple=True
    ),
    StudyPrompt(text="{subject} eat strawberry", guidance=11.8, unet_scale=0.5, text_scale=0.1, verdict="good"),
    StudyPrompt(
        text="cup with printed {subject}", guidance=11.8, unet_scale=0.5, text_scale=0.1, verdict="best", simple=True
    ),
    StudyPrompt(
        text="{subject} printed on cup",
        guidance=11.8,
        unet_scale=0.5,
        text_scale=0.1,
        verdict="differs from the one above",
        simple=True,
    ),
    StudyPrompt(text="{subject} ridding bicycle", guidance=13.8, unet_scale=0.8, text_scale=0.2, verdict="poor"),
    StudyPrompt(
        text="black colored {subject}",
        guidance=13.2,
        unet_scale=0.9,
        text_scale=0.1,
        verdict="depends on the guidance scale",
        simple=True,
    ),
    StudyPrompt(
        text="{subject} with a green frog shaped cap on head",
        guidance=13.8,
        unet_scale=0.8,
        text_scale=0.5,
        verdict="never worked",
    ),
    StudyPrompt(text="{subject} is reading a book", guidance=11.8, unet_scale=0.7, text_scale=0.1, verdict="not said"),
)
"""The study's prompts, in its order and with its spelling."""

ORDERS = (PROMPTS[3].text, PROMPTS[4].text)
"""The two prompts that differ in the order of their words alone, nearly."""

BLACK = PROMPTS[6].text
"""The prompt whose color came and went with the guidance scale."""

GUIDANCES = (1.5, 3.0, 5.0, 7.5, 9.0, 11.8, 15.0)
ADAPTER_SCALES = (0.3, 0.5, 0.8, 1.0)
TEXT_SCALES = (0.1, 0.5, 1.0)

CONTEXTS = STARTER_VALIDATION.live[::2]
"""Prompts that the base can draw: every other validation prompt."""


@dataclass(frozen=True, kw_only=True)
class Owl:
    """The bundled subject, and how its images are measured."""

    images: int
    """Images of each prompt and setting."""

    @cached_property
    def encoders(self) -> EncoderPair:
        """The embedded encoders."""
        return load_encoders("starter", None, None, "cpu")

    @cached_property
    def photos(self) -> list[Image.Image]:
        """The photos."""
        return [photo.image for photo in read_photos([example_photos()]).photos]

    def prompts(self, texts: Sequence[str]) -> SubjectValidation:
        """Prepare prompts to be measured, each `images` times."""
        return SubjectValidation(
            subject=Subject(token="sks", class_noun="owl"),  # noqa: S106 - a word of prompts, which is not measured
            prompts=tuple(texts),
            photos=self.photos,
            encoders=self.encoders,
        )

    def generate(self, adapter: OpenedAdapter, texts: Sequence[str], knobs: Mapping[str, object]) -> list[Image.Image]:
        """Generate the images of prompts, seed by seed."""
        return [
            image
            for number in range(self.images)
            for image in adapter.generate(texts, knobs, count=1, seed=SEED + number)
        ]

    def base_images(self, adapter: OpenedAdapter, texts: Sequence[str]) -> list[Image.Image]:
        """Generate prompts by the base alone, about the class noun, with the preset's knobs."""
        plain = Subject(token="owl")  # noqa: S106 - a word of prompts
        requests = [ImageRequest(fill(text, plain), SEED + n) for n in range(self.images) for text in texts]
        knobs = Knobs(guidance=3, steps=16, unet_scale=0, text_scale=0)
        return list(adapter.generator.generate(requests, knobs))

    def measure(
        self, adapter: OpenedAdapter, texts: Sequence[str], knobs: Mapping[str, object], references: ReferenceScores
    ) -> dict[str, float]:
        """Generate prompts with knobs, and measure them beside the base and the photos."""
        result = self.prompts(texts).measure(self.generate(adapter, texts, knobs), references)
        found = score_subject(result, references)
        return {
            "likeness": result.likeness,
            "prompt_fidelity": result.prompt_fidelity,
            "likeness_gain": found.likeness_gain,
            "prompt_kept": found.prompt_kept,
            "copying": found.copying,
            "score": found.total,
        }

    def references(self, adapter: OpenedAdapter, texts: Sequence[str]) -> ReferenceScores:
        """Measure the base, the photos and noise on prompts."""
        return self.prompts(texts).references(self.base_images(adapter, texts))


def main_step(run: Run) -> str:
    """Name the adapter that the prompts and knobs are measured with: that of 500 steps."""
    return f"{run.folder}@{RUNS['study'].steps[-2]}"


def run_scores(owl: Owl, runs: Mapping[str, Run]) -> list[dict[str, Any]]:
    """Measure each run at its steps, on prompts that the base can draw."""
    rows: list[dict[str, Any]] = []
    references = owl.references(open_adapter(runs["study"]), CONTEXTS)
    for name, run in runs.items():
        for step in RUNS[name].steps:
            typer.echo(f"measuring {name} at step {step}", err=True)
            found = owl.measure(open_adapter(f"{run.folder}@{step}"), CONTEXTS, {}, references)
            rows.append({"run": name, "about": RUNS[name].about, "step": step, **found})
    return rows


def prompt_scores(owl: Owl, run: Run) -> list[dict[str, Any]]:
    """Measure the study's prompts with its knobs and with the preset's."""
    adapter, rows = open_adapter(main_step(run)), list[dict[str, Any]]()
    for prompt in PROMPTS:
        references = owl.references(adapter, [prompt.text])
        knobs = {key: getattr(prompt, key) for key in ("guidance", "unet_scale", "text_scale")}
        rows.append(
            {
                "prompt": prompt.text,
                "verdict": prompt.verdict,
                "simple": prompt.simple,
                **knobs,
                "study": owl.measure(adapter, [prompt.text], knobs, references),
                "own": owl.measure(adapter, [prompt.text], {}, references),
                "base": {
                    "prompt_fidelity": references.base_prompt_fidelity,
                    "noise": references.noise_prompt_fidelity,
                },
            }
        )
    return rows


def guidance_scores(owl: Owl, run: Run) -> list[dict[str, Any]]:
    """Measure guidance scales at the adapter scales that the run was trained with."""
    adapter = open_adapter(main_step(run))
    references, black = owl.references(adapter, CONTEXTS), owl.references(adapter, [BLACK])
    return [
        {
            "guidance": guidance,
            **owl.measure(adapter, CONTEXTS, {"guidance": guidance}, references),
            "black": owl.measure(adapter, [BLACK], {"guidance": guidance}, black)["prompt_fidelity"],
        }
        for guidance in GUIDANCES
    ]


def scale_scores(owl: Owl, run: Run) -> list[dict[str, Any]]:
    """Measure both adapter scales at the preset's guidance scale."""
    adapter = open_adapter(main_step(run))
    references = owl.references(adapter, CONTEXTS)
    pairs = [(unet, text) for unet in ADAPTER_SCALES for text in TEXT_SCALES]
    return [
        {
            "unet_scale": unet,
            "text_scale": text,
            **owl.measure(adapter, CONTEXTS, {"unet_scale": unet, "text_scale": text}, references),
        }
        for unet, text in pairs
    ]


def word_order(owl: Owl, run: Run) -> dict[str, float]:
    """Measure how far the order of words moves an image, beside how far another seed does."""
    adapter = open_adapter(main_step(run))
    count = max(owl.images, 2)
    sides_BD = [owl.encoders.clip.embed(adapter.generate(text, {}, count=count, seed=SEED)) for text in ORDERS]
    return {
        "by_order": float(1 - (sides_BD[0] * sides_BD[1]).sum(1).mean()),
        "by_seed": float(sum(other_seeds(side_BD) for side_BD in sides_BD) / 2),
    }


def other_seeds(side_BD: Tensor) -> float:
    """Return the mean distance between images of one prompt with different seeds."""
    count = len(side_BD)
    cosines_BB = side_BD @ side_BD.T
    return float(1 - (cosines_BB.sum() - cosines_BB.diagonal().sum()) / (count * (count - 1)))
