"""List the runs of a library with what a person asks of each: image, scores, diagnosis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from mascot.data.photos import collect_photos
from mascot.errors import UserError
from mascot.evaluation.diagnosis.findings import Diagnosis
from mascot.evaluation.scores import METRICS, Scores
from mascot.recipe.overrides import read_toml
from mascot.storage.run_folder import Run, kept_steps

SHOWN: Final = ("identity", "clip_t", "diversity", "copying")
"""The scores of a summary, as `METRICS` names them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What a library shows of one run."""

    name: str
    run: Run
    finished: bool
    """Whether it has an adapter; else it can be resumed."""
    subject: str
    """Token and class noun, as far as the recipe says them."""
    base: str
    method: str
    steps: int
    kept: tuple[int, ...]
    """Steps whose checkpoints hold an adapter."""
    changed: float
    """When its recipe was written, in seconds since 1970."""
    image: Path | None
    """Its last preview."""
    scores: Mapping[str, float]
    """Title of a metric -> mean; empty where the run was not evaluated."""
    verdict: str
    """The diagnosis in a sentence; empty where there is none."""
    severity: str
    """`serious`, `warning` or `note` of the worst finding, or empty."""


def list_runs(library: Path) -> list[RunSummary]:
    """List the runs of a library, the newest first; what is no run, or unreadable, is left out."""
    found: list[RunSummary] = []
    for folder in sorted(library.iterdir()) if library.is_dir() else ():
        if folder.name.startswith(".") or folder.is_symlink() or not Run(folder).recipe.is_file():
            continue
        try:
            found.append(summarize(Run(folder)))
        except UserError:
            continue
    return sorted(found, key=lambda one: -one.changed)


def summarize(run: Run) -> RunSummary:
    """Summarize a run.

    Raises:
        UserError: its recipe cannot be read.
    """
    recipe = read_toml(run.recipe)
    previews = run.previews()
    diagnosis = read_diagnosis(run)
    return RunSummary(
        name=run.folder.name,
        run=run,
        finished=run.adapter.is_file(),
        subject=subject_text(recipe),
        base=str(recipe.get("base", "")),
        method=str(section(recipe, "method").get("name", "")),
        steps=int(str(section(recipe, "training").get("steps", 0))),
        kept=tuple(kept_steps(run)),
        changed=run.recipe.stat().st_mtime,
        image=previews[max(previews)][0] if previews else None,
        scores=mean_scores(run),
        verdict=diagnosis.verdict if diagnosis else "",
        severity=diagnosis.findings[0].severity if diagnosis and diagnosis.findings else "",
    )


def section(recipe: Mapping[str, object], name: str) -> Mapping[str, object]:
    """Return a section of a recipe's nested values; empty where there is none."""
    found = recipe.get(name)
    return cast("Mapping[str, object]", found) if isinstance(found, Mapping) else {}


def subject_text(recipe: Mapping[str, object]) -> str:
    """Write the subjects of a recipe: token and class noun of each."""
    tables = recipe.get("subject")
    several = cast("Sequence[Mapping[str, object]]", tables) if isinstance(tables, list) else [recipe]
    words = [[str(one.get(key, "")) for key in ("token", "class_noun")] for one in several]
    return " and ".join(" ".join(word for word in pair if word not in {"", "none"}) for pair in words)


def mean_scores(run: Run) -> dict[str, float]:
    """Read the means of a run's scores by title; empty where it was not evaluated."""
    if not run.scores.exists():
        return {}
    try:
        values = Scores.read(run.scores).values
    except UserError:
        return {}
    found = {METRICS[name].title: values[name].value for name in SHOWN if name in values}
    return {title: value for title, value in found.items() if value is not None}


def read_diagnosis(run: Run) -> Diagnosis | None:
    """Read a run's diagnosis; None where there is none that this version reads."""
    try:
        return Diagnosis.read(run.diagnosis) if run.diagnosis.exists() else None
    except UserError:
        return None


def photos_of(run: Run) -> list[Path]:
    """List the photos of a run that are still where they were; there may be none."""
    recipe = read_toml(run.recipe)
    tables = recipe.get("subject")
    several = cast("Sequence[Mapping[str, object]]", tables) if isinstance(tables, list) else [recipe]
    named = [str(path) for one in several for path in cast("Sequence[object]", one.get("photos") or ())]
    try:
        return [photo.path for photo in collect_photos([Path(path) for path in named]).photos]
    except UserError:
        return []
