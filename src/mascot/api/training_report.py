"""What came of a run: draw the contexts and the knobs, and put everything into the report."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

from mascot.adapters.adapter_file import Adapter
from mascot.data.photo_audit import audit_photos
from mascot.data.prompt_templates import fill
from mascot.evaluation.diagnosis.diagnosis_page import finding_entries
from mascot.evaluation.diagnosis.findings import Diagnosis
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.prompt_sets import CONTEXTS, KNOBS_PROMPT
from mascot.protocols import Subject
from mascot.reports.training_page import (
    ContextGroup,
    ContextRow,
    KnobCell,
    KnobGrid,
    PhotoEntry,
    Preview,
    Report,
    ReportNote,
    write_report,
)
from mascot.runs.training_run import TrainingRun

IMAGES = 3
"""Pictures of the subject for each context."""


GUIDANCES = (0.5, 1.0, 1.8)
"""Times the recipe's guidance."""


SCALES = (0.5, 1.0)
"""Of the denoiser's part and of the text encoder's part."""


def write_training_report(
    run: TrainingRun, adapter: Adapter, generator: Generator, diagnosis: Diagnosis | str = ""
) -> None:
    """Generate the report's images with the generator, which has the adapter applied, and write the report.

    `diagnosis` is the run's, or a sentence that says why there is none.
    """
    recipe, knobs = run.recipe, run.recipe.knobs
    if adapter.manifest is not None and adapter.manifest.knobs is not None:
        knobs = Knobs.model_validate(adapter.manifest.knobs)
    report = Report(
        title=f"{recipe.subject.words} on {recipe.base}",
        subject=recipe.subject.words,
        base=recipe.base,
        adapter=run.files.adapter.name,
        photos=tuple(photo_entries(run)),
        notes=tuple(notes(run)),
        health=diagnosis if isinstance(diagnosis, str) else diagnosis.verdict,
        findings=() if isinstance(diagnosis, str) else finding_entries(diagnosis, run.files.folder),
        effective=tuple(run.settings),
        losses=tuple((row["step"], row["subject_loss"]) for row in run.files.read_steps()),
        preview_prompts=tuple(fill(prompt, recipe.subject) for prompt in recipe.previews.prompts),
        previews=tuple(previews(run)),
        contexts=tuple(contexts(generator, recipe.subject, knobs)),
        knobs=knob_grid(generator, recipe.subject, knobs),
        adapter_facts=(
            ("method", run.method.name),
            ("tensors", f"{len(adapter.tensors)}"),
            ("base's fingerprint", run.family.identity),
        ),
        recipe=recipe.to_toml(),
        commands=(
            f'mascot generate {run.files.folder} "a {{subject}} in the snow"',
            f"mascot train --recipe {run.files.recipe} --out ANOTHER_FOLDER",
        ),
    )
    write_report(report, run.files.report)


def photo_entries(run: TrainingRun) -> Iterator[PhotoEntry]:
    """The photos, small, with their captions."""
    for photo in run.photos.photos:
        image = photo.image.copy()
        image.thumbnail((320, 320))
        caption = " | ".join(fill(caption, run.recipe.subject) for caption in photo.captions)
        yield PhotoEntry(image=image, name=photo.path.name, caption=caption)


def notes(run: TrainingRun) -> Iterator[ReportNote]:
    """What the audit found."""
    for finding in audit_photos(run.photos, run.resolution).findings:
        yield ReportNote(severity=finding.severity, message=finding.message, remedy=finding.remedy)


def previews(run: TrainingRun) -> Iterator[Preview]:
    """The previews of the run, as they lie in its folder."""
    for step, paths in sorted(run.files.previews().items()):
        images: list[Image.Image] = []
        for path in paths:
            with Image.open(path) as image:
                images.append(image.convert("RGB"))
        yield Preview(step=step, images=tuple(images))


def contexts(generator: Generator, subject: Subject, knobs: Knobs) -> Iterator[ContextGroup]:
    """Each context with the adapter, and once with the untouched base, the token left out."""
    prompts = [prompt for group in CONTEXTS.values() for prompt in group]
    generated = list(
        generator.generate(
            [ImageRequest(fill(prompt, subject), seed) for prompt in prompts for seed in range(IMAGES)], knobs
        )
    )
    base = knobs.model_copy(update={"unet_scale": 0.0, "text_scale": 0.0})
    nouns = Subject(token=subject.class_noun or subject.token)
    base = list(generator.generate([ImageRequest(fill(prompt, nouns), 0) for prompt in prompts], base))
    place = 0
    for name, group in CONTEXTS.items():
        rows: list[ContextRow] = []
        for prompt in group:
            images = tuple(generated[place * IMAGES : (place + 1) * IMAGES])
            rows.append(ContextRow(prompt=fill(prompt, subject), images=images, base=(base[place],)))
            place += 1
        yield ContextGroup(name=name, rows=tuple(rows))


def knob_grid(generator: Generator, subject: Subject, knobs: Knobs) -> KnobGrid:
    """One prompt and seed over guidance x UNet scale x text-encoder scale."""
    prompt = fill(KNOBS_PROMPT, subject)
    cells: list[KnobCell] = []
    for text in SCALES:
        for times in GUIDANCES:
            for unet in SCALES:
                turned = knobs.model_copy(
                    update={"guidance": round(knobs.guidance * times, 1), "unet_scale": unet, "text_scale": text}
                )
                image = next(generator.generate([ImageRequest(prompt, 0)], turned))
                cells.append(KnobCell(guidance=turned.guidance, unet_scale=unet, text_scale=text, image=image))
    return KnobGrid(prompt=prompt, cells=tuple(cells))
