"""Laws of the photo desk: contents decide, names are only shown, and nothing is lost by a crop."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mascot.api.library.adapter_desk import add_adapter, list_adapters
from mascot.api.library.photo_desk import PhotoDesk, add_files, facts_by_number, subject_by_border, with_own_names
from mascot.data.photo_audit import MAXIMUM_PHOTOS
from mascot.data.photos import read_photos
from mascot.errors import UserError
from mascot.storage.image_files import open_image
from tiny.photos import noise


@pytest.fixture
def desk(tmp_path: Path) -> PhotoDesk:
    """A desk with one photo of 96 x 64 pixels."""
    desk = PhotoDesk(tmp_path / "desk")
    desk.add(save(noise(96, 64), tmp_path / "a.jpg"), "../../<script>.jpg")
    return desk


def save(image: Image.Image, path: Path) -> Path:
    image.save(path)
    return path


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def circle(size: tuple[int, int] = (200, 160)) -> Image.Image:
    """A red disc with a hole of the background's color on blue."""
    image = Image.new("RGB", size, "#3060c0")
    pen = ImageDraw.Draw(image)
    pen.ellipse((60, 40, 140, 120), fill="#d03020")
    pen.ellipse((90, 70, 110, 90), fill="#3060c0")
    pen.ellipse((4, 20, 12, 28), fill="#ffffff")
    return image


def test_a_name_is_only_shown(desk: PhotoDesk) -> None:
    [entry] = desk.read().entries
    assert entry.name == "../../<script>.jpg"
    assert sorted(path.name for path in desk.folder.rglob("*.png")) == ["001.png", "001.png"]


def test_what_the_desk_holds_is_what_training_reads(desk: PhotoDesk) -> None:
    desk.caption(1, "a  {subject}\non a shelf")
    desk.set_mask(1, Image.new("L", (10, 10), 255))
    [photo] = read_photos([desk.folder / "photos"]).photos
    assert photo.mask is not None
    assert photo.mask.size == photo.image.size
    assert photo.path.with_suffix(".txt").read_text(encoding="utf-8") == "a {subject} on a shelf"
    desk.caption(1, " ")
    assert not photo.path.with_suffix(".txt").exists()
    facts = facts_by_number(desk.audit(64))[1]
    assert facts.path == photo.path


@pytest.mark.parametrize(
    "content", [b"", b"MZ\x90\x00", b"<svg onload='alert(1)'/>", b"\x89PNG\r\n\x1a\n" + b"\0" * 50]
)
def test_a_file_that_is_no_image_is_refused_by_its_owners_name(desk: PhotoDesk, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"^holiday\.png "):
        desk.add(path, "holiday.png")
    assert len(desk.read().entries) == 1


def test_a_folder_comes_with_its_captions(desk: PhotoDesk, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    files = [save(noise(40, 40), folder / "b.png"), folder / "b.txt", folder / ".DS_Store", folder / "notes.pdf"]
    files[1].write_text("an owl\non a shelf", encoding="utf-8")
    for path in files[2:]:
        path.write_bytes(b"x")
    [fault] = add_files(desk, files)
    assert fault.startswith("notes.pdf ")
    assert [(one.name, one.caption) for one in desk.read().entries[1:]] == [("b.png", "an owl on a shelf")]
    assert list(folder.iterdir()) == [], "uploads are not kept"


def test_there_is_an_end_to_photos(desk: PhotoDesk, tmp_path: Path) -> None:
    path = save(noise(40, 40), tmp_path / "b.png")
    for _ in range(MAXIMUM_PHOTOS - 1):
        desk.add(path, "b.png")
    with pytest.raises(UserError, match="take one out"):
        desk.add(path, "b.png")
    desk.take_out(1)
    assert desk.add(path, "b.png").number == MAXIMUM_PHOTOS + 1, "no number is used twice"


def test_a_crop_is_of_the_original_and_can_be_taken_back(desk: PhotoDesk) -> None:
    whole = size_of(desk.photo(1))
    for _ in range(2):
        assert desk.crop(1, (0.0, 0.0, 0.5, 0.5)).cropped
        assert size_of(desk.photo(1)) == (whole[0] // 2, whole[1] // 2)
    assert not desk.crop(1, None).cropped
    assert size_of(desk.photo(1)) == whole
    with pytest.raises(UserError, match="too small"):
        desk.crop(1, (0.5, 0.5, 0.5, 0.9))


def test_a_mask_that_marks_nothing_is_refused(desk: PhotoDesk) -> None:
    with pytest.raises(UserError, match="marks nothing"):
        desk.set_mask(1, Image.new("L", (10, 10)))


def test_photos_without_a_mask_count_whole_beside_masked_ones(desk: PhotoDesk, tmp_path: Path) -> None:
    desk.add(save(noise(90, 60), tmp_path / "other.png"), "other.png")
    desk.set_mask(1, circle().convert("L").point([0] * 100 + [255] * 156))
    assert open_image(desk.mask(2)).convert("L").getextrema() == (255, 255)
    assert not desk.entry(2).masked
    audit = desk.audit(64)
    assert audit
    assert facts_by_number(audit)[2].cut is None, "a white mask says nothing of where the subject is"
    desk.set_mask(1, None)
    assert not desk.mask(1).exists()
    assert not desk.mask(2).exists()


def test_captions_that_come_at_once_are_all_kept(desk: PhotoDesk, tmp_path: Path) -> None:
    for number in range(2, 9):
        desk.add(save(noise(40, 40), tmp_path / f"{number}.png"), f"{number}.png")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: desk.caption(number, f"photo {number}"), range(1, 9)))
    assert [one.caption for one in desk.read().entries] == [f"photo {number}" for number in range(1, 9)]


def test_a_sentence_names_photos_as_their_owner_does(desk: PhotoDesk) -> None:
    assert with_own_names(desk, "001.png is blurred.") == f"{desk.entry(1).name} is blurred."


def test_a_photo_that_was_taken_out_is_gone(desk: PhotoDesk) -> None:
    desk.take_out(1)
    assert list(desk.folder.rglob("*.png")) == []
    for act in (desk.take_out, desk.propose_mask, lambda number: desk.caption(number, "x")):
        with pytest.raises(UserError, match="not there any more"):
            act(1)


def test_the_border_tells_the_subject_with_what_it_encloses() -> None:
    mask = np.asarray(subject_by_border(circle()).resize((200, 160))) > 127
    disc = np.hypot(np.arange(200) - 100, (np.arange(160) - 80)[:, None]) < 40
    assert (mask & disc).sum() / (mask | disc).sum() > 0.9
    assert mask[80, 100], "the hole is inside"
    assert not mask[24, 8], "what is far smaller than the subject is left out"


def test_a_photo_like_its_border_has_no_mask(desk: PhotoDesk, tmp_path: Path) -> None:
    desk.add(save(Image.new("RGB", (64, 64), "#3060c0"), tmp_path / "flat.png"), "flat.png")
    with pytest.raises(UserError, match="marks nothing"):
        desk.propose_mask(2)
    desk.add(save(circle(), tmp_path / "disc.png"), "disc.png")
    assert desk.propose_mask(3).getextrema() == (0, 255)
    assert not desk.mask(3).exists(), "a proposal is not kept"


def test_a_file_that_is_no_adapter_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.safetensors"
    path.write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(UserError) as refused:
        add_adapter(tmp_path / "kept", path)
    assert str(tmp_path) not in str(refused.value)
    assert list_adapters(tmp_path / "kept") == []
    assert not path.exists()
