"""Example images: the images that show each failure mode, out of those that it was measured on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from types import MappingProxyType

from mascot.data.prompt_templates import fill
from mascot.evaluation.diagnosis.checks import FailureMode
from mascot.evaluation.diagnosis.findings import ExampleImage, ExampleStrip
from mascot.evaluation.diagnosis.measurements import RunMeasurements
from mascot.evaluation.diagnosis.probe_images import ProbeImages
from mascot.evaluation.evaluator import split_by_prompt
from mascot.evaluation.metrics.subject_leakage import Leak
from mascot.evaluation.samples import ImageSet

MAXIMUM_IMAGES = 4
"""Most images in one strip."""


def relative_path(file: Path, folder: Path) -> str:
    """Return a file's path relative to the folder; absolute where it lies outside."""
    return (file.relative_to(folder) if file.is_relative_to(folder) else file.absolute()).as_posix()


def make_strip(title: str, files: Sequence[Path], folder: Path, words: str) -> ExampleStrip:
    """Put the first few files under a title; `words` describe each of them."""
    images = [ExampleImage(file=relative_path(file, folder), words=words) for file in files[:MAXIMUM_IMAGES]]
    return ExampleStrip(title=title, images=tuple(images))


def photo_strip(probes: ProbeImages, folder: Path) -> ExampleStrip:
    """Show the photos of the subject."""
    return make_strip("photos", [photo.path for photo in probes.task.photos], folder, "a photo of the subject")


def prompt_strips(probes: ProbeImages, number: int, folder: Path) -> list[ExampleStrip]:
    """Show one prompt's images by the run and by the base model."""
    prompt = fill(probes.task.templates[number], probes.task.subject)
    strips: list[ExampleStrip] = []
    for model, images in {"this run": probes.samples.trained, "base model": probes.samples.base}.items():
        files = split_by_prompt(probes.task, images.files)
        if files:
            strips.append(make_strip(f"{model}: {prompt}", files[number], folder, f"{prompt}, by {model}"))
    return strips


def underfitting_examples(probes: ProbeImages, measurements: RunMeasurements, folder: Path) -> Sequence[ExampleStrip]:
    """Show the first images of the prompts with the lowest likeness, and the photos."""
    files = [group[0] for group in split_by_prompt(probes.task, probes.samples.trained.files)]
    likeness = [prompt.likeness or 0 for prompt in measurements.prompts]
    worst = sorted(range(len(files)), key=likeness.__getitem__)
    generated = make_strip("this run", [files[number] for number in worst], folder, "an image of the subject")
    return generated, photo_strip(probes, folder)


def memorization_examples(probes: ProbeImages, measurements: RunMeasurements, folder: Path) -> Sequence[ExampleStrip]:
    """Show the images that are nearest to a training photo, and those photos."""
    del measurements
    identity, photos = probes.scorers.encoders.identity, probes.task.training_photos
    cosines_BP = probes.samples.trained.embed(identity) @ probes.embedded.embed_photos(identity, photos).T
    nearest_B = cosines_BP.max(dim=1)
    order = nearest_B.values.argsort(descending=True).tolist()[:MAXIMUM_IMAGES]
    images = [probes.samples.trained.files[index] for index in order]
    originals = [photos[int(nearest_B.indices[index])].path for index in order]
    return (
        make_strip("this run, whatever the prompt was", images, folder, "an image of the subject"),
        make_strip("the photo nearest to each", originals, folder, "a photo of the subject"),
    )


def class_examples(probes: ProbeImages, measurements: RunMeasurements, folder: Path) -> Sequence[ExampleStrip]:
    """Show the class noun alone, by the run and by the base model, and the photos."""
    del measurements
    noun = str(probes.task.subject.class_noun)
    kinds = {
        f"{noun}, by this run": probes.samples.class_trained,
        f"{noun}, by the base model": probes.samples.class_base,
    }
    strips = [make_strip(title, images.files, folder, title) for title, images in kinds.items()]
    return [*strips, photo_strip(probes, folder)]


def token_examples(probes: ProbeImages, measurements: RunMeasurements, folder: Path) -> Sequence[ExampleStrip]:
    """Show the token alone and the class noun alone, and the photos."""
    token = f"{probes.task.subject.token!r} alone, by this run"
    return [make_strip(token, probes.token_alone.files, folder, token), *class_examples(probes, measurements, folder)]


def diversity_examples(probes: ProbeImages, measurements: RunMeasurements, folder: Path) -> Sequence[ExampleStrip]:
    """Show the prompt whose images are the most alike."""
    diversity = [prompt.diversity or 0 for prompt in measurements.prompts]
    return prompt_strips(probes, min(range(len(diversity)), key=diversity.__getitem__), folder)


def ignored_prompt_examples(probes: ProbeImages, measurements: RunMeasurements, folder: Path) -> Sequence[ExampleStrip]:
    """Show the prompt that is followed least, out of those that the base model generates."""
    losses = {
        number: margins[0] - margins[1]
        for number, prompt in enumerate(measurements.prompts)
        if prompt.generated_by_base and (margins := prompt.margins) is not None
    }
    return prompt_strips(probes, min(losses, key=losses.__getitem__), folder)


def missing_context_examples(
    probes: ProbeImages, measurements: RunMeasurements, folder: Path
) -> Sequence[ExampleStrip]:
    """Show the prompts that the base model does not generate."""
    missing = [
        number
        for number, prompt in enumerate(measurements.prompts)
        if prompt.margins is not None and not prompt.generated_by_base
    ]
    return [strip for number in missing[:MAXIMUM_IMAGES] for strip in prompt_strips(probes, number, folder)]


def entanglement_examples(probes: ProbeImages, measurements: RunMeasurements, folder: Path) -> Sequence[ExampleStrip]:
    """Show one seed on plain backgrounds, by the run and by the base model."""
    del measurements

    def strip(title: str, images: ImageSet) -> ExampleStrip:
        files = probes.plain_background_files(images)[0]
        return make_strip(title, files, folder, f"a plain background, by the {title}")

    return strip("run", probes.samples.trained), strip("base model", probes.samples.base)


def photo_examples(probes: ProbeImages, measurements: RunMeasurements, folder: Path) -> Sequence[ExampleStrip]:
    """Show the photos themselves."""
    del measurements
    return (photo_strip(probes, folder),)


def leakage_examples(probes: ProbeImages, measurements: RunMeasurements, folder: Path) -> Sequence[ExampleStrip]:
    """Show the images that are nearest to the photos of another subject, and the photos of both."""
    found = {name: leak for name, leak in measurements.leaks.items() if isinstance(leak, Leak) and leak.values}
    name = max(found, key=lambda other: fmean(found[other].values))
    identity, photos = probes.scorers.encoders.identity, probes.task.other_photos[name]
    cosines_B = (probes.samples.trained.embed(identity) @ probes.embedded.embed_photos(identity, photos).T).mean(dim=1)
    order = cosines_B.argsort(descending=True).tolist()[:MAXIMUM_IMAGES]
    words = str(probes.task.subject.name)
    files = [probes.samples.trained.files[index] for index in order]
    return (
        make_strip(f"{words}, by this run, the nearest to {name}", files, folder, f"an image of {words}"),
        photo_strip(probes, folder),
        make_strip(f"photos of {name}", [photo.path for photo in photos], folder, f"a photo of {name}"),
    )


EXAMPLES: Mapping[FailureMode, Callable[[ProbeImages, RunMeasurements, Path], Sequence[ExampleStrip]]] = (
    MappingProxyType(
        {
            "underfitting": underfitting_examples,
            "memorization": memorization_examples,
            "language drift": class_examples,
            "reduced diversity": diversity_examples,
            "prompt ignored": ignored_prompt_examples,
            "context-appearance entanglement": entanglement_examples,
            "context not generated": missing_context_examples,
            "token leakage": token_examples,
            "photos too similar": photo_examples,
            "subject leakage": leakage_examples,
        }
    )
)
"""Failure mode -> the function that picks the images that show it."""
