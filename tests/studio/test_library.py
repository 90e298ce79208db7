"""Laws of the library: names are never paths, what is deleted comes back, votes add up."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mascot.api.library.changes import check_name, delete_run, find_run, list_trash, rename_run, restore_run
from mascot.api.library.curves import looks_of, losses_of, smooth
from mascot.api.library.lineage import trace
from mascot.api.library.listing import list_runs, photos_of
from mascot.api.library.matrix import read_axis
from mascot.api.library.recipe_form import RecipeForm, preset_fields, recipe_from, settings_text_of
from mascot.api.library.votes import VoteBox, sum_votes, wilson
from mascot.errors import UserError
from mascot.progress import StepTrained
from mascot.recipe.recipe import Recipe
from mascot.storage.run_folder import Run
from tiny.photos import noise


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Two runs whose recipes differ in two settings, the older one with a preview."""
    (tmp_path / "photos").mkdir()
    noise(64, 64).save(tmp_path / "photos" / "1.png")
    for number, (name, overrides) in enumerate({"first": [], "second": ["training.steps=7", "seed=3"]}.items()):
        run = Run(tmp_path / "runs" / name)
        recipe = Recipe.preset(photos=[str(tmp_path / "photos")], class_noun="owl", overrides=overrides)
        run.write_text(run.recipe, recipe.to_toml())
        os.utime(run.recipe, (number, number))
    first = Run(tmp_path / "runs" / "first")
    first.preview(20, 0).parent.mkdir()
    noise(16, 16).save(first.preview(20, 0))
    return tmp_path / "runs"


def test_runs_are_listed_the_newest_first(library: Path) -> None:
    (library / "no run").mkdir()
    (library / ".studio").mkdir()
    (library / "linked").symlink_to(library / "first")
    newest, oldest = list_runs(library)
    assert (newest.name, newest.steps, newest.finished, newest.image) == ("second", 7, False, None)
    assert oldest.image == oldest.run.preview(20, 0)
    assert [path.name for path in photos_of(oldest.run)] == ["1.png"]


def test_a_damaged_run_does_not_hide_the_others(library: Path) -> None:
    (library / "first" / "recipe.toml").write_text("= 1", encoding="utf-8")
    assert [one.name for one in list_runs(library)] == ["second"]


def test_the_lineage_names_what_was_changed(library: Path) -> None:
    runs = list_runs(library)
    found = trace(runs[0], runs)
    assert found.parent == "first"
    assert {key: (before, now) for key, before, now in found.changes} == {
        "seed": ("0", "3"),
        "training.steps": ("400", "7"),
    }
    assert not trace(runs[1], runs).parent


def test_what_is_deleted_comes_back(library: Path) -> None:
    place = delete_run(library, "first")
    assert [one.name for one in list_runs(library)] == ["second"]
    assert list_trash(library) == [(place, "first")]
    rename_run(library, "second", "first")
    assert restore_run(library, place).folder.name == "first-2"
    assert list_trash(library) == []
    with pytest.raises(UserError, match="not in the trash"):
        restore_run(library, place)


def test_a_run_that_is_used_is_not_deleted(library: Path) -> None:
    with Run(library / "first").locked(), pytest.raises(UserError, match="in use"):
        delete_run(library, "first")


@pytest.mark.parametrize(
    "name", ["", "  ", "..", "a/b", "../first", ".trash", "a\0b", "x" * 81, "/etc", "a\\b", "first."]
)
def test_no_name_is_a_path(library: Path, name: str) -> None:
    for act in (find_run, delete_run):
        with pytest.raises(UserError):
            act(library, name)
    with pytest.raises(UserError):
        rename_run(library, "first", name)


@given(st.text(max_size=12))
def test_every_name_that_is_accepted_stays_in_its_folder(name: str) -> None:
    try:
        accepted = check_name(name)
    except UserError:
        return
    assert Path("library", accepted).parent == Path("library")
    assert Path("library", accepted).name == accepted
    assert not accepted.startswith(".")


def test_a_taken_name_is_refused(library: Path) -> None:
    with pytest.raises(UserError, match="already"):
        rename_run(library, "first", "second")


def test_the_loss_comes_from_the_log_and_from_newer_events(library: Path) -> None:
    run = Run(library / "first")
    rows = [{"step": step, "loss": 1.0, "subject_loss": float(step)} for step in (1, 2)]
    run.steps.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    events = [StepTrained(step=3, loss=1, subject_loss=9), StepTrained(step=4, loss=1, subject_loss=math.nan)]
    assert losses_of(run, events) == [(1, 1.0), (2, 2.0), (3, 9.0)]
    assert smooth([(1, 0.0), (2, 3.0), (3, 3.0)]) == [(1, 1.5), (2, 2.0), (3, 3.0)]
    assert looks_of(run) == []


def test_a_form_becomes_a_recipe_and_its_settings_win(library: Path) -> None:
    photos = library.parent / "photos"
    form = RecipeForm(
        class_noun=" owl ", effort="quick", masked=0.2, settings="[training]\nbatch_size = 2\n[method]\nrank = 3"
    )
    recipe = recipe_from(form, photos)
    assert (recipe.class_noun, recipe.training.steps, recipe.training.batch_size) == ("owl", 100, 2)
    assert recipe.method.model_dump()["rank"] == 3
    assert recipe.dataset.masked == 0.2
    assert preset_fields("starter", "lora", "thorough") == {"steps": 800, "rate": 1e-3, "every": 100}
    assert (
        recipe_from(RecipeForm(class_noun="owl", steps=5, settings="[training]\nsteps=9"), photos).training.steps == 9
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [("steps = ", "not TOML"), ("photos = ['/etc']", "field of its own"), ("[training]\nstepz = 1", "stepz")],
)
def test_a_mistake_in_the_settings_is_named(library: Path, settings: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        recipe_from(RecipeForm(class_noun="owl", settings=settings), library.parent / "photos")


def test_the_settings_of_a_run_fill_the_form_of_the_next(library: Path) -> None:
    form, settings = settings_text_of(Run(library / "second"), ["method.rank=8"])
    assert (form.class_noun, form.base) == ("owl", "starter")
    assert (form.steps, form.seed) == (7, 3)
    assert "steps" not in settings
    again = recipe_from(replace(form, settings=settings), library.parent / "photos")
    assert (again.training.steps, again.seed, again.method.model_dump()["rank"]) == (7, 3, 8)


@pytest.mark.parametrize(("axis", "values"), [("guidance", "1, x"), ("seed", "1.5"), ("photos", "1"), ("seed", " , ")])
def test_an_axis_that_cannot_be_read_is_refused(axis: str, values: str) -> None:
    with pytest.raises(UserError):
        read_axis(axis, values)


def test_votes_add_up_whichever_side_a_run_stood_on(tmp_path: Path) -> None:
    box = VoteBox(tmp_path / "votes.jsonl")
    for left, right, choice in (
        ("a", "b", "left"),
        ("b", "a", "right"),
        ("b", "a", "left"),
        ("a", "b", "alike"),
        ("a", "c", "left"),
    ):
        box.cast(left, right, choice, prompt="<b>", seed=1)
    found = VoteBox(tmp_path / "votes.jsonl").between("a", "b")
    assert (found.wins, found.losses, found.alike, found.share) == (2, 1, 1, 2 / 3)
    assert sum_votes(box.read(), "b", "a").wins == 1
    with pytest.raises(UserError, match="same run"):
        box.cast("a", "a", "left", prompt="", seed=0)


def test_the_interval_is_wilsons() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Wilson 1927, as statsmodels computes it
    low, high = wilson(10, 10)
    assert low == pytest.approx(0.7225, abs=1e-4)
    assert high == pytest.approx(1.0)
