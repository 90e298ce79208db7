"""Laws of a run's folder while it is opened: one process a folder, and new names give way."""

from __future__ import annotations

from pathlib import Path

import pytest

from mascot.errors import UserError
from mascot.recipe.recipe import Recipe
from mascot.runs.opening import hold_folder, new_folder


def test_a_new_folder_that_was_taken_meanwhile_gives_way_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = Recipe.preset(photos=("owl",))
    chosen = new_folder(recipe)
    with (
        hold_folder(chosen, recipe, is_new=True) as first,
        hold_folder(chosen, recipe, is_new=True) as second,
        hold_folder(chosen, recipe, is_new=True) as third,
    ):
        for run in (first, second, third):
            run.write_text(run.recipe, "")
    assert [run.folder for run in (first, second, third)] == [Path("runs/owl"), Path("runs/owl-2"), Path("runs/owl-3")]
    with hold_folder(chosen, recipe, is_new=True) as fourth:
        assert fourth.folder == Path("runs/owl-4")
    assert not fourth.folder.exists()


def test_a_folder_that_was_named_is_refused_while_it_is_in_use(tmp_path: Path) -> None:
    recipe = Recipe.preset(photos=("owl",))
    with (
        hold_folder(tmp_path / "run", recipe, is_new=False),
        pytest.raises(UserError, match="run is in use by another mascot process; wait for it or give another --out"),
        hold_folder(tmp_path / "run", recipe, is_new=False),
    ):
        pytest.fail("two trainings in one folder")
