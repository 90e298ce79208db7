"""Laws of reading photos: upright, true to brightness, in order; bad files refused by name."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from mascot.data import image_decoding
from mascot.data.image_decoding import LONGEST_SIDE
from mascot.data.photos import Photo, PhotoSet, read_photos
from mascot.errors import UserError, printable
from tiny.photos import BadFile, bad_photo_files, encoded, noise

ROOT = Path(__file__).resolve().parents[2]
DREAMBOOTH = [folder / "data" / "dreambooth" for folder in (ROOT / "shared", ROOT.parent / "shared")]

STORED: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}
"""How a camera stores an upright image, for each orientation of the EXIF standard."""


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # pyright: ignore[reportArgumentType]
    return path


def only(path: Path, **options: str) -> Photo:
    (photo,) = read_photos([path], **options).photos
    return photo


def pixels(photo: Photo) -> NDArray[np.uint8]:
    return np.asarray(photo.image)


def halves(left: int = 0, right: int = 255, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Make a grey image whose halves differ."""
    image = Image.new("L", size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def is_one_sentence(text: str, path: Path) -> bool:
    return (
        printable(path) in text and text.endswith(".") and "\n" not in text and ". " not in text.replace(path.name, "")
    )


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> list[BadFile]:
    return bad_photo_files(tmp_path_factory.mktemp("bad"))


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("extension", ["png", "tif", "webp", "jpg"])
def test_every_orientation_gives_the_same_upright_image(tmp_path: Path, extension: str, orientation: int) -> None:
    upright = np.asarray(noise(3, 4).resize((60, 80), Image.Resampling.NEAREST))
    exif = Image.Exif()
    exif[274] = orientation
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(extension, {})
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    photo = only(saved(tmp_path / f"photo.{extension}", stored, exif=exif, **options))
    assert photo.size == (80, 60)
    assert np.abs(pixels(photo).astype(int) - upright).max() <= (8 if extension == "jpg" else 0)


@pytest.mark.parametrize("orientation", STORED)
def test_the_mask_turns_with_the_photo(tmp_path: Path, orientation: int) -> None:
    upright = np.asarray(Image.merge("RGBA", (*noise(64, 48).split(), halves())))
    exif = Image.Exif()
    exif[274] = orientation
    photo = only(
        saved(tmp_path / "photo.png", Image.fromarray(np.ascontiguousarray(STORED[orientation](upright))), exif=exif)
    )
    assert photo.mask is not None
    assert np.array_equal(np.asarray(photo.mask), np.asarray(halves()))


def test_damaged_exif_is_noted_not_fatal(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    noise().save(path, exif=b"Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x40\x01\x12\x00\x03")
    photos = read_photos([path])
    assert len(photos.photos) == 1
    assert all(note.startswith("photo.jpg: ") for note in photos.notes)


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("deep.png", Image.fromarray(np.full((40, 40), 32768, np.uint16))),
        ("deep.tif", Image.fromarray(np.full((40, 40), 32768, np.uint16))),
        ("motorola.tif", Image.frombytes("I;16B", (40, 40), b"\x80\x00" * 1600)),
        ("long.tif", Image.fromarray(np.full((40, 40), 32768, np.int32))),
        ("bytes.tif", Image.fromarray(np.full((40, 40), 128, np.int32))),
        ("unit.tif", Image.fromarray(np.full((40, 40), 0.5, np.float32))),
        ("float.tif", Image.fromarray(np.full((40, 40), 128.0, np.float32))),
        ("grey.png", Image.new("L", (40, 40), 128)),
        ("pair.png", Image.new("LA", (40, 40), (128, 255))),
        ("palette.gif", Image.new("P", (40, 40), 128)),
    ],
)
def test_middle_grey_stays_middle_grey(tmp_path: Path, name: str, image: Image.Image) -> None:
    if image.mode == "P":
        image.putpalette([level for level in range(256) for _ in range(3)])
    assert np.abs(pixels(only(saved(tmp_path / name, image))).astype(int) - 128).max() <= 1


def test_sixteen_bits_keep_their_order(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).round().astype(np.uint16).reshape(64, 64)
    values = pixels(only(saved(tmp_path / "ramp.png", Image.fromarray(ramp))))[..., 0].ravel().astype(int)
    assert values[0] == 0
    assert values[-1] == 255
    assert set(np.diff(values)) == {0, 1}


@pytest.mark.parametrize("extension", ["jpg", "tif"])
@pytest.mark.parametrize(
    ("ink", "seen"),
    [((0, 0, 0, 0), "white"), ((0, 0, 0, 255), "black"), ((255, 0, 0, 0), "cyan"), ((0, 255, 255, 0), "red")],
)
def test_inks_become_the_colors_they_print(tmp_path: Path, extension: str, ink: tuple[int, ...], seen: str) -> None:
    found = pixels(only(saved(tmp_path / f"ink.{extension}", Image.new("CMYK", (40, 40), ink)))).reshape(-1, 3).mean(0)
    assert np.abs(found - np.array(Image.new("RGB", (1, 1), seen).getpixel((0, 0)))).max() < 8


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    image = noise(40, 40).convert("RGB").convert(mode) if mode != "LAB" else Image.new("LAB", (40, 40), (128, 128, 128))
    extension = "jpg" if mode == "YCbCr" else "tif"
    assert only(saved(tmp_path / f"photo.{extension}", image)).image.mode == "RGB"


def test_a_color_profile_is_applied(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")
    red = Image.new("RGB", (40, 40), "red")
    assert np.abs(pixels(only(saved(tmp_path / "same.png", red, icc_profile=profile)))[0, 0] - [255.0, 0, 0]).max() <= 2
    assert (
        np.abs(pixels(only(saved(tmp_path / "swapped.png", red, icc_profile=swapped)))[0, 0] - [0.0, 255, 0]).max() <= 2
    )


def test_a_damaged_color_profile_is_noted(tmp_path: Path) -> None:
    photos = read_photos([saved(tmp_path / "photo.png", noise(), icc_profile=b"no profile")])
    assert np.array_equal(pixels(photos.photos[0]), np.asarray(noise()))
    assert "profile" in photos.notes[0]


@pytest.mark.parametrize(
    ("background", "color"), [("white", (255, 255, 255)), ("#102030", (16, 32, 48)), ("grey", (128, 128, 128))]
)
def test_transparency_shows_the_background_and_becomes_the_mask(
    tmp_path: Path, background: str, color: tuple[int, ...]
) -> None:
    image = Image.new("RGBA", (64, 48), (200, 0, 0, 255))
    image.putalpha(halves())
    photo = only(saved(tmp_path / "photo.webp", image, lossless=True), background=background)
    assert tuple(pixels(photo)[0, 0]) == color
    assert tuple(pixels(photo)[0, -1]) == (200, 0, 0)
    assert photo.mask is not None
    assert np.array_equal(np.asarray(photo.mask), np.asarray(halves()))


def test_a_transparent_palette_color_shows_the_background(tmp_path: Path) -> None:
    palette = halves(0, 1).convert("P")
    palette.putpalette([255, 0, 0, 0, 0, 255])
    for extension in ("png", "gif"):
        photo = only(saved(tmp_path / f"photo.{extension}", palette, transparency=0))
        assert tuple(pixels(photo)[0, 0]) == (255, 255, 255)
        assert tuple(pixels(photo)[0, -1]) == (0, 0, 255)
        assert photo.mask is not None


@pytest.mark.parametrize("alpha", [255, 250, 180])
def test_even_transparency_is_no_mask(tmp_path: Path, alpha: int) -> None:
    image = noise().convert("RGBA")
    image.putalpha(alpha)
    assert only(saved(tmp_path / "photo.png", image)).mask is None


@pytest.mark.parametrize("color", ["whit", "", "#12", "rgb(1,2"])
def test_an_unknown_background_is_a_user_error(tmp_path: Path, color: str) -> None:
    with pytest.raises(UserError, match="color"):
        read_photos([saved(tmp_path / "photo.png", noise())], background=color)


@pytest.mark.parametrize("mask_path", ["photo.mask.png", "masks/photo.png"])
@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P"])
def test_a_mask_file_wins_over_transparency_and_is_no_photo(tmp_path: Path, mask_path: str, mode: str) -> None:
    image = noise(64, 48).convert("RGBA")
    image.putalpha(halves(255, 0))
    (tmp_path / "masks").mkdir()
    saved(tmp_path / "photo.png", image)
    saved(tmp_path / mask_path, halves().convert(mode))
    photos = read_photos([tmp_path])
    assert [photo.path.name for photo in photos.photos] == ["photo.png"]
    assert photos.photos[0].mask is not None
    assert np.array_equal(np.asarray(photos.photos[0].mask), np.asarray(halves()))
    assert photos.notes == ()


def test_a_mask_without_a_photo_is_noted_and_refused_by_name(tmp_path: Path) -> None:
    saved(tmp_path / "photo.png", noise())
    stray = saved(tmp_path / "phto.mask.png", halves())
    assert read_photos([tmp_path]).notes == ("phto.mask.png: a mask without a photo of that name; it is not used.",)
    with pytest.raises(UserError, match="is a mask"):
        read_photos([stray])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.gif", {}),
        ("a.png", {}),
        ("a.webp", {"lossless": True}),
        ("a.avif", {"quality": 100, "subsampling": "4:4:4"}),
        ("a.tif", {}),
    ],
)
def test_the_first_frame_is_used_and_noted(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "blue", "green")]
    photos = read_photos([saved(tmp_path / name, frames[0], save_all=True, append_images=frames[1:], **options)])
    assert np.abs(pixels(photos.photos[0]).astype(int) - [255, 0, 0]).max() < 16
    assert photos.notes[0].startswith(f"{name}: ")
    assert "first" in photos.notes[0]


def test_a_camera_file_with_a_preview_is_one_photo_without_remark(tmp_path: Path) -> None:
    path = tmp_path / "camera.jpg"
    noise().save(path, format="MPO", save_all=True, append_images=[noise(32, 32)])
    assert read_photos([path]).notes == ()


def test_a_large_image_and_its_mask_are_reduced_together(tmp_path: Path) -> None:
    saved(tmp_path / "photo.png", Image.new("RGB", (3000, 600), "teal"))
    saved(tmp_path / "photo.mask.png", halves(size=(3000, 600)))
    photo = only(tmp_path / "photo.png")
    assert photo.size == (round(600 * LONGEST_SIDE / 3000), LONGEST_SIDE)
    assert photo.mask is not None
    assert photo.mask.size == photo.image.size
    assert set(pixels(photo).reshape(-1, 3).tolist()[0]) == {0, 128}


def test_our_pixel_limit_decides_and_pillows_is_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "photo.png", noise(64, 64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
        assert read_photos([path]).notes == ()
        assert Image.MAX_IMAGE_PIXELS == 3000
        monkeypatch.setattr(image_decoding, "PIXEL_LIMIT", 4095)
        with pytest.raises(UserError, match="megapixels"):
            read_photos([path])


def test_there_are_many_different_bad_files(bad: list[BadFile]) -> None:
    assert len({file.path for file in bad}) == len(bad) >= 120


def test_every_bad_file_alone_is_a_user_error_of_one_sentence(bad: list[BadFile]) -> None:
    wrong: list[str] = []
    for file in bad:
        try:
            read_photos([file.path])
        except UserError as error:
            wrong += [] if is_one_sentence(str(error), file.path) else [f"{file}: {error}"]
        else:
            wrong.append(f"{file} is accepted")
    assert wrong == []


def test_bad_files_beside_a_good_photo_are_refused_and_never_fatal(
    bad: list[BadFile], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = bad[0].path.parent
    good = saved(folder / "good.png", noise())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        photos = read_photos([folder])
    good.unlink()
    assert [photo.path for photo in photos.photos] == [good]
    assert {refusal.path for refusal in photos.refused} == {file.path for file in bad}
    assert [refusal.reason for refusal in photos.refused if not is_one_sentence(refusal.reason, refusal.path)] == []
    assert capfd.readouterr() == ("", "")


def test_a_folder_of_bad_files_names_three_and_counts_the_rest(bad: list[BadFile]) -> None:
    with pytest.raises(UserError) as caught:
        read_photos([bad[0].path.parent])
    assert str(caught.value).endswith(f"and {len(bad) - 3} more.")
    assert sum(file.path.name in str(caught.value) for file in bad) >= 3


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "a.png", noise())
    saved(tmp_path / "b.png", noise())
    opened = os.open

    def forbidding(path: Path, flags: int) -> int:
        if path.name == "b.png":
            raise PermissionError(13, "Permission denied")
        return opened(path, flags)

    monkeypatch.setattr(os, "open", forbidding)
    (refusal,) = read_photos([tmp_path]).refused
    assert refusal.reason == "b.png cannot be read (you may not read it)."


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_listing_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    names = ["1.png", "2.png", "10.png", "A.png", "b.png", "c 02.png", "c 2.png", "c 10.png", "é.png"]
    for name in names:
        saved(tmp_path / name, noise())
        (tmp_path / f"{name}.xyz").touch()
    listing = sorted(tmp_path.iterdir())
    random.Random(seed).shuffle(listing)
    monkeypatch.setattr(Path, "iterdir", lambda _: iter(listing))
    photos = read_photos([tmp_path])
    assert [photo.path.name for photo in photos.photos] == names
    assert [refusal.path.name for refusal in photos.refused] == [f"{name}.xyz" for name in names]


def test_system_files_are_skipped_and_unknown_formats_are_refused(tmp_path: Path) -> None:
    for name in (
        ".DS_Store",
        "._1.jpg",
        ".hidden.png",
        "Thumbs.db",
        "desktop.ini",
        "1.txt",
        "metadata.jsonl",
        "a.json",
        "README.md",
    ):
        (tmp_path / name).write_bytes(b"clutter")
    (tmp_path / "subfolder").mkdir()
    saved(tmp_path / "subfolder" / "deep.png", noise())
    saved(tmp_path / "1.PNG", noise())
    (tmp_path / "film.mp4").write_bytes(b"film")
    photos = read_photos([tmp_path])
    assert [photo.path.name for photo in photos.photos] == ["1.PNG"]
    assert [refusal.path.name for refusal in photos.refused] == ["film.mp4"]


def test_a_file_given_twice_is_used_once(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", noise())
    (tmp_path / "b.png").symlink_to(path)
    given = [path, tmp_path, tmp_path / ".." / tmp_path.name / "a.png"]
    assert [photo.path for photo in read_photos(given).photos] == [path]


@pytest.mark.parametrize("name", ["nowhere", "nowhere.jpg", "x" * 300 + ".jpg"])
def test_a_path_that_does_not_exist_is_a_user_error(tmp_path: Path, name: str) -> None:
    saved(tmp_path / "a.png", noise())
    with pytest.raises(UserError, match="does not exist"):
        read_photos([tmp_path, tmp_path / name])


def test_nothing_at_all_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no photos"):
        read_photos([tmp_path])
    with pytest.raises(UserError, match="No photos are given"):
        read_photos([])


def test_unprintable_file_names_are_made_printable(tmp_path: Path) -> None:
    saved(tmp_path / "good.png", noise())
    (tmp_path / "two\nlines\udcff.jpg").touch()
    (refusal,) = read_photos([tmp_path]).refused
    assert refusal.reason.startswith("two?lines?.jpg has a name that is not UTF-8")


@pytest.mark.parametrize("extension", ["heic", "HEIF", "jpg"])
def test_heic_is_read_with_any_extension(tmp_path: Path, extension: str) -> None:
    heif = pytest.importorskip("pillow_heif")
    file = BytesIO()
    heif.from_pillow(halves(20, 230).convert("RGB")).save(file, quality=95)
    (tmp_path / f"photo.{extension}").write_bytes(file.getvalue())
    photo = only(tmp_path / f"photo.{extension}")
    assert photo.size == (48, 64)
    assert pixels(photo)[:, :24].mean() < 40
    assert pixels(photo)[:, -24:].mean() > 210


def test_heic_without_its_library_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "photo.heic").write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(64))
    with pytest.raises(UserError, match=r"pip install mascot\[heic\]"):
        read_photos([tmp_path / "photo.heic"])


def test_the_contents_decide_the_format(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(encoded(noise(), format="WEBP", lossless=True))
    assert np.array_equal(pixels(only(tmp_path / "photo.png")), np.asarray(noise()))


def test_reading_photos_needs_no_torch() -> None:
    modules = "mascot.data.captions, mascot.data.crops, mascot.data.photo_audit"
    code = f"import sys, {modules}; print({{'torch', 'scipy', 'pillow_heif'}} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert result.stdout.strip() == "set()"


def test_all_photos_of_the_dreambooth_data_read() -> None:
    data = next((folder for folder in DREAMBOOTH if folder.is_dir()), None)
    if data is None:
        pytest.skip("there is no DreamBooth data set beside the repository (shared/data/dreambooth)")
    sets = {folder.name: read_photos([folder]) for folder in sorted(data.iterdir()) if folder.is_dir()}
    assert len(sets) == 18
    for name, photos in sets.items():
        assert photos == PhotoSet(photos=photos.photos), name
        assert 4 <= len(photos.photos) <= 6, name


def laid_out(folder: Path, *names: str) -> Path:
    """Write small photos and other files by name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(64, 64).save(path) if path.suffix == ".png" else path.write_text("a sks dog", encoding="utf-8")
    return folder


def test_subfolders_are_read_on_request_without_hidden_ones_masks_and_class_images(tmp_path: Path) -> None:
    names = ("2.png", "a/1.png", "a/b/3.png", ".hidden/4.png", "a/masks/1.png", "class-images/5.png", "Masks/6.png")
    laid_out(tmp_path, *names, "masks/2.png")
    (tmp_path / "loop").symlink_to(tmp_path)
    one = read_photos([tmp_path], recursive=False)
    assert [photo.path.name for photo in one.photos] == ["2.png"]
    assert one.notes == ("a: a subfolder with 2 images, not read; give --set dataset.recursive=true to read it too.",)
    everything = read_photos([tmp_path], recursive=True)
    assert [str(photo.path.relative_to(tmp_path)) for photo in everything.photos] == ["2.png", "a/1.png", "a/b/3.png"]
    assert everything.notes == ()
    assert [photo.mask is not None for photo in everything.photos] == [True, True, False]
    assert "name that folder" in read_photos([tmp_path]).notes[0]


def test_a_folder_whose_photos_lie_deeper_says_where(tmp_path: Path) -> None:
    laid_out(tmp_path, "10_sks dog/1.png", "10_sks dog/2.png", "other/x/3.png", "masks/1.png", "empty/readme.md")
    with pytest.raises(UserError) as refused:
        read_photos([tmp_path], recursive=False)
    assert str(refused.value) == (
        f"{tmp_path} holds no photos itself, but its subfolders hold some: 10_sks dog (2 images), other (1 image); "
        f"give {tmp_path / '10_sks dog'}, or --set dataset.recursive=true."
    )
    with pytest.raises(UserError, match=r"give [^,]*10_sks dog\.$"):
        read_photos([tmp_path])
    assert len(read_photos([tmp_path / "10_sks dog"]).photos) == 2
    assert len(read_photos([tmp_path], recursive=True).photos) == 3


def test_the_repeats_in_a_folder_s_name_are_explained(tmp_path: Path) -> None:
    laid_out(tmp_path, "10_sks dog/1.png")
    (note,) = read_photos([tmp_path / "10_sks dog"]).notes
    assert note.startswith("10_sks dog: the 10 repeats in this name are not used")
    assert "'sks dog'" in note
    assert read_photos([tmp_path], recursive=True).notes == (note,)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("9.caption", "9.caption: no photo has this name, so it is no caption; it is not used."),
        ("readme.txt", "readme.txt: no photo has this name, so it is no caption; it is not used."),
        ("1.json", "1.json: not used; captions are read from metadata.jsonl, metadata.csv, metadata.json"),
        ("captions.jsonl", "captions.jsonl: not used; captions are read from"),
        ("table.csv", "table.csv is a table; captions are read from metadata.csv, so rename or move it."),
        ("film.mp4", "film.mp4 is a video; save some of its frames as jpg or png."),
        ("raw.NEF", "raw.NEF is a camera's raw photo; save it as jpg or png."),
        ("all.zip", "all.zip is an archive; unpack it, or move it away."),
        ("1.npz", "1.npz holds numbers of another program; move it away."),
        ("odd.xyz", "odd.xyz is not an image that mascot reads; if it is one, save it as jpg or png."),
    ],
)
def test_each_other_file_gets_a_true_sentence(tmp_path: Path, name: str, said: str) -> None:
    laid_out(tmp_path, "1.png", name)
    read = read_photos([tmp_path])
    assert len(read.photos) == 1
    (sentence,) = [*read.notes, *(refused.reason for refused in read.refused)]
    assert sentence.startswith(said)


def test_captions_beside_their_photos_are_not_remarked_on(tmp_path: Path) -> None:
    tables = ("metadata.jsonl", "metadata.csv", "metadata.json", "notes.md", ".hidden.txt")
    read = read_photos([laid_out(tmp_path, "1.png", "1.txt", "2.png", "2.caption", *tables)])
    assert (read.notes, read.refused) == ((), ())
