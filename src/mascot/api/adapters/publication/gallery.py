"""The images of a publication, chosen by their scores, or generated where there are none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from PIL import Image

from mascot.adapters.adapter_file import Adapter
from mascot.data.prompt_templates import fill
from mascot.evaluation.scores import PromptScores, Scores
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest
from mascot.generation.loading import open_generator, recommended_knobs
from mascot.generation.prompts.prompt_sets import CONTEXTS
from mascot.protocols import Subject
from mascot.storage.image_files import image_stem, open_image
from mascot.storage.run_folder import Run
from mascot.storage.untrusted_files import UnreadableFile

IMAGES: Final = 6
"""Images of the gallery."""
CHOSEN_BY: Final = ("identity", "clip_t")
"""Metrics whose sum chooses the images."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """An image of the gallery."""

    request: ImageRequest
    image: Image.Image
    source: str = ""
    """Its file, relative to the run; empty where it was generated for the gallery."""

    @property
    def file(self) -> str:
        """Its file in the repository."""
        return f"images/{image_stem(self.request.prompt, self.request.seed)}.png"


def scored_images(run: Run, scores: Scores | None) -> Iterator[Chosen]:
    """Yield the best image of each of the best prompts: most like subject and prompt."""
    if scores is None:
        return

    def worth(prompt: PromptScores, index: int) -> float:
        values = prompt.values | prompt.images[index].values
        return sum(values[name] for name in CHOSEN_BY if name in values)

    best = [
        (prompt, max(range(len(prompt.images)), key=lambda index, prompt=prompt: worth(prompt, index)))
        for prompt in scores.prompts
        if prompt.images
    ]
    for prompt, index in sorted(best, key=lambda pair: worth(*pair), reverse=True)[:IMAGES]:
        image = prompt.images[index]
        try:
            yield Chosen(ImageRequest(prompt.prompt, image.seed), open_image(run.folder / image.file), image.file)
        except UnreadableFile:
            continue


def generated_images(run: Run, adapter: Adapter, base: str | None) -> Iterator[Chosen]:
    """Generate an image of each of some prompts, where a run has no scores."""
    assert adapter.manifest is not None, "a run's adapter has a manifest"
    generator: Generator = open_generator(run, base=base)[0]
    requests = list(gallery_requests(adapter.manifest.subject))
    try:
        for request, image in zip(requests, generator.generate(requests, recommended_knobs(adapter)), strict=True):
            yield Chosen(request, image)
    finally:
        generator.remove_adapter()


def gallery_requests(subject: Subject) -> Iterator[ImageRequest]:
    """Yield prompts of all kinds, for each subject in turn."""
    templates = [prompt for group in CONTEXTS.values() for prompt in group[:2]][:IMAGES]
    subjects = subject.all
    for number, template in enumerate(templates):
        yield ImageRequest(fill(template, subjects[number % len(subjects)]), 0)
