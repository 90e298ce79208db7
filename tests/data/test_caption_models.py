"""Laws of captions that a model writes: which photos, how they name the subject, and the cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from mascot.cli.app import main
from mascot.data.captioning import caption_models
from mascot.data.captioning.caption_models import CAPTIONERS, Captioner, caption_by_model, open_captioner
from mascot.data.photos import Photo, PhotoSet
from mascot.data.prompt_templates import DEFAULT_TEMPLATE, mention_subject
from mascot.errors import UserError
from mascot.protocols import Subject
from mascot.storage.run_folder import Run
from tiny.captioners import TINY_CAPTIONERS, tiny_captioner
from tiny.encoders import tiny_clip
from tiny.photos import noise

DOG = Subject("sks", "dog")
TEMPLATES = (DEFAULT_TEMPLATE,)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / "cache"))


def photo_set(*captions: str) -> PhotoSet:
    return PhotoSet(
        photos=tuple(
            Photo(path=Path(f"{number}.png"), image=noise(64 + number, 64), captions=(caption,))
            for number, caption in enumerate(captions)
        )
    )


def written(source: Path, photos: PhotoSet) -> PhotoSet:
    return caption_by_model(photos, TEMPLATES, open_captioner(str(source)), DOG, "cpu")


@pytest.mark.parametrize("kind", TINY_CAPTIONERS)
def test_a_model_captions_the_photos_that_have_none_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny_captioner(kind, tmp_path / kind, seed=1)  # which says something
    photos = photo_set(DEFAULT_TEMPLATE, "my own {subject}", DEFAULT_TEMPLATE)
    first = written(source, photos)
    assert [name for name, _ in first.written] == ["0.png", "2.png"]
    assert first.photos[1].captions == ("my own {subject}",)
    for (name, caption), photo in zip(first.written, first.photos[::2], strict=True):
        assert photo.captions == (caption,)
        assert caption.count("{subject}") == 1
        assert len(caption.split()) > 1
        assert f"{name}: {caption!r}, written by {source}." in first.notes
    monkeypatch.setattr(Captioner, "describe", lambda *_: pytest.fail("the texts are cached"))
    assert written(source, photos).written == first.written


def test_a_changed_model_or_photo_is_captioned_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def describe(_: Captioner, photos: list[Photo], device: str) -> list[str]:
        asked.append(len(photos))
        return [f"a dog on {device} {len(asked)}." for _ in photos]

    monkeypatch.setattr(Captioner, "describe", describe)
    source = tiny_captioner("blip", tmp_path / "blip")
    assert written(source, photo_set(DEFAULT_TEMPLATE)).written == (("0.png", "a {subject} on cpu 1"),)
    assert written(source, photo_set(DEFAULT_TEMPLATE, DEFAULT_TEMPLATE)).written[1] == (
        "1.png",
        "a {subject} on cpu 2",
    )
    (source / "generation_config.json").write_text("{}", encoding="utf-8")
    assert written(source, photo_set(DEFAULT_TEMPLATE)).written == (("0.png", "a {subject} on cpu 3"),)
    assert asked == [1, 1, 1]


def test_a_model_that_writes_nothing_leaves_the_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Captioner, "describe", lambda _, photos, __: ["" for _ in photos])
    found = written(tiny_captioner("blip", tmp_path / "blip"), photo_set(DEFAULT_TEMPLATE))
    assert found.photos[0].captions == TEMPLATES
    assert found.notes[0].startswith("0.png: ")
    assert found.notes[0].endswith(" wrote nothing, so the template is used.")


@pytest.mark.parametrize(
    ("noun", "text", "caption"),
    [
        ("dog", "a brown dog on grass", "a brown {subject} on grass"),
        ("dog", "Dog and dog", "{subject} and dog"),
        ("dog", "two dogs on grass", "{subject}, two dogs on grass"),
        ("great horned owl", "a great horned owl at night", "a {subject} at night"),
        ("great horned owl", "an owl on a branch", "an {subject} on a branch"),
        ("great horned owl", "a bird on a branch", "{subject}, a bird on a branch"),
        ("dog", "a {curly} dog", "a {{curly}} {subject}"),
        (None, "a brown dog", "{subject}, a brown dog"),
    ],
)
def test_the_class_noun_becomes_the_subject(noun: str | None, text: str, caption: str) -> None:
    assert mention_subject(text, Subject("sks", noun)) == caption


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("The image shows a dog.", "a dog"),
        ("In this image, a dog sits.", "a dog sits"),
        ("a photo of a dog", "a dog"),
        ("arafed dog on a lawn", "dog on a lawn"),
        ("a dog.", "a dog"),
        ("a picture frame", "a picture frame"),
    ],
)
def test_what_models_say_of_the_image_is_removed(text: str, cleaned: str) -> None:
    assert caption_models._cleaned(text) == cleaned


@pytest.mark.parametrize("source", ["clip", "nowhere", "empty", "file"])
def test_what_is_no_captioner_is_refused_by_name(tmp_path: Path, source: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("{", encoding="utf-8")
    tiny_clip(tmp_path / "clip")
    said = (
        "is a clip model, which mascot cannot let write captions" if source == "clip" else "is not a model that can be"
    )
    with pytest.raises(UserError, match=said) as refused:
        open_captioner(str(tmp_path / source))
    assert all(kind in str(refused.value) for kind in CAPTIONERS)


def test_weights_that_are_missing_are_a_user_error(tmp_path: Path) -> None:
    source = tiny_captioner("blip", tmp_path / "blip")
    (source / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"cannot write captions \(.*give another --set dataset.caption_with=MODEL"):
        written(source, photo_set(DEFAULT_TEMPLATE))


def test_the_command_writes_the_captions_into_the_run_and_not_beside_the_photos(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    (tmp_path / "photos").mkdir()
    noise(64, 64).save(tmp_path / "photos" / "1.png")
    noise(64, 64).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "photos" / "2.png")
    (tmp_path / "photos" / "2.txt").write_text("my own {subject}", encoding="utf-8")
    before = sorted((tmp_path / "photos").iterdir())
    source = tiny_captioner("blip", tmp_path / "blip", seed=1)
    keys = ["precision=fp32", "device=cpu", "prior.count=0", "previews.every=0", "method.rank=2", "knobs.steps=1"]
    keys += ["selection.active=false", "diagnosis.active=false", f"dataset.caption_with={source}"]
    words = ["train", tmp_path / "photos", "--base", tiny_base, "--token", "sks", "--class-noun", "dog", "--steps", 1]
    words += [word for key in keys for word in ("--set", key)] + ["--out", tmp_path / "run"]
    monkeypatch.setattr("sys.argv", ["mascot", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    (line,) = Run(tmp_path / "run").captions.read_text(encoding="utf-8").splitlines()
    row = json.loads(line)
    assert row["file_name"] == "1.png"
    assert "{subject}" in row["text"]
    assert f"1.png: {row['text']!r}, written by {source}." in capsys.readouterr().out
    assert sorted((tmp_path / "photos").iterdir()) == before
