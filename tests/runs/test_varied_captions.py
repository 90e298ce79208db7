"""Laws of captions that vary, in a whole run: drawn by step, encoded on demand, resumed alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mascot.cli.app import main
from mascot.models.families.registry import load_family
from tiny.photos import noise

WORDS = [
    "precision=fp32",
    "device=cpu",
    "prior.count=0",
    "previews.every=0",
    "knobs.steps=1",
    "method.rank=2",
    "selection.active=false",
    "diagnosis.active=false",
    "training.checkpoint_every=2",
]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    monkeypatch.setenv("COLUMNS", "400")
    folder = tmp_path / "photos"
    folder.mkdir()
    texts = {"1.txt": "{subject}, red, {small|big}\nanother {subject}", "2.caption": "a sks dog, blue, at night"}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    for number in (1, 2):
        noise(64, 64).save(folder / f"{number}.png")
    noise(64, 65).save(folder / "a_sks_dog,_a_snow_(3).png")
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *words: object, code: int = 0) -> None:
    monkeypatch.setattr("sys.argv", ["mascot", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == code


@pytest.mark.parametrize("trains_text", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_captions_from_everywhere_vary_by_step_and_the_run_says_so(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_base: Path,
    photos: Path,
    tmp_path: Path,
    trains_text: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    seen: list[str] = []
    kept: list[bool] = []
    stage = type(load_family(str(tiny_base), device="cpu", precision="fp32").stages[0])
    condition: Any = stage.condition
    release: Any = stage.release_encoders

    def watched_condition(own: Any, prompts: Any, framings: Any) -> Any:
        seen.extend(prompts)
        return condition(own, prompts, framings)

    def watched_release(own: Any, *, text: bool) -> None:
        kept.append(not text)
        release(own, text=text)

    monkeypatch.setattr(stage, "condition", watched_condition)
    monkeypatch.setattr(stage, "release_encoders", watched_release)
    keys = ["caption_each_line=true", "captions_from_names=true", "shuffle_tags=true", "tag_dropout=0.3"]
    settings = [f"dataset.{key}" for key in keys] + [f"method.text_learning_rate={1e-3 if trains_text else 0}"]
    words = ["train", photos, "--base", tiny_base, "--token", "sks", "--class-noun", "dog", "--steps", 12]
    words += [word for key in [*WORDS, *settings] for word in ("--set", key)]
    run(monkeypatch, *words, "--out", tmp_path / "run")
    printed = " ".join(capsys.readouterr().out.split())
    assert "captions vary tags shuffled, tag dropout 0.3, first 1 kept, wildcards drawn" in printed
    found = set(seen)
    assert "another sks dog" in found
    assert {"sks dog, red, small", "sks dog, red, big", "sks dog, small, red", "sks dog, big, red", "sks dog"} & found
    tags = {"", ", blue", ", at night", ", blue, at night", ", at night, blue"}
    assert {f"a sks dog{more}" for more in tags} & found
    assert any(caption.startswith("a sks dog, a snow") for caption in found)
    assert not any("{" in caption or "|" in caption for caption in found)
    assert all(kept[:-1])
