"""A run that validates can be extended, also where it stopped early; stages that ended cannot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mascot.errors import UserError
from mascot.recipe.recipe import Recipe
from mascot.runs.resumed_recipe import check_length
from mascot.storage.run_folder import Run
from runs.conftest import Mascot, Train
from tiny.encoders import tiny_clip, tiny_identity


def validated(run: Run) -> list[int]:
    selector = json.loads(run.selection.read_text(encoding="utf-8"))["selector"]
    return [result["step"] for result in selector["results"]]


@pytest.mark.slow
def test_what_was_validated_stays_a_candidate_of_an_extended_run(mascot: Mascot, train: Train, tmp_path: Path) -> None:
    settings = (
        "selection.active=true",
        f"selection.identity={tiny_identity(tmp_path / 'identity')}",
        f"selection.clip={tiny_clip(tmp_path / 'clip')}",
        "selection.checkpoints=2",
        "selection.knobs=false",
        "selection.cost=100",
    )
    run = Run(train(tmp_path / "run", "--steps", 4, settings=settings))
    assert validated(run) == [2, 4]
    code, printed = mascot("train", "--resume", "--out", run.folder, "--steps", "8")
    assert code == 0, printed
    assert validated(run) == [2, 4, 8]
    best = next((run.folder / "best").iterdir())
    (best / "stage0.safetensors").write_bytes(b"damaged")
    code, sentence = mascot("train", "--resume", "--out", run.folder)
    assert (code, f"delete {run.selection}" in sentence) == (2, True)
    run.selection.unlink()
    code, printed = mascot("train", "--resume", "--out", run.folder)
    assert code == 0, printed
    assert validated(run) == [8]
    run.selection.write_text("{}", encoding="utf-8")
    code, sentence = mascot("train", "--resume", "--out", run.folder)
    assert (code, f"{run.selection} is damaged; delete it" in sentence) == (2, True)
    run.selection.unlink()
    assert mascot("train", "--resume", "--out", run.folder)[0] == 0


@pytest.mark.parametrize(
    ("done", "steps", "said"),
    [
        (3, 8, ""),
        (3, 3, ""),
        (3, 2, "give 3 or more"),
        (4, 8, ""),
        (5, 8, "past step 4"),
        (5, 3, "past step 4"),
        (8, 4, ""),
    ],
)
def test_the_length_of_a_run_of_two_stages(finished: Run, tmp_path: Path, done: int, steps: int, said: str) -> None:
    """Four steps a stage so far: a stage that has ended keeps its steps."""
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    shutil.copy(finished.recipe, run.recipe)
    run.checkpoint(done).mkdir(parents=True)
    before = Recipe.read(run.recipe)
    recipe = before.model_copy(update={"training": before.training.model_copy(update={"steps": steps})})
    if said:
        with pytest.raises(UserError, match=said):
            check_length(run, before.model_dump(), recipe, 2)
    else:
        check_length(run, before.model_dump(), recipe, 2)
