"""The end of `train`: generate the report's images, and write the training report."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product

from PIL import Image

from mascot.adapters.adapter_file import Adapter
from mascot.data.captioning.caption_variants import first_variant
from mascot.data.photo_audit import audit_photos
from mascot.data.prompt_templates import fill
from mascot.evaluation.diagnosis.diagnosis_page import finding_entries
from mascot.evaluation.diagnosis.findings import Diagnosis
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.prompts.prompt_sets import CONTEXTS, KNOBS_PROMPT, together, together_prompts
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
from mascot.runs.inputs import find_caption_faults
from mascot.runs.previews import preview_prompts
from mascot.runs.training_run import TrainingRun
from mascot.storage.image_files import open_image
from mascot.storage.untrusted_files import UnreadableFile

logger = logging.getLogger(__name__)

PROMPTS = tuple(prompt for group in CONTEXTS.values() for prompt in group)
"""The context prompts, in the order of the page."""

GUIDANCES = (0.5, 1.0, 1.8)
"""Guidance scales of the knob grid, as factors of the recipe's."""

SCALES = (0.5, 1.0)
"""Adapter scales of the knob grid, for the denoiser and for the text encoder."""


def write_training_report(
    run: TrainingRun, adapter: Adapter, generator: Generator, diagnosis: Diagnosis | str = ""
) -> None:
    """Generate the report's images and write the report of a finished run.

    The generator has the adapter applied. `diagnosis` is the run's, or a sentence that says why
    there is none.
    """
    recipe, subject, knobs = run.recipe, run.recipe.subject, report_knobs(run, adapter)
    words = " and ".join(one.words for one in subject.all)
    together = together_prompts(subject)[: recipe.report.images] if subject.others else ()
    plan = ReportPlan.of((recipe.report.images - len(together)) // len(subject.all))
    report = Report(
        title=f"{words} on {recipe.base}",
        subject=words,
        base=recipe.base,
        adapter=run.files.adapter.name,
        photos=tuple(photo_entries(run)),
        notes=tuple(photo_notes(run)),
        health=diagnosis if isinstance(diagnosis, str) else diagnosis.verdict,
        findings=() if isinstance(diagnosis, str) else finding_entries(diagnosis, run.files.folder),
        effective=tuple(run.settings),
        losses=tuple((row["step"], row["subject_loss"]) for row in run.files.read_steps()),
        preview_prompts=tuple(preview_prompts(recipe)),
        previews=tuple(read_previews(run)),
        contexts=tuple(generate_all_contexts(generator, subject, knobs, plan, together)),
        knobs=generate_knob_cells(generator, subject, knobs, plan.knobs),
        adapter_facts=(
            ("method", run.method.name),
            ("tensors", f"{len(adapter.tensors)}"),
            ("base's fingerprint", run.family.identity),
        ),
        recipe=recipe.to_toml(),
        commands=next_commands(run),
    )
    write_report(report, run.files.report)


def report_knobs(run: TrainingRun, adapter: Adapter) -> Knobs:
    """Return the knobs that training recommends, else the recipe's."""
    if adapter.manifest is not None and adapter.manifest.knobs is not None:
        return Knobs.model_validate(adapter.manifest.knobs)
    return run.recipe.knobs


def next_commands(run: TrainingRun) -> tuple[str, ...]:
    """List the commands that use the adapter, and that repeat the run."""
    return (
        f'mascot generate {run.files.folder} "{example_prompt(run.recipe.subject)}"',
        f"mascot train --recipe {run.files.recipe} --out ANOTHER_FOLDER",
    )


def example_prompt(subject: Subject) -> str:
    """Write a prompt that names the subject, or all of several."""
    return f"{together(subject)} in the snow" if subject.others else "a {subject} in the snow"


def photo_entries(run: TrainingRun) -> Iterator[PhotoEntry]:
    """List the photos, at most 320 pixels wide and high, with their captions."""
    subjects = run.recipe.subject.all
    for photo in run.photos.photos:
        image = photo.image.copy()
        image.thumbnail((320, 320))
        caption = " | ".join(fill(first_variant(caption), subjects[photo.subject]) for caption in photo.captions)
        shown = subjects[photo.subject].name
        name = photo.path.name if shown is None else f"{shown}: {photo.path.name}"
        yield PhotoEntry(image=image, name=name, caption=caption)


def photo_notes(run: TrainingRun) -> Iterator[ReportNote]:
    """List what the audits of the photos and of their captions found."""
    audited = audit_photos(run.photos, run.resolution, names=run.recipe.subjects.names).findings
    for finding in (*audited, *find_caption_faults(run.recipe, run.photos)):
        yield ReportNote(severity=finding.severity, message=finding.message, remedy=finding.remedy)


def read_previews(run: TrainingRun) -> Iterator[Preview]:
    """Read the preview images from the run's folder, step by step."""
    for step, paths in sorted(run.files.previews().items()):
        images: list[Image.Image] = []
        for path in paths:
            try:
                images.append(open_image(path))
            except UnreadableFile as error:
                logger.warning("%s is left out of the report (%s).", path, error.reason)
        if images:
            yield Preview(step=step, images=tuple(images))


@dataclass(frozen=True, slots=True)
class ReportPlan:
    """How many images a report generates of each kind."""

    contexts: tuple[int, ...]
    """Images of the subject for each context prompt."""
    base: int
    """Context prompts, from the first, of which the base model generates an image."""
    knobs: int
    """Cells of the knob grid, from the first."""

    @classmethod
    def of(cls, images: int) -> ReportPlan:
        """Spend a number of images.

        First each prompt gets one, then the base model's, then the knob grid; the rest are more
        images of each prompt.
        """
        prompts, cells = len(PROMPTS), len(SCALES) ** 2 * len(GUIDANCES)
        first = min(images, prompts)
        base = min(images - first, prompts)
        knobs = min(images - first - base, cells)
        rounds, more = divmod(images - first - base - knobs, prompts)
        contexts = tuple((number < first) + rounds + (number < more) for number in range(prompts))
        return cls(contexts=contexts, base=base, knobs=knobs)


def generate_all_contexts(
    generator: Generator, subject: Subject, knobs: Knobs, plan: ReportPlan, together: Sequence[str]
) -> Iterator[ContextGroup]:
    """Generate the contexts of each subject, then one image of each prompt that names them all."""
    for one in subject.all:
        for group in generate_contexts(generator, one, knobs, plan):
            yield group if one.name is None else replace(group, name=f"{one.name}: {group.name}")
    requests = [ImageRequest(fill(template, subject), 0) for template in together]
    images = list(generator.generate(requests, knobs)) if requests else []
    rows = [ContextRow(prompt=r.prompt, images=(image,)) for r, image in zip(requests, images, strict=True)]
    if rows:
        yield ContextGroup(name="together", rows=tuple(rows))


def generate_contexts(generator: Generator, subject: Subject, knobs: Knobs, plan: ReportPlan) -> Iterator[ContextGroup]:
    """Generate each context prompt with the adapter, and by the base with the class noun alone."""
    counted = list(zip(PROMPTS, plan.contexts, strict=True))
    requests = [ImageRequest(fill(prompt, subject), seed) for prompt, count in counted for seed in range(count)]
    images = iter(list(generator.generate(requests, knobs)) if requests else [])
    base_knobs = knobs.model_copy(update={"unet_scale": 0.0, "text_scale": 0.0})
    without_token = Subject(token=subject.class_noun or subject.token)
    base_requests = [ImageRequest(fill(prompt, without_token), 0) for prompt in PROMPTS[: plan.base]]
    base_images = iter(list(generator.generate(base_requests, base_knobs)) if base_requests else [])
    rows = iter(
        [
            ContextRow(
                prompt=fill(prompt, subject),
                images=tuple(islice(images, count)),
                base=tuple(islice(base_images, 1)),
            )
            for prompt, count in counted
        ]
    )
    for name, group in CONTEXTS.items():
        yield ContextGroup(name=name, rows=tuple(islice(rows, len(group))))


def generate_knob_cells(generator: Generator, subject: Subject, knobs: Knobs, count: int) -> KnobGrid | None:
    """Generate one prompt and seed over guidance scale x UNet scale x text-encoder scale.

    Only the first `count` cells of the grid are generated; None without any.
    """
    prompt = fill(KNOBS_PROMPT, subject)
    cells: list[KnobCell] = []
    for text_scale, factor, unet_scale in islice(product(SCALES, GUIDANCES, SCALES), count):
        guidance = round(knobs.guidance * factor, 1)
        scales = {"guidance": guidance, "unet_scale": unet_scale, "text_scale": text_scale}
        image = next(generator.generate([ImageRequest(prompt, 0)], knobs.model_copy(update=scales)))
        cells.append(KnobCell(**scales, image=image))
    return KnobGrid(prompt=prompt, cells=tuple(cells)) if cells else None
