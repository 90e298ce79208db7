"""A run of several subjects is extended by the command as one of a single subject is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mascot.storage.run_folder import Run
from runs.conftest import QUICK, Mascot


@pytest.mark.slow
def test_a_run_of_two_subjects_is_extended(mascot: Mascot, home: Path, tiny_base: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for number, folder in enumerate((one, other)):
        folder.mkdir()
        shutil.copy(home / "photos" / f"{number}.png", folder)
    chosen = [word for setting in QUICK if not setting.startswith("token") for word in ("--set", setting)]
    words = ["train", one, other, "--class-noun", "dog,cat", "--token", "sks,zwx", "--base", tiny_base]
    runs = [Run(tmp_path / name) for name in ("whole", "run")]
    for run, steps in zip(runs, (4, 2), strict=True):
        code, printed = mascot(*words, *chosen, "--steps", steps, "--out", run.folder)
        assert code == 0, printed
    code, printed = mascot("train", "--resume", "--out", runs[1].folder, "--steps", "4")
    assert code == 0, printed
    assert runs[0].adapter.read_bytes() == runs[1].adapter.read_bytes()
