"""A run keeps the steps that it is told to, and each generates and is scored as `RUN@STEP`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mascot.adapters.adapter_file import Adapter
from mascot.recipe.recipe import Recipe
from mascot.storage.run_folder import Run, kept_steps
from runs.conftest import Mascot, Train
from tiny.encoders import tiny_clip, tiny_identity

KEPT = ("checkpoints.keep=3", "training.ema_decay=0.5")


@pytest.fixture(scope="module")
def kept(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of eight steps that keeps the last three of four checkpoints; read only."""
    return Run(train(tmp_path_factory.mktemp("kept") / "run", "--steps", 8, settings=KEPT))


def tensors(path: Path) -> dict[str, bytes]:
    return {key: tensor.numpy().tobytes() for key, tensor in Adapter.read(path).tensors.items()}


def test_the_newest_steps_are_kept_each_as_a_run_of_that_length(kept: Run, train: Train, tmp_path: Path) -> None:
    assert kept_steps(kept) == [4, 6, 8]
    shorter = Run(train(tmp_path / "shorter", "--steps", 4, settings=KEPT))
    assert tensors(Run(kept.checkpoint(4)).adapter) == tensors(shorter.adapter)
    assert tensors(Run(kept.checkpoint(8)).adapter) == tensors(kept.adapter)
    manifest = Adapter.read(Run(kept.checkpoint(6)).adapter).manifest
    assert manifest is not None
    assert manifest.step == 6


def test_a_kept_step_generates_and_an_unkept_one_lists_the_kept(mascot: Mascot, kept: Run, tmp_path: Path) -> None:
    run = Run(Path(shutil.copytree(kept.folder, tmp_path / "run")))
    code, printed = mascot("generate", f"{run.folder}@6", "a {subject}", "--count", "1")
    assert code == 0, printed
    (image,) = (run.folder / "images" / "step000006").glob("*.png")
    assert mascot("generate", run.folder, "a {subject}", "--count", "1")[0] == 0
    (last,) = (run.folder / "images").glob("*.png")
    assert image.read_bytes() != last.read_bytes()
    code, sentence = mascot("generate", f"{run.folder}@2", "a {subject}")
    assert code == 2
    assert f"it keeps {run.folder}@4 and {run.folder}@6 and {run.folder}@8; give one of them" in sentence
    run.adapter.unlink()  # as in a run that is still training
    assert mascot("generate", f"{run.folder}@8", "a {subject}", "--count", "1", "--out", tmp_path / "out")[0] == 0


@pytest.mark.slow
def test_kept_steps_are_scored_compared_and_diagnosed(mascot: Mascot, kept: Run, tmp_path: Path) -> None:
    run = Run(Path(shutil.copytree(kept.folder, tmp_path / "run")))
    encoders = ("--identity", tiny_identity(tmp_path / "identity"), "--clip", tiny_clip(tmp_path / "clip"))
    asked = ("--prompt", "a {subject} in the snow", "--images", "1")
    code, printed = mascot("evaluate", f"{run.folder}@4,8", *asked, *encoders)
    assert code == 0, printed
    assert Run(run.checkpoint(4)).scores.exists()
    assert Run(run.checkpoint(8)).scores_page.exists()
    assert not run.scores.exists()
    code, printed = mascot("compare", f"{run.folder}@4", f"{run.folder}@8")
    assert code == 0, printed
    code, sentence = mascot("compare", f"{run.folder}@4", f"{run.folder}@6")
    assert (code, f"run `mascot evaluate {run.folder}@6` first" in sentence) == (2, True)
    code, printed = mascot("diagnose", f"{run.folder}@6", *encoders)
    assert code == 0, printed
    assert Run(run.checkpoint(6)).diagnosis.exists()
    code, sentence = mascot("evaluate", f"{run.folder}@4,5", *asked, *encoders)
    assert (code, "keeps no adapter of step 5" in sentence) == (2, True)


@pytest.mark.slow
def test_fewer_are_kept_when_a_resumed_run_says_so(mascot: Mascot, kept: Run, tmp_path: Path) -> None:
    run = Run(Path(shutil.copytree(kept.folder, tmp_path / "run")))
    words = ("--steps", "10", "--set", "checkpoints.keep=1")
    assert mascot("train", "--resume", "--out", run.folder, *words)[0] == 0
    assert kept_steps(run) == [10]
    assert Recipe.read(run.recipe).checkpoints.keep == 1


@pytest.mark.slow
def test_a_step_of_an_earlier_phase_generates(mascot: Mascot, train: Train, tmp_path: Path) -> None:
    settings = ("method.name=pivotal", "method.layers.rank=2", "method.layers.text_learning_rate=0", *KEPT)
    run = Run(train(tmp_path / "run", "--steps", 6, settings=settings))
    assert kept_steps(run) == [2, 4, 6]
    for step in kept_steps(run):
        out = tmp_path / f"{step}"
        code, printed = mascot("generate", f"{run.folder}@{step}", "a {subject}", "--count", "1", "--out", out)
        assert code == 0, printed


@pytest.mark.slow
def test_the_whole_model_follows_an_extension(mascot: Mascot, train: Train, tmp_path: Path) -> None:
    settings = ("method.name=dreambooth",)
    run = Run(train(tmp_path / "run", "--steps", 2, settings=settings))
    weights = next(path for path in (run.model() / "unet").iterdir() if path.suffix == ".safetensors")
    before = weights.read_bytes()
    assert mascot("train", "--resume", "--out", run.folder)[0] == 0
    assert weights.read_bytes() == before
    assert mascot("train", "--resume", "--out", run.folder, "--steps", "4")[0] == 0
    assert weights.read_bytes() != before
    whole = Run(train(tmp_path / "whole", "--steps", 4, settings=settings))
    assert weights.read_bytes() == (whole.model() / "unet" / weights.name).read_bytes()
