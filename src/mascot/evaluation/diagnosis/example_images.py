"""The pictures that show each ailment, chosen among those that it was measured by, and the diagnosis that they belong to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from mascot.evaluation.diagnosis.checks import FailureMode
from mascot.evaluation.diagnosis.findings import ExampleImage, ExampleStrip
from mascot.evaluation.diagnosis.measurements import RunMeasurements
from mascot.evaluation.diagnosis.probe_images import ProbeImages
from mascot.evaluation.evaluator import of_each_prompt
from mascot.evaluation.samples import ImageSet

SHOWN = 4
"""Pictures of one kind, at most."""


def placed(file: Path, folder: Path) -> str:
    """The file's name from the folder, or whole where it lies elsewhere."""
    return (file.relative_to(folder) if file.is_relative_to(folder) else file.absolute()).as_posix()


def exhibit(title: str, files: Sequence[Path], folder: Path, words: str) -> ExampleStrip:
    """The first few files under a title; `words` say what each shows."""
    return ExampleStrip(title=title, pictures=tuple(ExampleImage(file=placed(file, folder), words=words) for file in files[:SHOWN]))


def photos(symptoms: ProbeImages, folder: Path) -> ExampleStrip:
    """What it should look like."""
    return exhibit("photos", [photo.path for photo in symptoms.task.photos], folder, "a photo of the subject")


def prompt_sides(symptoms: ProbeImages, number: int, folder: Path) -> list[ExampleStrip]:
    """One prompt's pictures, and the untouched base's."""
    prompt = symptoms.task.templates[number].replace("{subject}", symptoms.task.subject.words)
    sides: list[ExampleStrip] = []
    for who, kind in {"this run": symptoms.drawn.taught, "untouched base": symptoms.drawn.untouched}.items():
        files = of_each_prompt(symptoms.task, kind.files)
        if files:
            sides.append(exhibit(f"{who}: {prompt}", files[number], folder, f"{prompt}, by {who}"))
    return sides


def of_likeness(symptoms: ProbeImages, evidence: RunMeasurements, folder: Path) -> Sequence[ExampleStrip]:
    """The prompts' first pictures beside the photos."""
    files = [some[0] for some in of_each_prompt(symptoms.task, symptoms.drawn.taught.files)]
    likeness = [prompt.likeness or 0 for prompt in evidence.prompts]
    worst = sorted(range(len(files)), key=likeness.__getitem__)
    return exhibit("this run", [files[number] for number in worst], folder, "a picture of the subject"), photos(symptoms, folder)


def of_copies(symptoms: ProbeImages, evidence: RunMeasurements, folder: Path) -> Sequence[ExampleStrip]:
    """The pictures nearest to a photo, and the photos that they are nearest to."""
    del evidence
    identity = symptoms.referee.judges.identity
    cosines_BP = symptoms.drawn.taught.embed(identity) @ symptoms.seen.photos(identity, symptoms.task.trained).T
    nearest_B = cosines_BP.max(dim=1)
    order = nearest_B.values.argsort(descending=True).tolist()[:SHOWN]
    pictures = [symptoms.drawn.taught.files[place] for place in order]
    originals = [symptoms.task.trained[int(nearest_B.indices[place])].path for place in order]
    return (
        exhibit("this run, whatever the prompt was", pictures, folder, "a picture of the subject"),
        exhibit("the photo nearest to each", originals, folder, "a photo of the subject"),
    )


def of_class(symptoms: ProbeImages, evidence: RunMeasurements, folder: Path) -> Sequence[ExampleStrip]:
    """The class alone, now and before, beside the photos."""
    del evidence
    noun = str(symptoms.task.subject.class_noun)
    kinds = {f"{noun}, by this run": symptoms.drawn.class_taught, f"{noun}, by the untouched base": symptoms.drawn.class_untouched}
    return [*(exhibit(title, kind.files, folder, title) for title, kind in kinds.items()), photos(symptoms, folder)]


def of_token(symptoms: ProbeImages, evidence: RunMeasurements, folder: Path) -> Sequence[ExampleStrip]:
    """The class alone, and the token alone, beside the photos."""
    token = f"{symptoms.task.subject.token!r} alone, by this run"
    return [exhibit(token, symptoms.token_alone.files, folder, token), *of_class(symptoms, evidence, folder)]


def of_variety(symptoms: ProbeImages, evidence: RunMeasurements, folder: Path) -> Sequence[ExampleStrip]:
    """The prompt whose pictures are the most alike."""
    numbers = range(len(evidence.prompts))
    return prompt_sides(symptoms, min(numbers, key=lambda number: evidence.prompts[number].diversity or 0), folder)


def of_prompts(symptoms: ProbeImages, evidence: RunMeasurements, folder: Path) -> Sequence[ExampleStrip]:
    """The prompt that is followed least, of those that the base draws."""
    lost = {
        number: contrasts[0] - contrasts[1]
        for number, prompt in enumerate(evidence.prompts)
        if prompt.drawn_by_base and (contrasts := prompt.contrasts) is not None
    }
    return prompt_sides(symptoms, min(lost, key=lost.__getitem__), folder)


def of_undrawn(symptoms: ProbeImages, evidence: RunMeasurements, folder: Path) -> Sequence[ExampleStrip]:
    """The prompts that the base does not draw."""
    undrawn = [number for number, prompt in enumerate(evidence.prompts) if prompt.contrasts is not None and not prompt.drawn_by_base]
    return [side for number in undrawn[:SHOWN] for side in prompt_sides(symptoms, number, folder)]


def of_colours(symptoms: ProbeImages, evidence: RunMeasurements, folder: Path) -> Sequence[ExampleStrip]:
    """One seed on plain backgrounds."""
    del evidence

    def row(title: str, kind: ImageSet) -> ExampleStrip:
        return exhibit(title, symptoms.plain_files(kind)[0], folder, f"a plain background, by the {title}")

    return row("run", symptoms.drawn.taught), row("untouched base", symptoms.drawn.untouched)


def of_photos(symptoms: ProbeImages, evidence: RunMeasurements, folder: Path) -> Sequence[ExampleStrip]:
    """The photos themselves."""
    del evidence
    return (photos(symptoms, folder),)


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
