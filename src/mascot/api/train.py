"""`train`: train a base model on the photos of one subject."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path

from mascot.adapters.adapter_file import Adapter
from mascot.api.diagnose import diagnose
from mascot.api.training_report import write_training_report
from mascot.data.encoding_cache import EncodingCache
from mascot.errors import UserError, check_interrupted
from mascot.evaluation.command_time import TimedPart, describe_command_time, time_of_images
from mascot.evaluation.diagnosis.findings import Diagnosis
from mascot.evaluation.selection.token_choice import choose_token
from mascot.evaluation.selection.validation import Validation, with_knobs
from mascot.experiments.base_pool import base_pool
from mascot.generation.generator import Generator
from mascot.generation.read_back import TrainedImage, read_back
from mascot.generation.stack.applied_stack import NoEffectError
from mascot.progress import (
    CheckpointChosen,
    DiagnosisFailed,
    Event,
    FileWritten,
    KnobsChosen,
    OnEvent,
    SettingsResolved,
    StepTrained,
    ignore,
)
from mascot.protocols import Family
from mascot.recipe.recipe import Recipe
from mascot.runs.effective_settings import TIME
from mascot.runs.export import Companions, export_adapter
from mascot.runs.opening import open_training_run
from mascot.runs.training_run import TrainingRun
from mascot.runs.training_steps import train_steps
from mascot.storage.atomic_write import atomic_write
from mascot.storage.run_folder import Run


def train(
    recipe: Recipe,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    on_event: OnEvent = ignore,
    report: bool = True,
    family: Family | None = None,
    encodings: EncodingCache | None = None,
    until: int | None = None,
) -> Run:
    """Train a recipe and write the adapter and its report; returns the run's folder.

    `out` is that folder, by default a new one under `runs/`. `resume` goes on with an interrupted
    run: its adapter has the same bytes as if it had never stopped. It may change settings that the
    steps so far do not depend on (`recipe.changes.MAY_CHANGE`); more steps extend the run. Without
    a token in the recipe, one is chosen (see `choose_token`). `family` is the recipe's base if it
    is loaded already; it comes back unchanged. `encodings` caches latents and text embeddings over
    several runs on one base. With `until`, training ends after that step.

    Events, in order: `PhotosRead`, `TokenSearchStarted`, `ClassImagesStarted`, `SettingsResolved`,
    `StepTrained` with `PreviewsWritten` and `CheckpointValidated` between them,
    `CheckpointChosen`, `AdapterReadBack`, `KnobsChosen`, `GenerationStarted` and
    `ImageGenerated` of the diagnosis, `DiagnosisFinished` or `DiagnosisFailed`, `FileWritten`.

    Raises:
        UserError: anything that the user can mend; no file that was there is lost.
    """
    choose = partial(choose_token, on_event=on_event)
    opened = partial(open_training_run, recipe, out, resume=resume, on_event=on_event, measures=report)
    with opened(choose_token=choose, family=family, encodings=encodings) as run:
        validation = Validation.plan(run)
        run_steps(run, validation, until)
        adapter, generator = choose_result(run, validation)
        if report:
            write_training_report(run, adapter, generator, diagnose_run(run, generator))
            on_event(FileWritten(kind="report", path=run.files.report))
        generator.remove_adapter()
    return run.files


def run_steps(run: TrainingRun, validation: Validation, until: int | None = None) -> None:
    """Train to the end, until validation stops early, or until a step."""
    if run.time.forward_pass is not None:
        run.settings = [
            (name, command_time(run, validation) if name == TIME else value) for name, value in run.settings
        ]
    run.on_event(SettingsResolved(rows=tuple(run.settings), steps=run.steps, selection_images=validation.images))
    if not validation.begin() and (until is None or run.loop.done < until):
        with closing(train_steps(run)) as steps:
            for step in steps:
                run.on_event(StepTrained(step=step.number, loss=step.loss, subject_loss=step.subject_loss))
                if validation.after_step(step.number) or step.number == until:
                    break
    run.finish()


def command_time(run: TrainingRun, validation: Validation) -> str:
    """Estimate the time of the whole command, of which the first part is over."""
    training = TimedPart("training", run.time.training)
    parts = [TimedPart("so far", run.time.so_far), training, *time_of_images(run, validation)]
    return describe_command_time(parts)


def choose_result(run: TrainingRun, validation: Validation) -> tuple[Adapter, Generator]:
    """Keep the best checkpoint, then the best knobs, and write the adapter.

    Returns the adapter, and a generator that has its file applied.
    """
    reason = validation.restore_best()
    run.on_event(CheckpointChosen(reason=reason))
    adapter, companions = export_adapter(run), Companions.collect(run)
    trained = TrainedImage.generate(Generator(run.family), run.recipe.subject, run.resolution)
    run.settings += [("checkpoint", reason), *companions.facts]
    run.detach()
    generator = apply_trained(run, adapter)
    recommendation = validation.recommend(generator)
    adapter = with_knobs(adapter, recommendation)
    with atomic_write(run.files.adapter) as temporary:
        adapter.write(temporary)
        found = read_back(temporary, generator, trained)
        companions.write(run, adapter)
    run.on_event(found)
    run.settings += found.rows
    if recommendation is not None:
        run.on_event(KnobsChosen(reason=recommendation.reason))
        run.settings.append(("knobs", recommendation.reason))
    return adapter, generator


def apply_trained(run: TrainingRun, adapter: Adapter) -> Generator:
    """Apply a run's adapter to its base.

    Raises:
        UserError: the adapter changes nothing.
    """
    try:
        return Generator(run.family, adapter, on_event=run.on_event)
    except NoEffectError as error:
        raise UserError(
            f"the adapter changes nothing after {run.loop.done} steps, as every layer's change is 0, so it is not "
            f"written, and {run.files.folder} keeps its checkpoints; train again with higher learning rates, with "
            "another --out."
        ) from error


def diagnose_run(run: TrainingRun, generator: Generator) -> Diagnosis | str:
    """Diagnose a run whose adapter the generator has applied.

    Returns a sentence where the diagnosis fails, since the adapter is useful without one, and an
    empty text where the recipe switches it off.
    """
    settings, selection = run.recipe.diagnosis, run.recipe.selection
    if not settings.active:
        return ""

    def forward(event: Event) -> None:
        if not isinstance(event, FileWritten):  # the run has one report, its own
            run.on_event(event)

    try:
        return diagnose(
            run.files,
            identity=selection.identity,
            clip=selection.clip,
            device=run.recipe.device,
            generator=generator,
            on_event=forward,
        )
    except UserError as error:
        check_interrupted()
        failed = DiagnosisFailed(reason=f"The run could not be diagnosed: {error}")
        run.on_event(failed)
        return failed.reason


def train_on_pooled_base(recipe: Recipe, folder: Path) -> Run:
    """Train a recipe into a folder, or resume it there, on a pooled base and without a report."""
    pool = base_pool()
    with pool.lend(recipe) as family:
        resume = Run(folder).recipe.exists()
        return train(recipe, out=folder, resume=resume, report=False, family=family, encodings=pool.encodings)
