"""Runs as they are examined: what an adapter draws is scored and written beside it, and two runs are set against each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mascot.api.diagnose import diagnose_adapter, plan_diagnosis
from mascot.data.photos import read_photos
from mascot.evaluation.diagnosis.diagnosis_page import diagnosis_section
from mascot.evaluation.evaluation_task import EvaluationTask, plan_task
from mascot.evaluation.evaluator import Calibration, Scorers, measure, open_scorers
from mascot.evaluation.evaluator import calibrate as calibrate_photos
from mascot.evaluation.metrics.default_encoders import EncoderPair, load_encoders
from mascot.evaluation.samples import Samples, generate_samples
from mascot.evaluation.scores import Scores
from mascot.evaluation.scores_page import scores_page
from mascot.generation.loading import DEVICE_REMEDY, open_generator, resolve_adapter
from mascot.models.devices import choose_device
from mascot.models.starter import EMBEDDED
from mascot.progress import FileWritten, OnEvent, ScoringStarted, ignore
from mascot.protocols import Family
from mascot.reports.page import write_page
from mascot.storage.run_folder import Run, scores_folder

Refine = Callable[[EvaluationTask, Samples, Scorers, Scores], Scores]
"""Adds to scores what asks for more than the pictures that they are of."""


def evaluate(
    where: str | Path | Run, *, prompts: Sequence[str] | None = None, images: int = 4, seed: int = 0, identity: str | None = None,
    clip: str | None = None, device: str = "auto", live: bool | None = None, photos: Sequence[str | Path] = (), base: str | None = None,
    family: Family | None = None, diagnosed: bool = False, refine: Refine | None = None, on_event: OnEvent = ignore,
) -> Scores:  # fmt: skip
    """Draw the report's prompts with a trained adapter and score the pictures; writes `scores.json` and `scores.html` beside it.

    `identity` and `clip` name encoders (see `load_encoders`). Likeness is measured on the photos that the run learned from, or on `photos`;
    those of them that it did not learn from are held out, which the copy score needs. Pictures are kept: a call that was cut off, or one
    with other encoders, draws only what is missing. `family` is the adapter's base where it is loaded already; it comes back as it was.
    With `diagnosed` the page says what ails the run as well (see `diagnose`), unless the run's recipe has that switched off. `refine` may
    add to the scores before they are written.
    Events: `GenerationStarted`, `ImageGenerated`, `ScoringStarted`, `DiagnosisFinished`, `FileWritten`.

    Raises:
        UserError: the adapter, its base, the photos, the encoders or the prompts cannot be used.
    """
    adapter, path = resolve_adapter(where)
    place = scores_folder(path)
    task = plan_task(
        adapter, path, name=str(where.folder if isinstance(where, Run) else where), prompts=prompts, images=images, seed=seed, live=live,
        photos=photos, base=base,
    )  # fmt: skip
    encoders = load_encoders(task.base, identity, clip, choose_device(device, DEVICE_REMEDY))
    scorers = open_scorers(encoders)
    generator, _, _ = open_generator(path, base=base, device=device, family=family)
    samples = generate_samples(task, generator, adapter=path, folder=place.evaluation, on_event=on_event)
    on_event(ScoringStarted(images=len(samples.trained.files)))
    scores = measure(task, samples, scorers, generator=generator, folder=place.folder)
    page = scores_page(scores, place.folder, samples.base.files)
    settings = adapter.manifest.recipe.get("diagnosis", {}) if adapter.manifest else {}
    if diagnosed and settings.get("active", True):
        asked = plan_diagnosis(adapter, path, name=task.name, photos=photos, base=base)
        found = diagnose_adapter(asked, adapter, path, generator=generator, scorers=scorers, on_event=on_event)
        page = replace(page, sections=(page.sections[0], diagnosis_section(found, place.folder), *page.sections[1:]))
    generator.remove_adapter()
    del generator  # a base loaded here may go before what refines loads one
    if refine is not None:
        scores = refine(task, samples, scorers, scores)
    scores.write(place.scores)
    write_page(page, place.scores_page)
    on_event(FileWritten(kind="report", path=place.scores_page))
    return scores


def calibrate(
    folders: Sequence[str | Path],
    *,
    base: str = EMBEDDED,
    identity: str | None = None,
    clip: str | None = None,
    device: str = "auto",
) -> tuple[list[Calibration], EncoderPair]:
    """Score real photos against each other, a row for each folder, by the encoders that judge pictures of a base; with those encoders.

    Raises:
        UserError: a folder has no usable photo, or an encoder cannot be used.
    """
    photos = [read_photos([Path(folder)]).photos for folder in folders]
    encoders = load_encoders(base, identity, clip, choose_device(device, DEVICE_REMEDY))
    return [
        calibrate_photos(str(folder), some, encoders) for folder, some in zip(folders, photos, strict=True)
    ], encoders
