"""`diagnose`: name the failure modes of a trained run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mascot.adapters.adapter_file import Adapter
from mascot.errors import UserError
from mascot.evaluation.diagnosis.checks import FailureMode, run_checks
from mascot.evaluation.diagnosis.diagnosis_page import diagnosis_page
from mascot.evaluation.diagnosis.example_images import EXAMPLES
from mascot.evaluation.diagnosis.findings import (
    Diagnosis,
    ExampleStrip,
    check_results,
    join_diagnoses,
    list_findings,
    unavailable_checks,
)
from mascot.evaluation.diagnosis.probe_images import ProbeImages, diagnosis_prompts, generate_probes
from mascot.evaluation.evaluation_task import EvaluationTask, plan_joint_task, plan_tasks
from mascot.evaluation.evaluator import Scorers, open_scorers
from mascot.evaluation.metrics.default_encoders import load_encoders, named_encoders
from mascot.generation.generator import Generator
from mascot.generation.loading import DEVICE_REMEDY, open_generator, resolve_adapter
from mascot.models.devices import choose_device
from mascot.progress import DiagnosisFinished, FileWritten, OnEvent, ignore
from mascot.recipe.settings import DiagnosisSettings
from mascot.reports.page import write_page
from mascot.storage.run_folder import Run, scores_folder


def diagnose(
    run: str | Path | Run,
    *,
    prompts: Sequence[str] | None = None,
    images: int | None = None,
    identity: str | None = None,
    clip: str | None = None,
    device: str = "auto",
    photos: Sequence[str | Path] = (),
    base: str | None = None,
    generator: Generator | None = None,
    on_event: OnEvent = ignore,
) -> Diagnosis:
    """Name the failure modes of a run or an adapter file, with their numbers, images and remedies.

    Generates `images` of each of the diagnosis prompts (or of `prompts`), of the class alone and
    of the token alone, with and without the adapter; cached images are used again. Writes
    `diagnosis.json` and `diagnosis.html` beside the adapter. `identity` and `clip` name encoders,
    by default those of the run's recipe. `photos` replaces the run's photos, `base` the base that
    the adapter names. A `generator` that is given has the adapter applied already, and keeps it.
    Events: `GenerationStarted`, `ImageGenerated`, `DiagnosisFinished`, `FileWritten`.

    Raises:
        UserError: the adapter, its base, the photos, the encoders or the prompts cannot be used.
    """
    adapter, path = resolve_adapter(run)
    tasks = plan_diagnosis(adapter, path, name=name_of(run), prompts=prompts, images=images, photos=photos, base=base)
    scorers = load_scorers(tasks[0], adapter, identity=identity, clip=clip, device=device)
    applied = generator or open_generator(path, base=base, device=device)[0]
    diagnosis = diagnose_adapter(tasks, adapter, path, generator=applied, scorers=scorers, on_event=on_event)
    if generator is None:
        applied.remove_adapter()
    on_event(FileWritten(kind="report", path=scores_folder(path).diagnosis_page))
    return diagnosis


def name_of(run: str | Path | Run) -> str:
    """Name a run in tables: its folder or file, as the caller wrote it."""
    return str(run.folder if isinstance(run, Run) else run)


def load_scorers(
    task: EvaluationTask, adapter: Adapter, *, identity: str | None, clip: str | None, device: str
) -> Scorers:
    """Load what scores an adapter's images; encoders that are None are those of its recipe.

    Raises:
        UserError: an encoder or the device cannot be used.
    """
    names = named_encoders(adapter.manifest.recipe if adapter.manifest else {}, identity, clip)
    return open_scorers(load_encoders(task.base, **names, device=choose_device(device, DEVICE_REMEDY)))


def plan_diagnosis(
    adapter: Adapter,
    path: Path,
    *,
    name: str,
    prompts: Sequence[str] | None = None,
    images: int | None = None,
    photos: Sequence[str | Path] = (),
    base: str | None = None,
) -> tuple[EvaluationTask, ...]:
    """Plan which images of an adapter's subjects are generated for a diagnosis.

    Prompts default to the diagnosis prompts of a class noun, `images` to the run's recipe.

    Raises:
        UserError: see `plan_tasks`; or a prompt names all of several subjects.
    """
    manifest = adapter.manifest
    recorded = manifest.recipe.get("diagnosis", {}) if manifest else {}
    count = images if images is not None else int(recorded.get("images", DiagnosisSettings().images))
    tasks = plan_tasks(
        adapter,
        path,
        name=name,
        prompts=prompts or None,
        images=count,
        seed=0,
        live=None,
        photos=photos,
        base=base,
        own_prompts=lambda subject: diagnosis_prompts(subject.class_noun),
    )
    joint = plan_joint_task(tasks, prompts) if prompts else None
    if joint is not None:
        raise UserError(
            f"the prompt {joint.templates[0]!r} names all subjects, and a diagnosis is of each alone; score it with "
            "`mascot evaluate --prompt`."
        )
    return tasks


def diagnose_adapter(
    tasks: Sequence[EvaluationTask],
    adapter: Adapter,
    path: Path,
    *,
    generator: Generator,
    scorers: Scorers,
    on_event: OnEvent,
) -> Diagnosis:
    """Generate the missing images of a diagnosis, run its checks, and write its files.

    There is a task for each subject. The generator has the adapter applied; `path` is its file.
    """
    files, nouns = scores_folder(path), [task.subject.class_noun for task in tasks]
    parts: list[Diagnosis] = []
    for task in tasks:
        probes = generate_probes(task, generator, scorers, adapter=path, folder=files.evaluation, on_event=on_event)
        recipe: dict[str, object] = {}
        if adapter.manifest is not None:
            noun = None if None in nouns else task.subject.class_noun
            recipe = {**adapter.manifest.recipe, "class_noun": noun, "class_nouns": nouns}
            recipe["knobs"] = task.knobs.model_dump()
        parts.append(build_diagnosis(probes, recipe, generator=generator, folder=files.folder))
    diagnosis = parts[0] if len(parts) == 1 else join_diagnoses(parts, [str(task.subject.name) for task in tasks])
    diagnosis.write(files.diagnosis)
    write_page(diagnosis_page(diagnosis, files.folder), files.diagnosis_page)
    on_event(DiagnosisFinished(verdict=diagnosis.verdict, findings=diagnosis.summaries))
    return diagnosis


def build_diagnosis(
    probes: ProbeImages, recipe: Mapping[str, object], *, generator: Generator, folder: Path
) -> Diagnosis:
    """Run all checks on measured images, and attach example images and remedies to what they find.

    `recipe` holds the run's settings as nested values. File names are relative to `folder`.
    """
    measurements, task = probes.measurements(), probes.task
    height, width = generator.size(task.knobs)
    triggered: set[FailureMode] = {check.failure_mode for check in run_checks(measurements) if check.triggered}
    examples: dict[FailureMode, Sequence[ExampleStrip]] = {
        mode: EXAMPLES[mode](probes, measurements, folder) for mode in triggered
    }
    return Diagnosis(
        name=task.name,
        subject=task.subject.words,
        base=task.base,
        weights=probes.samples.weights,
        knobs=generator.with_defaults(task.knobs).model_copy(update={"height": height, "width": width}),
        images=probes.count,
        encoders=probes.scorers.describe(),
        findings=list_findings(measurements, recipe, examples),
        checks=check_results(measurements),
        unavailable=unavailable_checks(measurements),
    )
