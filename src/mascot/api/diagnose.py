"""TODO api.diagnose."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mascot.evaluation.diagnosis.checks import Ailment, readings
from mascot.evaluation.diagnosis.example_images import EXHIBITS
from mascot.evaluation.diagnosis.findings import Diagnosis, checks_of, findings_of, unseen_of
from mascot.evaluation.diagnosis.probe_images import Symptoms
from mascot.generation.generator import Generator


def build_diagnosis(symptoms: Symptoms, recipe: Mapping[str, Any], *, generator: Generator, folder: Path) -> Diagnosis:
    """Name what ails a run with this recipe (nested values), and show it; files are named from `folder`."""
    evidence, task = symptoms.evidence(), symptoms.task
    ill: set[Ailment] = {reading.ailment for reading in readings(evidence) if reading.ill}
    height, width = generator.size(task.knobs)
    return Diagnosis(
        name=task.name,
        subject=task.subject.words,
        base=task.base,
        weights=symptoms.drawn.weights,
        knobs=generator.settle(task.knobs).model_copy(update={"height": height, "width": width}),
        pictures=symptoms.pictures,
        judges=symptoms.referee.describe(),
        findings=findings_of(evidence, recipe, {ailment: EXHIBITS[ailment](symptoms, evidence, folder) for ailment in ill}),
        checks=checks_of(evidence),
        unseen=unseen_of(evidence),
    )
