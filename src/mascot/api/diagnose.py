"""TODO api.diagnose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mascot.adapters.adapter_file import Adapter
from mascot.evaluation.diagnosis.checks import FailureMode, run_checks
from mascot.evaluation.diagnosis.diagnosis_page import diagnosis_page
from mascot.evaluation.diagnosis.example_images import EXAMPLES
from mascot.evaluation.diagnosis.findings import Diagnosis, checks_of, findings_of, unseen_of
from mascot.evaluation.diagnosis.probe_images import ProbeImages, diagnosis_prompts, draw_probes
from mascot.evaluation.evaluation_task import EvaluationTask, plan_task
from mascot.evaluation.evaluator import Scorers, open_scorers
from mascot.evaluation.metrics.default_encoders import load_encoders
from mascot.generation.generator import Generator
from mascot.generation.loading import DEVICE_REMEDY, open_generator, resolve_adapter
from mascot.models.devices import choose_device
from mascot.progress import DiagnosisFinished, FileWritten, OnEvent, ignore
from mascot.recipe.settings import DiagnosisSettings
from mascot.reports.page import write_page
from mascot.storage.run_folder import Run, scores_folder


def build_diagnosis(probes: ProbeImages, recipe: Mapping[str, Any], *, generator: Generator, folder: Path) -> Diagnosis:
    """Name what ails a run with this recipe (nested values), and show it; files are named from `folder`."""
    measurements, task = probes.measurements(), probes.task
    triggered: set[FailureMode] = {reading.failure_mode for reading in run_checks(measurements) if reading.triggered}
    height, width = generator.size(task.knobs)
    return Diagnosis(
        name=task.name,
        subject=task.subject.words,
        base=task.base,
        weights=probes.samples.weights,
        knobs=generator.with_defaults(task.knobs).model_copy(update={"height": height, "width": width}),
        images=probes.images,
        encoders=probes.scorers.describe(),
        findings=findings_of(
            measurements,
            recipe,
            {failure_mode: EXAMPLES[failure_mode](probes, measurements, folder) for failure_mode in triggered},
        ),
        checks=checks_of(measurements),
        unseen=unseen_of(measurements),
    )


def diagnose(
    where: str | Path | Run, *, prompts: Sequence[str] | None = None, images: int | None = None, identity: str | None = None,
    clip: str | None = None, device: str = "auto", photos: Sequence[str | Path] = (), base: str | None = None,
    generator: Generator | None = None, on_event: OnEvent = ignore,
) -> Diagnosis:  # fmt: skip
    """Say what ails a trained adapter, by name, with the number and the pictures that show it and what to change.

    It draws `images` of each of a handful of prompts that reports are not made with (or of `prompts`), the class alone and the token alone,
    by the adapter and by the untouched base; pictures that are kept already are not drawn again. `diagnosis.json` and `diagnosis.html` are
    written beside the adapter. `identity` and `clip` name encoders, `photos` other photos of the subject than the run's. `generator` wears
    the adapter already. Events: `GenerationStarted`, `ImageGenerated`, `DiagnosisFinished`, `FileWritten`.

    Raises:
        UserError: the adapter, its base, the photos, the encoders or the prompts cannot be used.
    """
    adapter, path = resolve_adapter(where)
    name = str(where.folder if isinstance(where, Run) else where)
    task = plan_diagnosis(adapter, path, name=name, prompts=prompts, images=images, photos=photos, base=base)
    encoders = load_encoders(task.base, identity, clip, choose_device(device, DEVICE_REMEDY))
    applied = generator or open_generator(path, base=base, device=device)[0]
    found = diagnose_adapter(task, adapter, path, generator=applied, scorers=open_scorers(encoders), on_event=on_event)
    if generator is None:
        applied.remove_adapter()
    on_event(FileWritten(kind="report", path=scores_folder(path).diagnosis_page))
    return found


def plan_diagnosis(
    adapter: Adapter, path: Path, *, name: str, prompts: Sequence[str] | None = None, images: int | None = None,
    photos: Sequence[str | Path] = (), base: str | None = None,
) -> EvaluationTask:  # fmt: skip
    """What an adapter is asked to draw to be diagnosed."""
    recorded = adapter.manifest.recipe.get("diagnosis", {}) if adapter.manifest else {}
    noun = adapter.manifest.class_noun if adapter.manifest else None
    count = images if images is not None else DiagnosisSettings.model_validate(recorded).images
    return plan_task(
        adapter,
        path,
        name=name,
        prompts=prompts or diagnosis_prompts(noun),
        images=count,
        seed=0,
        live=None,
        photos=photos,
        base=base,
    )


def diagnose_adapter(
    task: EvaluationTask, adapter: Adapter, path: Path, *, generator: Generator, scorers: Scorers, on_event: OnEvent
) -> Diagnosis:
    """Draw what is missing, measure, and write down what ails the adapter that the generator wears."""
    place, manifest = scores_folder(path), adapter.manifest
    probes = draw_probes(task, generator, scorers, adapter=path, folder=place.evaluation, on_event=on_event)
    recipe = (
        {**manifest.recipe, "class_noun": manifest.class_noun, "knobs": task.knobs.model_dump()} if manifest else {}
    )
    found = build_diagnosis(probes, recipe, generator=generator, folder=place.folder)
    found.write(place.diagnosis)
    write_page(diagnosis_page(found, place.folder), place.diagnosis_page)
    on_event(DiagnosisFinished(verdict=found.verdict, findings=found.summaries))
    return found
