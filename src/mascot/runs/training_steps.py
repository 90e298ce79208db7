"""Training of a run, from its last checkpoint, step by step, with log, previews and checkpoints."""

from __future__ import annotations

from collections.abc import Generator

from mascot.errors import UserError, check_interrupted, is_out_of_memory
from mascot.progress import PreviewsWritten
from mascot.runs.export import export_adapter
from mascot.runs.inputs import check_base
from mascot.runs.previews import preview_prompts, write_previews
from mascot.runs.training_log import TrainingLog, open_log
from mascot.runs.training_run import TrainingRun
from mascot.storage.atomic_write import atomic_write
from mascot.storage.run_folder import Run, delete_old_checkpoints, step_of
from mascot.training.checkpoint import load_checkpoint, load_parameters, save_checkpoint, save_parameters, unreadable
from mascot.training.interrupts import uninterrupted
from mascot.training.loop import Step
from mascot.training.memory_estimate import REMEDIES


def begin(run: TrainingRun) -> None:
    """Attach the method and restore the last checkpoint, if there is one; no step is trained yet.

    Raises:
        UserError: the base, the memory or the checkpoint cannot be used.
    """
    check_base(run.recipe, run.family, run.spans)
    for loader in run.batch_loaders:  # encoded by the base model, whose encoders may then leave memory
        with run.time.encodes():
            _ = loader.dataset
    checkpoint = run.files.last_checkpoint()
    done = 0 if checkpoint is None else step_of(checkpoint)
    while run.index < 0 or (
        (run.span.last < done or run.span.first == run.span.last) and run.index + 1 < len(run.spans)
    ):
        run.enter(run.index + 1)
    if checkpoint is None:
        return
    for stage in range(run.span.stage):
        load_parameters(run.attached[stage], checkpoint, f"stage{stage}", unreadable(checkpoint))
    load_checkpoint(run.loop, checkpoint)


def train_steps(run: TrainingRun) -> Generator[Step]:
    """Train to the end and yield after each step.

    An interruption, or closing this generator, writes a checkpoint.
    """
    every = run.recipe.previews.every
    if every and run.loop.done == 0:
        write_step_previews(run, 0)
    with open_log(run.files, run.accelerator, done=run.loop.done) as log:
        try:
            while (step := train_one_step(run, log)) is not None:
                if every and step.number % every == 0:
                    write_step_previews(run, step.number)
                if step.number % run.recipe.training.checkpoint_every == 0 or step.number == run.steps:
                    log.flush()
                    write_checkpoint(run)
                yield step
        except (KeyboardInterrupt, GeneratorExit):
            log.flush()
            write_checkpoint(run)
            raise


def train_one_step(run: TrainingRun, log: TrainingLog) -> Step | None:
    """Train and log one step, entering the next span where one has ended; None after the last step.

    Ctrl-C and SIGTERM wait until the step is trained and logged.
    """
    check_interrupted()
    with uninterrupted():
        while run.loop.done == run.span.last and run.index + 1 < len(run.spans):
            run.loop.finish()
            run.enter(run.index + 1)
        step = next_step(run)
        if step is not None:
            log.write(step)
    return step


def next_step(run: TrainingRun) -> Step | None:
    """Train one step; None after the last one of a span.

    Raises:
        UserError: it does not fit the memory, or its loss is not a finite number.
    """
    try:
        return next(run.loop.steps(run.batches), None)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"a training step does not fit the memory; make it smaller, {REMEDIES}.") from error


def write_step_previews(run: TrainingRun, step: int) -> None:
    """Generate and write the previews of a step."""
    with run.generating():
        paths = write_previews(run.recipe, run.family, run.files, resolution=run.resolution, step=step)
    run.on_event(PreviewsWritten(step=step, paths=paths, prompts=tuple(preview_prompts(run.recipe))))


def write_checkpoint(run: TrainingRun) -> None:
    """Write a checkpoint of the present step, unless there is one; old ones are deleted."""
    if run.files.checkpoint(run.loop.done).exists():
        return
    with atomic_write(run.files.checkpoint(run.loop.done)) as temporary:
        save_checkpoint(run.loop, temporary)
        for stage in range(run.span.stage):
            save_parameters(run.attached[stage], temporary, f"stage{stage}")
        with run.loop.generating():
            export_adapter(run).write(Run(temporary).adapter)
        run.files.write_text(Run(temporary).recipe, run.recipe.to_toml())
    delete_old_checkpoints(run.files, run.recipe.checkpoints.keep)
