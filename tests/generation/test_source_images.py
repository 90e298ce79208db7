"""Laws of files to start from: any size, form and mask is read, or refused in one sentence."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from mascot import generate
from mascot.data.image_decoding import mask_paths
from mascot.errors import UserError
from mascot.generation.generator import Generator, fit_start
from mascot.generation.knobs import Knobs
from mascot.generation.start_image import SourceImage, read_source_image
from mascot.models.families.registry import load_family
from mascot.protocols import Family
from tiny.commands import Command
from tiny.photos import bad_photo_files, noise
from tiny.world import World


@pytest.fixture(scope="module")
def family(tiny_base: Path) -> Family:
    return load_family(str(tiny_base), device="cpu", precision="fp32")


def source(image: Any, **options: Any) -> SourceImage:
    found = read_source_image(image, **options)
    assert found is not None
    return found


def half(width: int = 64, height: int = 64, mode: str = "L") -> Image.Image:
    """A mask whose upper half is white."""
    mask = Image.new("L", (width, height))
    mask.paste(255, (0, 0, width, height // 2))
    return mask.convert(mode)


@pytest.mark.parametrize(
    ("size", "resolution", "multiple", "expected"),
    [
        ((512, 512), 512, 64, (512, 512)),
        ((768, 512), 512, 64, (512, 768)),  # its own size, up to 2.25 times the base's pixels
        ((512, 1024), 512, 64, (1024, 512)),
        ((500, 333), 512, 64, (320, 512)),  # rounded
        ((4000, 3000), 512, 64, (448, 576)),  # shrunk to the base's pixels
        ((100, 100), 512, 64, (512, 512)),  # enlarged
        ((1000, 1000), 1024, 16, (992, 992)),
        ((8000, 32), 512, 64, (64, 8000)),  # at least one multiple
        ((64, 64), 64, 16, (64, 64)),
    ],
)
def test_an_image_keeps_its_size_where_the_base_can_draw_it(
    size: tuple[int, int], resolution: int, multiple: int, expected: tuple[int, int]
) -> None:
    found = source(Image.new("RGB", size)).fit_size(resolution, multiple)
    assert found == expected
    assert all(side % multiple == 0 and side <= 8192 for side in found)


def test_what_was_done_to_the_size_is_told(family: Family) -> None:
    notes: list[str] = []
    generator = Generator(family, on_event=lambda event: notes.append(event.message))  # pyright: ignore[reportAttributeAccessIssue]
    start, knobs = fit_start(source(noise(640, 480)), generator, Knobs(), sized=False)
    assert start is not None
    assert (knobs.width, knobs.height) == start.image.size == (80, 48)
    assert notes == ["the image: 640x480 pixels, generated at 80x48; --size chooses another size"]
    fit_start(source(noise(64, 80)), generator, Knobs(), sized=False)
    assert len(notes) == 1
    start, _ = fit_start(source(noise(64, 80)), generator, Knobs(width=96, height=48), sized=True)
    assert start is not None
    assert start.image.size == (96, 48)
    with pytest.raises(UserError, match="does not divide by 16"):
        fit_start(source(noise(64, 80)), generator, Knobs(width=90, height=48), sized=True)


def test_an_image_of_its_size_and_a_plain_crop_keep_every_bit(family: Family) -> None:
    stage, image = family.stages[0], noise(96, 80)
    assert np.array_equal(source(image).cut((80, 96), stage).image, image)
    assert np.array_equal(source(image).cut((64, 96), stage).image, image.crop((0, 8, 96, 72)))
    odd = noise(96, 81)
    assert np.array_equal(source(odd).cut((80, 96), stage).image, odd.crop((0, 0, 96, 80)))


def test_proportions_stay_and_the_mask_is_cut_with_the_image(family: Family) -> None:
    image = Image.new("RGB", (400, 200), "black")
    ImageDraw.Draw(image).ellipse((150, 50, 250, 150), fill="white")
    cut = source(image, mask=image.convert("L")).cut((64, 64), family.stages[0])
    assert cut.mask is not None
    values = np.asarray(cut.image.convert("L")).astype(int)
    assert np.abs(values - np.asarray(cut.mask)).max() <= 40, "Lanczos and triangle differ at edges alone"
    assert values[32].argmax() == pytest.approx(values[:, 32].argmax(), abs=1)
    assert abs((values[32] > 128).sum() - (values[:, 32] > 128).sum()) <= 1, "the circle stays a circle"
    assert set(np.unique(np.asarray(half(16, 16).resize((64, 64), Image.Resampling.BILINEAR)))) >= {0, 255}


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "LA", "P"])
@pytest.mark.parametrize("size", [(64, 64), (16, 16), (640, 640), (33, 33)])
def test_a_mask_of_any_form_and_size_is_the_same(mode: str, size: tuple[int, int], family: Family) -> None:
    cut = source(noise(64, 64), mask=half(*size, mode=mode)).cut((64, 64), family.stages[0])
    assert cut.mask is not None
    values = np.asarray(cut.mask)
    assert (values[:20] == 255).all()
    assert (values[44:] == 0).all()


def test_white_on_transparent_marks_and_transparent_does_not(family: Family) -> None:
    mask = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
    mask.paste((255, 255, 255, 255), (0, 0, 64, 32))
    mask.paste((255, 255, 255, 128), (0, 32, 64, 40))
    cut = source(noise(64, 64), mask=mask).cut((64, 64), family.stages[0])
    assert np.asarray(cut.mask)[:, 0].tolist() == [255] * 32 + [128] * 8 + [0] * 24


def test_files_are_read_upright_on_white_and_with_eight_bits(tmp_path: Path) -> None:
    image = noise(64, 48)
    exif = Image.Exif()
    exif[274] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(source(tmp_path / "turned.png").image, image.transpose(Image.Transpose.ROTATE_270))
    clear = image.convert("RGBA")
    clear.putalpha(half(64, 48))
    clear.save(tmp_path / "clear.png")
    found = np.asarray(source(tmp_path / "clear.png").image)
    assert np.array_equal(found[:24], np.asarray(image)[:24])
    assert (found[24:] == 255).all()
    deep = np.full((48, 64), 257 * 77, np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert (np.asarray(source(tmp_path / "deep.png").image) == 77).all()
    found = source(tmp_path / "turned.png", mask=half(48, 64))
    assert (found.size, found.image.size) == ((48, 64), (48, 64))


def test_the_settings_say_what_was_redrawn(family: Family) -> None:
    cut = source(noise(640, 640), mask=half(640, 640), strength=0.5).cut((64, 64), family.stages[0])
    facts = dict(cut.facts)
    assert facts.pop("Init image hash")
    assert facts == {"Denoising strength": 0.5, "Init image size": "640x640", "Mask": "50% redrawn (soft edges)"} or (
        facts["Mask"] == "50% redrawn"
    )
    soft = source(noise(64, 64), mask=half().filter(ImageFilter.GaussianBlur(3))).cut((64, 64), family.stages[0])
    assert soft.facts["Mask"] == "50% redrawn (soft edges)"
    assert "Mask" not in source(noise(64, 64)).cut((64, 64), family.stages[0]).facts


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "strength alone": ({"image": None, "strength": 0.5}, "--strength works on an image.*give --image too"),
    "mask alone": ({"image": None, "mask": half()}, "--mask works on an image.*give --image too"),
    "strength 0": ({"strength": 0.0}, "--strength 0 would return the image itself"),
    "strength over 1": ({"strength": 1.5}, "--strength 1.5 is not above 0 and up to 1"),
    "strength nan": ({"strength": float("nan")}, "is not above 0"),
    "strength below 0": ({"strength": -1.0}, "is not above 0"),
    "black mask": ({"mask": Image.new("L", (64, 64))}, "--mask: the image marks nothing .*paint white"),
    "mask of labels": ({"mask": half().point([0] * 255 + [1])}, "its brightest value is 1 of 255"),
    "white mask": ({"mask": Image.new("L", (64, 64), 255)}, "is white everywhere.*leave --mask out"),
    "clear mask": ({"mask": Image.new("RGBA", (64, 64))}, "fully transparent"),
    "other shape": ({"mask": half(64, 80)}, "another shape.*64x80 and 64x64 pixels"),
    "turned shape": ({"image": noise(64, 80), "mask": half(80, 64)}, "another shape"),
    "one pixel": ({"image": noise(1, 1)}, "too small .1x1 pixels."),
    "narrow": ({"image": noise(640, 8)}, "too small"),
    "clear image": ({"image": Image.new("RGBA", (64, 64))}, "--image: the image is fully transparent"),
    "missing": ({"image": "nowhere.png"}, "--image: nowhere.png does not exist"),
    "a folder": ({"image": "."}, "is a folder"),
    "a text": ({"image": __file__}, "is not an image; give a jpg or png"),
    "a nul": ({"image": "a\0b.png"}, "does not exist|NUL"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_refused_in_one_sentence(case: str) -> None:
    options, says = BAD[case]
    with pytest.raises(UserError, match=says) as error:
        read_source_image(**{"image": noise(64, 64), **options})
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")


@pytest.mark.parametrize("option", ["image", "mask"])
def test_every_bad_file_is_refused_in_one_sentence(option: str, tmp_path: Path) -> None:
    """Over a hundred: truncated, bombs, texts named as images, pipes, links, wrong headers."""
    (tmp_path / "bad").mkdir()
    given = {} if option == "image" else {"image": noise(64, 64)}
    refused = 0
    for bad in bad_photo_files(tmp_path / "bad"):
        if mask_paths(bad.path)[0].exists() or (option, bad.why) == ("mask", "too small"):  # a good file
            continue
        with pytest.raises(UserError) as error:
            read_source_image(**{**given, option: bad.path})
        assert str(error.value).startswith(f"--{option}: ")
        assert re.fullmatch(r"[^\n]+\.", str(error.value))
        refused += 1
    assert refused > 80


def test_a_mark_that_a_crop_leaves_out_is_refused(family: Family) -> None:
    mask = Image.new("L", (256, 64))
    mask.paste(255, (0, 0, 16, 16))
    with pytest.raises(UserError, match=r"nothing that the mask .* marks is left at 64x64"):
        source(noise(256, 64), mask=mask).cut((64, 64), family.stages[0])


def test_the_command_redraws_what_a_mask_marks_and_the_python_api_does_the_same(
    world: World, tmp_path: Path, mascot: Command
) -> None:
    noise(64, 64).save(tmp_path / "photo.png")
    half(200, 200).filter(ImageFilter.GaussianBlur(8)).save(tmp_path / "mask.png")
    words = ("generate", world.run.folder, "a {subject}", "--count", 2, "--steps", 4, "--out", tmp_path / "out")
    options = ("--image", tmp_path / "photo.png", "--mask", tmp_path / "mask.png", "--strength", 0.75)
    code, printed, errors = mascot(*words, *options)
    assert (code, errors) == (0, "")
    paths = [Path(line) for line in printed.splitlines()]
    images = [Image.open(path) for path in paths]
    lower = np.asarray(noise(64, 64))[48:]
    assert all(np.array_equal(np.asarray(image)[48:], lower) for image in images)
    assert all(
        np.abs(np.asarray(image).astype(int)[:16] - np.asarray(noise(64, 64))[:16]).max() > 5 for image in images
    )
    text = str(images[0].info["parameters"])
    assert re.search(r"Size: 64x64,.*Denoising strength: 0.75, Init image size: 64x64, Init image hash: \w+", text)
    assert re.search(r"Mask: \d+(\.\d)?% redrawn \(soft edges\)", text)
    api = generate(
        world.run.folder,
        ["a {subject}"],
        Knobs(steps=4),
        count=2,
        image=noise(64, 64),
        mask=Image.open(tmp_path / "mask.png"),
        strength=0.75,
    )
    assert [image.tobytes() for image in api] == [image.convert("RGB").tobytes() for image in images]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--strength", "0.5"), "--strength works on an image"),
        (("--image", "photo.png", "--strength", "0.01"), "takes none of 4 steps"),
        (("--image", "photo.png", "--mask", "photo.txt"), "--mask: photo.txt is a caption; give a jpg or png"),
        (("--image", "photo.png", "--size", "60x64"), "does not divide by 16"),
        (("--image", "cut.png"), "--image: cut.png is"),
    ],
)
def test_the_command_refuses_in_one_sentence_and_writes_nothing(
    options: tuple[str, ...],
    says: str,
    world: World,
    tmp_path: Path,
    mascot: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    noise(64, 64).save(tmp_path / "photo.png")
    (tmp_path / "photo.txt").write_text("a dog", encoding="utf-8")
    (tmp_path / "cut.png").write_bytes((tmp_path / "photo.png").read_bytes()[:999])
    words = ("generate", world.run.folder, "a {subject}", "--count", 1, "--steps", 4, "--out", tmp_path / "out")
    code, printed, errors = mascot(*words, *options)
    assert (code, printed) == (2, "")
    assert re.fullmatch(r"mascot: [^\n]+\.\n", errors), errors
    assert says in errors
    assert not (tmp_path / "out").exists()
    shutil.rmtree(tmp_path, ignore_errors=True)
