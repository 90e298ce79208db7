"""Writing what a trained run results in: the adapter, its other forms, and whole models."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mascot.adapters.adapter_file import Adapter, Manifest, SubjectRecord, join_stages
from mascot.adapters.headers.adapter_facts import AdapterFacts, architecture_in
from mascot.errors import UserError
from mascot.protocols import Stage, Subject
from mascot.runs.training_run import TrainingRun
from mascot.storage.run_folder import delete_model


def export_adapter(run: TrainingRun) -> Adapter:
    """Collect the weights of all stages, as trained so far, as one `Adapter`."""
    tensors, metadata = join_stages([run.attached[stage].export() for stage in sorted(run.attached)])
    header = adapter_facts(run).header(tensors, metadata, to="diffusers")
    return Adapter(tensors=tensors, metadata=metadata | header, manifest=make_manifest(run, run.span.phase.name))


def adapter_facts(run: TrainingRun, only: Subject | None = None) -> AdapterFacts:
    """Say what other tools read in the header of a run's file; two runs of one recipe say the same.

    So there is no date, and no name of the run's folder. `only` is the subject of a file that does
    not hold the run's other ones.
    """
    subjects = run.recipe.subject.all if only is None else [only]
    counts = Counter(photo.subject for photo in run.photos.photos)
    known = {one.token: counts[number] for number, one in enumerate(run.recipe.subject.all)}
    words = " and ".join(one.words for one in subjects)
    base = Path(run.recipe.base).name
    return AdapterFacts(
        architecture=architecture_in(run.family.name, text_width(run.family.stages[0])),
        family=run.family.name,
        resolution=(run.resolution, run.resolution),
        title=f"{words} ({base})",
        output_name="_".join(re.findall(r"\w+", words)),
        triggers={one.words: known[one.token] for one in subjects},
        description=f"Trained on {counts.total()} photos to show {words} on {base}, by mascot.",
        prediction=getattr(run.family.stages[0].objective, "prediction", None),
    )


def text_width(stage: Stage) -> int | None:
    """Return the width of the text embeddings that a denoiser reads; None where it does not say."""
    width = getattr(getattr(stage.parts[stage.denoiser], "config", None), "cross_attention_dim", None)
    return width if isinstance(width, int) else None


def make_manifest(run: TrainingRun, method: str, only: Subject | None = None) -> Manifest:
    """Describe a run's adapter for its file; `method` names the one that restores it.

    `only` is the subject of a file that does not hold the run's other ones.
    """
    recipe, subject = run.recipe, only or run.recipe.subject
    return Manifest(
        method=method,
        base=recipe.base,
        base_identity=run.family.identity,
        token=subject.token,
        class_noun=subject.class_noun,
        resolution=run.resolution,
        step=run.loop.done if run.kept_step is None else run.kept_step,
        recipe=recipe.model_dump(
            mode="json", exclude={"photos": True, "device": True, "start_from": True, "tables": {"__all__": {"photos"}}}
        ),
        subjects=tuple(
            SubjectRecord(name=one.name, token=one.token, class_noun=one.class_noun)
            for one in ([only] if only is not None else recipe.subject.all)
            if one.name is not None
        ),
    )


def holds_same_weights(path: Path, adapter: Adapter) -> bool:
    """Tell whether an adapter file holds the tensors of an adapter already."""
    try:
        before = Adapter.read(path).tensors
    except UserError:  # there is none, or half of one
        return False
    names = before.keys() == adapter.tensors.keys()
    return names and all(before[key].equal(tensor) for key, tensor in adapter.tensors.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Companions:
    """The other forms of a run's adapter, which are written once the adapter is proven."""

    files: Mapping[str, Adapter]
    """File name, without its ending, to content."""
    models: tuple[int, ...]
    """Indices of the stages whose whole base is written too, as the method changes it."""
    facts: tuple[tuple[str, str], ...]
    """Names and values for the report."""

    @classmethod
    def collect(cls, run: TrainingRun) -> Companions:
        """Collect the companions of all stages, while their methods are attached."""
        files: dict[str, Adapter] = {}
        facts: list[tuple[str, str]] = []
        for number, attached in sorted(run.attached.items()):
            for name, companion in attached.companions().items():
                described = companion.method is not None and not number
                manifest = make_manifest(run, str(companion.method), companion.subject) if described else None
                known = adapter_facts(run, companion.subject)
                header = known.header(companion.tensors, companion.metadata, to="diffusers")
                metadata = {**companion.metadata, **header}
                other = Adapter(tensors=companion.tensors, metadata=metadata, manifest=manifest)
                files[f"{name}{suffix_of(number)}"] = other
                facts += companion.facts
        models = tuple(number for number, attached in sorted(run.attached.items()) if attached.changes_base)
        return cls(files=files, models=models, facts=tuple(facts))

    def write(self, run: TrainingRun, adapter: Adapter) -> None:
        """Write the files, and the models with the weights that the base has now.

        A model that holds the weights of the adapter already, which is written after it, is kept.
        """
        for name, other in self.files.items():
            other.write(run.files.companion(name))
        finished = bool(self.models) and holds_same_weights(run.files.adapter, adapter)
        for number in self.models:
            suffix = suffix_of(number)
            if not (finished and run.files.model(suffix).exists()):
                delete_model(run.files, suffix)
                run.family.stages[number].save(run.files.model(suffix))


def suffix_of(stage: int) -> str:
    """Return what the names of a stage's files end in; nothing for the first stage."""
    return f"_{stage + 1}" if stage else ""
