"""Writing what a trained run results in: the adapter, its other forms, and whole models."""

from __future__ import annotations

from pathlib import Path

from mascot.adapters.adapter_file import Adapter, Manifest, join_stages
from mascot.errors import UserError
from mascot.runs.training_run import TrainingRun
from mascot.storage.run_folder import delete_model


def export_adapter(run: TrainingRun) -> Adapter:
    """Collect the weights of all stages, as trained so far, as one `Adapter`."""
    tensors, metadata = join_stages([run.attached[stage].export() for stage in sorted(run.attached)])
    return Adapter(tensors=tensors, metadata=metadata, manifest=make_manifest(run, run.span.phase.name))


def make_manifest(run: TrainingRun, method: str) -> Manifest:
    """Describe a run's adapter for its file; `method` names the one that restores it."""
    recipe = run.recipe
    return Manifest(
        method=method,
        base=recipe.base,
        base_identity=run.family.identity,
        token=recipe.subject.token,
        class_noun=recipe.class_noun,
        resolution=run.resolution,
        step=run.loop.done if run.kept_step is None else run.kept_step,
        recipe=recipe.model_dump(mode="json", exclude={"photos", "device", "start_from"}),
    )


def holds_same_weights(path: Path, adapter: Adapter) -> bool:
    """Tell whether an adapter file holds the tensors of an adapter already."""
    try:
        before = Adapter.read(path).tensors
    except UserError:  # there is none, or half of one
        return False
    names = before.keys() == adapter.tensors.keys()
    return names and all(before[key].equal(tensor) for key, tensor in adapter.tensors.items())


def write_companions(run: TrainingRun, adapter: Adapter) -> list[tuple[str, str]]:
    """Write the other forms of the adapter, and whole models if the method changes the base.

    A model that holds the weights of the adapter already, which is written after it, is kept.

    Returns facts about them for the report, as names and values.
    """
    rows: list[tuple[str, str]] = []
    finished = holds_same_weights(run.files.adapter, adapter)
    for number, attached in sorted(run.attached.items()):
        suffix = f"_{number + 1}" if number else ""
        for name, companion in attached.companions().items():
            manifest = make_manifest(run, companion.method) if companion.method and not number else None
            other = Adapter(tensors=companion.tensors, metadata=companion.metadata, manifest=manifest)
            other.write(run.files.companion(f"{name}{suffix}"))
            rows += companion.facts
        if attached.changes_base and not (finished and run.files.model(suffix).exists()):
            delete_model(run.files, suffix)
            run.family.stages[number].save(run.files.model(suffix))
    return rows
