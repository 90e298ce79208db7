"""Laws of encoders: every command that scores takes them, and a missing one costs no work."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.test_subject_collection import FILE
from mascot.adapters.adapter_file import Adapter
from mascot.cli.app import main
from mascot.errors import UserError
from mascot.evaluation.metrics.image_encoders import read_clip, read_identity_encoder
from mascot.models.families.registry import load_family
from mascot.recipe.recipe import Recipe
from mascot.storage import model_hub
from mascot.storage.run_folder import Run
from tiny.world import World

SMALL = (
    "token=sks",
    "training.steps=2",
    "prior.count=0",
    "previews.every=0",
    "knobs.steps=1",
    "method.rank=2",
    "precision=fp32",
)
QUICK = 2.0
"""Seconds; a library that is not told that the hub is out of reach tries again for 24."""


def run_mascot(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Run a command in this process; returns its exit code and standard error."""
    monkeypatch.setattr(sys, "argv", ["mascot", *map(str, words)])
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        main()
    return int(str(stop.value.code)), capfd.readouterr().err


@pytest.fixture
def recipe(world: World, tmp_path: Path) -> Path:
    """A recipe on the tiny base, which has no encoders of its own."""
    path = tmp_path / "recipe.toml"
    made = Recipe.preset(
        base=str(world.base), photos=(str(world.folder / "photos"),), class_noun="dog", overrides=SMALL
    )
    path.write_text(made.to_toml(), encoding="utf-8")
    return path


@pytest.fixture
def collection(world: World, tmp_path: Path) -> Path:
    """One subject in the layout of a suite."""
    folder = tmp_path / "collection"
    (folder / "cat9").mkdir(parents=True)
    for photo in (world.folder / "photos").iterdir():
        (folder / "cat9" / photo.name).write_bytes(photo.read_bytes())
    (folder / "prompts_and_classes.txt").write_text(FILE)
    return folder


COMMANDS = {
    "sweep": ("sweep", "{recipe}", "--over", "method.rank=2,4", "--prompt", "{prompt}", "--out", "{out}"),
    "token": ("token", "--base", "{base}", "--candidates", "2"),
    "diagnose": ("diagnose", "{run}", "--prompt", "{prompt}"),
    "evaluate": ("evaluate", "{run}", "--prompt", "{prompt}", "--images", "1"),
    "suite": ("suite", "{collection}", "--base", "{base}", "--images", "1", "--prompts", "1", "--out", "{out}",
              *(word for item in SMALL for word in ("--set", item))),
    "calibration": ("evaluate", "--real", "{photos}", "--base", "{base}"),
}  # fmt: skip


@pytest.fixture
def words(world: World, recipe: Path, collection: Path, tmp_path: Path) -> dict[str, str]:
    return {
        "recipe": str(recipe),
        "base": str(world.base),
        "run": str(world.run.folder),
        "photos": str(world.folder / "photos"),
        "collection": str(collection),
        "out": str(tmp_path / "out"),
        "prompt": "a {subject}",
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_a_missing_encoder_is_found_at_once(
    name: str, words: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Before anything is trained or generated, with a remedy for offline machines."""
    monkeypatch.setattr("mascot.generation.generator.Generator.generate", refuse)
    monkeypatch.setattr("mascot.api.train.train_steps", refuse)
    started = time.perf_counter()
    code, error = run_mascot(monkeypatch, capfd, *(word.format(**words) for word in COMMANDS[name]))
    assert time.perf_counter() - started < QUICK * 3
    assert code == 2
    assert error.count("\n") == 1
    assert "--identity starter --clip starter" in error
    assert "the model hub cannot be reached" in error
    assert not list(tmp_path.rglob("adapter.safetensors"))


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("nothing may be generated or trained")


SLOW = {"sweep", "suite", "evaluate", "diagnose"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in COMMANDS if name != "token"],
)
def test_the_remedy_is_true(
    name: str, words: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, error = run_mascot(
        monkeypatch,
        capfd,
        *(word.format(**words) for word in COMMANDS[name]),
        "--identity",
        "starter",
        "--clip",
        "starter",
    )
    assert (code, error) == (0, "")


def test_the_token_search_scores_with_the_encoders_that_are_given(
    words: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The tiny vocabulary has no rare word, which is found after the encoders."""
    given = ("--identity", "starter", "--clip", "starter")
    code, error = run_mascot(monkeypatch, capfd, "token", "--base", words["base"], *given)
    assert code == 2
    assert "rare word" in error


@pytest.mark.slow
def test_the_encoders_of_a_recipe_score_its_sweep(
    world: World,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """They come from the recipe's section `selection`; options win over it."""
    chosen = (
        *("--set", f"selection.identity={world.identity}"),
        *("--set", "selection.clip=starter", "--prompt", "a {subject}"),
    )
    common = ("sweep", recipe, "--over", "method.rank=2", *chosen)
    assert run_mascot(monkeypatch, capfd, *common, "--out", tmp_path / "recipe") == (0, "")
    assert run_mascot(monkeypatch, capfd, *common, "--out", tmp_path / "option", "--identity", "starter") == (0, "")
    found = {
        name: json.loads(next((tmp_path / name / "runs").rglob("scores.json")).read_text())["encoders"]
        for name in ("recipe", "option")
    }
    ours = read_clip(starter_folder("clip")).describe()
    assert found["recipe"] == {"identity": read_identity_encoder(world.identity).describe(), "clip": ours} | {
        "distance": found["recipe"]["distance"]
    }
    assert found["option"]["identity"] == read_identity_encoder(starter_folder("identity")).describe()


def starter_folder(name: str) -> Path:
    from mascot.models import starter

    return getattr(starter, f"{name}_folder")()


def test_the_encoders_of_a_run_evaluate_and_diagnose_it(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without options, the run's own `selection.identity` and `selection.clip` are used."""
    run = world.write("chosen")
    adapter = Adapter.read(run.adapter)
    assert adapter.manifest is not None
    section = {"selection": {"identity": str(world.identity), "clip": str(world.clip)}}
    manifest = adapter.manifest.model_copy(update={"recipe": adapter.manifest.recipe | section})
    replace(adapter, manifest=manifest).write(run.adapter)
    for command in (("evaluate", run.folder, "--images", 1), ("diagnose", run.folder)):
        assert run_mascot(monkeypatch, capfd, *command, "--prompt", "a {subject}") == (0, "")
    scores = json.loads(Run(run.folder).scores.read_text(encoding="utf-8"))
    assert scores["encoders"]["identity"] == read_identity_encoder(world.identity).describe()


def test_an_unreachable_hub_costs_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for encoders nor for bases, nor where it is asked many times."""

    class Session:
        asked = 0

        def head(self, *_: object, **__: object) -> None:
            Session.asked += 1
            raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
    monkeypatch.setattr("huggingface_hub.get_session", Session)
    model_hub.reaches_hub.cache_clear()
    started = time.perf_counter()
    for _ in range(3):
        with pytest.raises(UserError, match="the model hub cannot be reached"):
            read_identity_encoder("owner/encoder")
        with pytest.raises(UserError, match="the model hub cannot be reached"):
            load_family("owner/base", device="cpu", precision="fp32")
    model_hub.reaches_hub.cache_clear()
    assert time.perf_counter() - started < QUICK
    assert Session.asked == 1
