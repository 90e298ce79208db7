"""Laws of class images of the user's own: which are used, and that none shows the subject."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mascot.data.class_image_folder import read_class_images
from mascot.data.photos import read_photos
from mascot.errors import UserError


def blocks(seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((64, 64), Image.Resampling.NEAREST)


@pytest.fixture
def subject(tmp_path: Path) -> Path:
    folder = tmp_path / "subject"
    folder.mkdir()
    for seed in range(2):
        blocks(seed).save(folder / f"{seed}.png")
    return folder


def test_usable_images_of_all_subfolders_are_read_and_bad_ones_refused(subject: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reg" / "1_dog"
    folder.mkdir(parents=True)
    for seed in (7, 8):
        blocks(seed).save(folder / f"{seed}.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    found = read_class_images(tmp_path / "reg", read_photos([subject]).photos, class_noun="dog")
    assert [image.path.name for image in found.photos] == ["7.png", "8.png"]
    assert [refusal.path.name for refusal in found.refused] == ["broken.jpg"]
    assert found.notes == ()


def test_the_subject_s_photos_are_no_class_images(subject: Path, tmp_path: Path) -> None:
    folder = tmp_path / "class"
    shutil.copytree(subject, folder)
    blocks(7).save(folder / "7.png")
    blocks(1).resize((60, 60)).save(folder / "smaller.png")
    photos = read_photos([subject]).photos
    found = read_class_images(folder, photos, class_noun="dog")
    assert [refusal.reason for refusal in found.refused] == [f"{n}.png is the subject's photo {n}.png." for n in (0, 1)]
    assert [image.path.name for image in found.photos] == ["7.png", "smaller.png"]
    (note,) = found.notes
    assert note.startswith("smaller.png: a class image that looks almost like the subject's photo 1.png; remove it if")
    with pytest.raises(UserError, match=r"no usable class image \(0.png is the subject's photo 0.png\); put images of"):
        read_class_images(subject, photos, class_noun="dog")


@pytest.mark.parametrize("made", ["missing", "file", "empty"])
def test_a_folder_without_class_images_is_a_user_error(subject: Path, tmp_path: Path, made: str) -> None:
    place = tmp_path / made
    if made == "file":
        place.touch()
    if made == "empty":
        place.mkdir()
    message = (
        "holds no usable class image; put"
        if made == "empty"
        else "is not a folder; give a folder with images of the class"
    )
    with pytest.raises(UserError, match=message):
        read_class_images(place, read_photos([subject]).photos, class_noun="dog")
