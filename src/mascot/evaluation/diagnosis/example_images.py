"""The pictures that show each ailment, chosen among those that it was measured by, and the diagnosis that they belong to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from mascot.evaluation.diagnosis.checks import FailureMode
from mascot.evaluation.diagnosis.findings import ExampleImage, ExampleStrip
from mascot.evaluation.diagnosis.measurements import RunMeasurements
from mascot.evaluation.diagnosis.probe_images import ProbeImages
from mascot.evaluation.evaluator import by_prompt
from mascot.evaluation.samples import ImageSet

SHOWN = 4
"""Pictures of one kind, at most."""


def placed(file: Path, folder: Path) -> str:
    """The file's name from the folder, or whole where it lies elsewhere."""
    return (file.relative_to(folder) if file.is_relative_to(folder) else file.absolute()).as_posix()


def example_strip(title: str, files: Sequence[Path], folder: Path, words: str) -> ExampleStrip:
    """The first few files under a title; `words` say what each shows."""
    return ExampleStrip(
        title=title, images=tuple(ExampleImage(file=placed(file, folder), words=words) for file in files[:SHOWN])
    )


def photos(probes: ProbeImages, folder: Path) -> ExampleStrip:
    """What it should look like."""
    return example_strip("photos", [photo.path for photo in probes.task.photos], folder, "a photo of the subject")


def prompt_sides(probes: ProbeImages, number: int, folder: Path) -> list[ExampleStrip]:
    """One prompt's pictures, and the untouched base's."""
    prompt = probes.task.templates[number].replace("{subject}", probes.task.subject.words)
    sides: list[ExampleStrip] = []
    for who, kind in {"this run": probes.samples.trained, "untouched base": probes.samples.base}.items():
        files = by_prompt(probes.task, kind.files)
        if files:
            sides.append(example_strip(f"{who}: {prompt}", files[number], folder, f"{prompt}, by {who}"))
    return sides


def of_likeness(probes: ProbeImages, measurements: RunMeasurements, folder: Path) -> Sequence[ExampleStrip]:
    """The prompts' first pictures beside the photos."""
    files = [some[0] for some in by_prompt(probes.task, probes.samples.trained.files)]
    likeness = [prompt.likeness or 0 for prompt in measurements.prompts]
    worst = sorted(range(len(files)), key=likeness.__getitem__)
    return example_strip("this run", [files[number] for number in worst], folder, "a picture of the subject"), photos(
        probes, folder
    )


def of_copies(probes: ProbeImages, measurements: RunMeasurements, folder: Path) -> Sequence[ExampleStrip]:
    """The pictures nearest to a photo, and the photos that they are nearest to."""
    del measurements
    identity = probes.scorers.encoders.identity
    cosines_BP = probes.samples.trained.embed(identity) @ probes.seen.photos(identity, probes.task.trained).T
    nearest_B = cosines_BP.max(dim=1)
    order = nearest_B.values.argsort(descending=True).tolist()[:SHOWN]
    images = [probes.samples.trained.files[place] for place in order]
    originals = [probes.task.trained[int(nearest_B.indices[place])].path for place in order]
    return (
        example_strip("this run, whatever the prompt was", images, folder, "a picture of the subject"),
        example_strip("the photo nearest to each", originals, folder, "a photo of the subject"),
    )


def of_class(probes: ProbeImages, measurements: RunMeasurements, folder: Path) -> Sequence[ExampleStrip]:
    """The class alone, now and before, beside the photos."""
    del measurements
    noun = str(probes.task.subject.class_noun)
    kinds = {
        f"{noun}, by this run": probes.samples.class_trained,
        f"{noun}, by the untouched base": probes.samples.class_base,
    }
    return [*(example_strip(title, kind.files, folder, title) for title, kind in kinds.items()), photos(probes, folder)]


def of_token(probes: ProbeImages, measurements: RunMeasurements, folder: Path) -> Sequence[ExampleStrip]:
    """The class alone, and the token alone, beside the photos."""
    token = f"{probes.task.subject.token!r} alone, by this run"
    return [example_strip(token, probes.token_alone.files, folder, token), *of_class(probes, measurements, folder)]


def of_variety(probes: ProbeImages, measurements: RunMeasurements, folder: Path) -> Sequence[ExampleStrip]:
    """The prompt whose pictures are the most alike."""
    numbers = range(len(measurements.prompts))
    return prompt_sides(probes, min(numbers, key=lambda number: measurements.prompts[number].diversity or 0), folder)


def of_prompts(probes: ProbeImages, measurements: RunMeasurements, folder: Path) -> Sequence[ExampleStrip]:
    """The prompt that is followed least, of those that the base draws."""
    lost = {
        number: contrasts[0] - contrasts[1]
        for number, prompt in enumerate(measurements.prompts)
        if prompt.drawn_by_base and (contrasts := prompt.contrasts) is not None
    }
    return prompt_sides(probes, min(lost, key=lost.__getitem__), folder)


def of_undrawn(probes: ProbeImages, measurements: RunMeasurements, folder: Path) -> Sequence[ExampleStrip]:
    """The prompts that the base does not draw."""
    undrawn = [
        number
        for number, prompt in enumerate(measurements.prompts)
        if prompt.contrasts is not None and not prompt.drawn_by_base
    ]
    return [side for number in undrawn[:SHOWN] for side in prompt_sides(probes, number, folder)]


def of_colours(probes: ProbeImages, measurements: RunMeasurements, folder: Path) -> Sequence[ExampleStrip]:
    """One seed on plain backgrounds."""
    del measurements

    def row(title: str, kind: ImageSet) -> ExampleStrip:
        return example_strip(title, probes.plain_files(kind)[0], folder, f"a plain background, by the {title}")

    return row("run", probes.samples.trained), row("untouched base", probes.samples.base)


def of_photos(probes: ProbeImages, measurements: RunMeasurements, folder: Path) -> Sequence[ExampleStrip]:
    """The photos themselves."""
    del measurements
    return (photos(probes, folder),)


EXAMPLES: Mapping[FailureMode, Callable[[ProbeImages, RunMeasurements, Path], Sequence[ExampleStrip]]] = MappingProxyType({
    "undertrained": of_likeness,
    "memorised": of_copies,
    "class drifted": of_class,
    "diversity collapsed": of_variety,
    "prompt ignored": of_prompts,
    "context and looks entangled": of_colours,
    "context not drawn": of_undrawn,
    "token leaked": of_token,
    "photos too alike": of_photos,
})  # fmt: skip
"""Ailment -> the pictures that show it."""
