"""Laws of class images of the user's own in a whole run: used, topped up, checked on resuming."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from mascot.cli.app import main
from mascot.data import class_images
from mascot.storage.run_folder import Run
from tiny.photos import noise

WORDS = [
    "precision=fp32",
    "device=cpu",
    "previews.every=0",
    "knobs.steps=1",
    "method.rank=2",
    "prior.steps=1",
    "selection.active=false",
    "diagnosis.active=false",
    "training.checkpoint_every=1",
]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    monkeypatch.setenv("COLUMNS", "400")
    (tmp_path / "photos").mkdir()
    (tmp_path / "own").mkdir()
    noise(64, 64).save(tmp_path / "photos" / "a.png")
    for number in range(2):
        noise(64, 64).transpose(Image.Transpose(number)).save(tmp_path / "own" / f"{number}.png")
    noise(64, 64).save(tmp_path / "own" / "same.png")
    return tmp_path / "photos"


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["mascot", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert isinstance(stop.value.code, int)
    return stop.value.code


def test_own_class_images_are_used_and_generated_ones_fill_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    asked: list[int] = []
    generate = class_images.read_or_generate

    def counted(settings: class_images.PriorSettings, **rest: object) -> list[Image.Image]:
        asked.append(settings.count)
        return generate(settings, **rest)

    monkeypatch.setattr(class_images, "read_or_generate", counted)
    words = ["train", photos, "--base", tiny_base, "--token", "sks", "--class-noun", "dog", "--steps", 2]
    chosen = [*WORDS, f"prior.folder={tmp_path / 'own'}", "prior.count=3"]
    words += [word for key in chosen for word in ("--set", key)]
    assert run(monkeypatch, *words, "--out", tmp_path / "run") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "note: 2 class images of your own." in printed
    assert "note: Class image not used: same.png is the subject's photo a.png." in printed
    assert f"of 3 with those of {tmp_path / 'own'}" in printed
    assert asked == [1]
    facts = json.loads(Run(tmp_path / "run").effective.read_text(encoding="utf-8"))
    assert [name for name, _ in facts["photos"]] == ["a.png", "0.png", "1.png"]
    noise(64, 64).rotate(180).save(tmp_path / "own" / "1.png")
    assert run(monkeypatch, "train", "--resume", "--out", tmp_path / "run") == 2
    assert "changed since" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("prior.folder=nowhere", "nowhere is not a folder; give a folder with images of the class"),
        ("prior.weight=0", "prior.weight = 0 uses no class images; leave one of both out."),
        ("prior.form=outputs", 'prior.form = "outputs" uses no class images; leave one of both out.'),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], photos: Path, setting: str, message: str
) -> None:
    words = ["doctor", photos, "--class-noun", "dog", "--no-measure", "--set", f"prior.folder={photos.parent / 'own'}"]
    assert run(monkeypatch, *words, "--set", setting) == 2
    assert message in capsys.readouterr().err
    assert run(monkeypatch, *words) == 0
