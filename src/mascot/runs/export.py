"""Writing what a trained run results in: the adapter, its other forms, and whole models."""

from __future__ import annotations

from mascot.adapters.adapter_file import Adapter, Manifest, join_stages
from mascot.runs.training_run import TrainingRun


def export_adapter(run: TrainingRun) -> Adapter:
    """Collect the trained weights of all stages as one `Adapter`."""
    tensors, metadata = join_stages([run.attached[stage].export() for stage in sorted(run.attached)])
    return Adapter(tensors=tensors, metadata=metadata, manifest=make_manifest(run, run.method.name))


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
        recipe=recipe.model_dump(mode="json", exclude={"photos", "device"}),
    )


def write_companions(run: TrainingRun) -> list[tuple[str, str]]:
    """Write the other forms of the adapter, and whole models if the method changes the base.

    Returns facts about them for the report, as names and values.
    """
    rows: list[tuple[str, str]] = []
    for number, attached in sorted(run.attached.items()):
        suffix = f"_{number + 1}" if number else ""
        for name, companion in attached.companions().items():
            manifest = make_manifest(run, companion.method) if companion.method and not number else None
            adapter = Adapter(tensors=companion.tensors, metadata=companion.metadata, manifest=manifest)
            adapter.write(run.files.companion(f"{name}{suffix}"))
            rows += companion.facts
        # A run that is finished again ends in the same model.
        if attached.changes_base and not run.files.model(suffix).exists():
            run.family.stages[number].save(run.files.model(suffix))
    return rows
