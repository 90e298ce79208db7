"""What came of a run: draw the contexts and the knobs, and put everything into the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
from mascot.reports.training_page import ContextGroup, ContextRow, KnobCell, KnobGrid, PhotoEntry, Preview, Report, ReportNote, write_report
from mascot.runs.training_run import TrainingRun

IMAGES = 3
"""Pictures of the subject for each context."""


GUIDANCES = (0.5, 1.0, 1.8)
"""Times the recipe's guidance."""


SCALES = (0.5, 1.0)
"""Of the denoiser's part and of the text encoder's part."""


def write_training_report(
    job: TrainingRun, adapter: Adapter, generator: Generator, rows: Sequence[tuple[str, str]], health: Diagnosis | str = ""
) -> None:
    """Draw through the one generator, which wears the adapter as it will be shared, and write the report.

    `health` is what ails the run, or why that is not known.
    """
    recipe, knobs = job.recipe, job.recipe.knobs
    if adapter.manifest is not None and adapter.manifest.knobs is not None:
        knobs = Knobs.model_validate(adapter.manifest.knobs)
    report = Report(
        title=f"{recipe.subject.words} on {recipe.base}",
        subject=recipe.subject.words,
        base=recipe.base,
        adapter=job.run.adapter.name,
        photos=tuple(photo_entries(job)),
        notes=tuple(notes(job)),
        health=health if isinstance(health, str) else health.verdict,
        findings=() if isinstance(health, str) else finding_entries(health, job.run.folder),
        effective=tuple(rows),
        losses=tuple((row["step"], row["subject_loss"]) for row in job.run.read_steps()),
        preview_prompts=tuple(fill(prompt, recipe.subject) for prompt in recipe.previews.prompts),
        previews=tuple(previews(job)),
        contexts=tuple(contexts(generator, recipe.subject, knobs)),
        knobs=knob_grid(generator, recipe.subject, knobs),
        adapter_facts=(("method", job.method.name), ("tensors", f"{len(adapter.tensors)}"), ("base's fingerprint", job.family.identity)),
        recipe=recipe.to_toml(),
        commands=(
            f'mascot generate {job.run.folder} "a {{subject}} in the snow"',
            f"mascot train --recipe {job.run.recipe} --out ANOTHER_FOLDER",
        ),
    )
    write_report(report, job.run.report)


def photo_entries(job: TrainingRun) -> Iterator[PhotoEntry]:
    """The photos, small, with their captions."""
    for photo in job.photos.photos:
        image = photo.image.copy()
        image.thumbnail((320, 320))
        caption = " | ".join(fill(caption, job.recipe.subject) for caption in photo.captions)
        yield PhotoEntry(image=image, name=photo.path.name, caption=caption)


def notes(job: TrainingRun) -> Iterator[ReportNote]:
    """What the audit found."""
    for finding in audit_photos(job.photos, job.resolution).findings:
        yield ReportNote(severity=finding.severity, message=finding.message, remedy=finding.remedy)


def previews(job: TrainingRun) -> Iterator[Preview]:
    """The previews of the run, as they lie in its folder."""
    for step, paths in sorted(job.run.previews().items()):
        images: list[Image.Image] = []
        for path in paths:
            with Image.open(path) as image:
                images.append(image.convert("RGB"))
        yield Preview(step=step, images=tuple(images))


def contexts(generator: Generator, subject: Subject, knobs: Knobs) -> Iterator[ContextGroup]:
    """Each context with the adapter, and once with the untouched base, the token left out."""
    prompts = [prompt for group in CONTEXTS.values() for prompt in group]
    generated = list(generator.generate([ImageRequest(fill(prompt, subject), seed) for prompt in prompts for seed in range(IMAGES)], knobs))
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
                turned = knobs.model_copy(update={"guidance": round(knobs.guidance * times, 1), "unet_scale": unet, "text_scale": text})
                image = next(generator.generate([ImageRequest(prompt, 0)], turned))
                cells.append(KnobCell(guidance=turned.guidance, unet_scale=unet, text_scale=text, image=image))
    return KnobGrid(prompt=prompt, cells=tuple(cells))
