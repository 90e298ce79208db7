"""Laws of the metrics that read images: diversity, and the subject without its background."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from mascot.evaluation.metrics import diversity, foreground
from mascot.evaluation.metrics.diversity import Lpips, PatchDistance, diversity_over, measure_diversity, open_distance
from mascot.evaluation.metrics.foreground import (
    Cutouts,
    CutoutScore,
    NoSegmenter,
    cut_all,
    cut_out,
    cutout_similarity,
    open_segmenter,
)
from mascot.evaluation.metrics.image_encoders import IdentityEncoder
from mascot.evaluation.metrics.image_preprocessing import Preprocessing

MEAN = (0.485, 0.456, 0.406)
CROPPED = Preprocessing(resize=32, crop=28, mean=MEAN, std=(0.229, 0.224, 0.225))
WHOLE = Preprocessing(resize=32, crop=32, mean=(0.5,) * 3, std=(0.5,) * 3)
NOTHING = NoSegmenter("no segmenter is installed")
FakePackage = Callable[[str, str], None]

LPIPS = """
import warnings
import torch

class LPIPS(torch.nn.Module):
    def __init__(self, net, verbose):
        super().__init__()
        warnings.warn("The parameter 'pretrained' is deprecated", UserWarning)
        assert net == "alex" and not verbose

    def forward(self, one, other):
        assert not self.training and one.shape == other.shape == (1, 3, 8, 10)
        assert torch.cat([one, other]).aminmax() == (-1, 1)
        return (one - other).abs().mean().view(1, 1, 1, 1)
"""
REMBG = """
from PIL import Image

def new_session(name):
    assert name == "u2net"
    return name

def remove(image, session, only_mask):
    assert session == "u2net" and only_mask and image.mode == "RGB"
    return image.convert("L").point(lambda value: 255 * (value < 250))
"""


class Cells(nn.Module):
    """A vision transformer's shape: a class token, then the 16 patches' mean colors."""

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        cells = nn.functional.avg_pool2d(pixel_values, pixel_values.shape[-1] // 4).flatten(2).transpose(1, 2)
        return SimpleNamespace(last_hidden_state=torch.cat([torch.full_like(cells[:, :1], 9), cells], dim=1))


ENCODER = IdentityEncoder(
    name="cells", fingerprint="0", preprocessing=WHOLE, model=Cells(), device=torch.device("cpu"), leading=1
)


@pytest.fixture
def fake_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePackage]:
    """Install a package of one file, at version 9.9, for one test."""
    made: list[str] = []

    def install(name: str, code: str) -> None:
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
        (tmp_path / f"{name}-9.9.dist-info").mkdir()
        (tmp_path / f"{name}-9.9.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n", encoding="utf-8"
        )
        monkeypatch.syspath_prepend(tmp_path)
        made.append(name)

    yield install
    for name in made:
        sys.modules.pop(name, None)


def noise(seed: int, width: int = 10, height: int = 8) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    values[0, :2] = [[0] * 3, [255] * 3]
    return Image.fromarray(values)


def blob(
    *, mask: bool, size: tuple[int, int] = (40, 30), box: tuple[int, int, int, int] = (6, 4, 25, 19)
) -> Image.Image:
    """A red shape on white, or its mask."""
    image = Image.new("L" if mask else "RGB", size, 0 if mask else "white")
    ImageDraw.Draw(image).ellipse(box, fill=255 if mask else (200, 30, 30))
    return image


def on(
    background: Image.Image, subject: Image.Image, mask: Image.Image, corner: tuple[int, int] = (0, 0)
) -> tuple[Image.Image, Image.Image]:
    """The subject moved onto another background, and its mask."""
    image, moved_mask = background.copy(), Image.new("L", background.size)
    image.paste(subject, corner, mask)
    moved_mask.paste(mask, corner)
    return image, moved_mask


def test_diversity_compares_images_of_one_prompt_only() -> None:
    distance = PatchDistance(encoder=ENCODER)
    prompts = [[noise(0), noise(1), noise(2)], [noise(3)], [noise(4), noise(4)], []]
    found = measure_diversity(prompts, distance)
    pairs = [distance.between([one, other])[0] for one, other in itertools.combinations(prompts[0], 2)]
    assert found.prompts == (pytest.approx(sum(pairs) / 3, abs=1e-6), None, pytest.approx(0, abs=1e-6), None)
    assert found.value == pytest.approx(sum(pairs) / 6, abs=1e-6)
    assert found.distance == f"1 - mean cosine of patches of {ENCODER.describe()}"


def test_without_two_images_of_a_prompt_there_is_no_diversity() -> None:
    found = measure_diversity([[noise(0)], [noise(1)], []], PatchDistance(encoder=ENCODER))
    assert (found.value, found.prompts) == (None, (None, None, None))


def test_lpips_measures_where_it_is_installed(fake_package: FakePackage) -> None:
    fake_package("lpips", LPIPS)
    distance = open_distance(ENCODER)
    assert isinstance(distance, Lpips)
    assert distance.name == "LPIPS (alex, lpips 9.9)"
    images = [noise(0), noise(1), noise(2)]
    values = [np.asarray(image, np.float64) / 127.5 - 1 for image in images]
    expected = [np.abs(one - other).mean() for one, other in itertools.combinations(values, 2)]
    assert distance.between(images) == pytest.approx(expected, abs=1e-6)
    assert distance.between(images[:1]) == []
    found = measure_diversity([images, images[:2]], distance)
    assert (found.value, found.distance) == (
        pytest.approx(diversity_over([expected, expected[:1]]), abs=1e-6),
        distance.name,
    )
    with pytest.raises(ValueError, match="one size"):
        distance.between([noise(0), noise(1, width=9)])


def test_without_lpips_the_stand_in_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diversity, "find_spec", dict[str, object]().get)
    assert open_distance(ENCODER).name.startswith("1 - mean cosine of patches of cells")
    assert open_distance(ENCODER).name.endswith("; in place of LPIPS: the lpips package is not installed")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "raise RuntimeError('operator torchvision::nms does not exist\\nand more')",
            "(operator torchvision::nms does not exist)",
        ),
        ("raise ImportError", "(ImportError)"),
        ("def LPIPS(**_): raise OSError('no network')", "(no network)"),
    ],
)
def test_an_lpips_that_does_not_load_is_named(fake_package: FakePackage, code: str, reason: str) -> None:
    fake_package("lpips", code)
    assert open_distance(ENCODER).name.endswith(f"; in place of LPIPS: the lpips package cannot be loaded {reason}")


def test_a_cut_out_does_not_depend_on_its_background() -> None:
    subject, mask = blob(mask=False), blob(mask=True)
    first = cut_out(subject, mask, CROPPED)
    assert first is not None
    for seed, corner in ((0, (0, 0)), (1, (17, 9)), (2, (-5, -3))):
        image, moved_mask = on(noise(seed, 90, 60), subject, mask, corner)
        assert cut_out(image, moved_mask, CROPPED) == first
    hidden = subject.copy()
    hidden.putalpha(mask)  # transparency shows white, which is outside the mask
    assert cut_out(hidden, mask, CROPPED) == first


def test_a_cut_out_fits_into_the_encoder_s_crop() -> None:
    cut = cut_out(blob(mask=False), blob(mask=True), CROPPED)
    assert cut is not None
    assert cut.size == (23, 23)  # the ellipse is 20 wide: 20 * 32 / 28, rounded up
    red_HW = (np.asarray(cut) == (200, 30, 30)).all(axis=2)
    down, right = np.nonzero(red_HW)
    assert (right.min(), right.max(), down.min(), down.max()) == (1, 20, 3, 18)
    assert red_HW.sum() == (np.asarray(blob(mask=True)) == 255).sum()


@pytest.mark.parametrize("preprocessing", [CROPPED, WHOLE])
def test_an_empty_background_is_zero_to_the_encoder(preprocessing: Preprocessing) -> None:
    cut = cut_out(blob(mask=False, box=(3, 12, 33, 16)), blob(mask=True, box=(3, 12, 33, 16)), preprocessing)
    assert cut is not None
    pixels_CHW = preprocessing.prepare(cut)
    limit = 0.5 / 255 / min(preprocessing.std) + 1e-6
    assert pixels_CHW[:, :4].abs().max() <= limit
    assert pixels_CHW[:, -4:].abs().max() <= limit
    assert pixels_CHW.abs().max() > 0.5


def test_half_a_pixel_of_subject_is_subject() -> None:
    image, faint, clear = Image.new("RGB", (8, 8), "red"), Image.new("L", (8, 8), 127), Image.new("L", (8, 8), 128)
    assert cut_out(image, faint, WHOLE) is None
    assert cut_out(image, clear, WHOLE) == image


def test_a_mask_of_another_image_is_refused() -> None:
    with pytest.raises(ValueError, match="40x30"):
        cut_out(noise(0), blob(mask=True), WHOLE)


def test_cut_outs_of_one_subject_are_alike_on_any_background() -> None:
    subject, mask = blob(mask=False), blob(mask=True)
    pairs = [on(noise(seed, 60, 60), subject, mask, (seed, 2 * seed)) for seed in range(4)]
    cut = cut_all([p for p, _ in pairs], [m for _, m in pairs], segmenter=NOTHING, preprocessing=WHOLE)
    assert (len(cut.images), cut.note) == (4, "")
    score = cutout_similarity(cut, cut, flat)
    assert (score.value, score.note) == (pytest.approx(1, abs=1e-6), "")


def test_an_image_without_a_mask_is_left_out_and_noted() -> None:
    images = [blob(mask=False)] * 3
    photos = cut_all(images, [blob(mask=True), None, Image.new("L", (40, 30))], segmenter=NOTHING, preprocessing=WHOLE)
    assert len(photos.images) == 1
    assert (
        photos.note
        == "1 of 3 have no mask (no segmenter is installed); 1 of 3 left out, as nothing is marked in their masks"
    )
    generated = cut_all(images, [None] * 3, segmenter=NOTHING, preprocessing=WHOLE)
    assert generated == Cutouts(images=(), note="3 of 3 have no mask (no segmenter is installed)")
    score = cutout_similarity(generated, photos, flat)
    assert score == CutoutScore(value=None, note=f"images: {generated.note}; photos: {photos.note}")
    assert cutout_similarity(photos, Cutouts(images=()), flat).note == f"images: {photos.note}; photos: there are none"


def test_masks_and_images_come_in_pairs() -> None:
    with pytest.raises(ValueError, match="zip"):
        cut_all([noise(0)], [], segmenter=NOTHING, preprocessing=WHOLE)


def test_a_segmenter_makes_the_masks_that_are_missing(fake_package: FakePackage) -> None:
    fake_package("rembg", REMBG)
    segmenter = open_segmenter()
    assert not isinstance(segmenter, NoSegmenter)
    assert segmenter.name == "rembg (u2net)"
    white = Image.new("RGB", (40, 30), "white")
    cut = cut_all(
        [blob(mask=False), blob(mask=False), white],
        [blob(mask=True), None, None],
        segmenter=segmenter,
        preprocessing=WHOLE,
    )
    assert cut.images == (cut_out(blob(mask=False), blob(mask=True), WHOLE),) * 2
    assert cut.note == "1 of 3 left out, as nothing is marked in their masks; 2 of 3 masks by rembg (u2net)"
    score = cutout_similarity(cut, cut, flat)
    assert (score.value, score.note) == (pytest.approx(1, abs=1e-6), f"images: {cut.note}; photos: {cut.note}")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise SystemExit(1)", "rembg is installed without onnxruntime; `pip install rembg[cpu]` adds it"),
        ("import a_part_of_it", "rembg cannot be loaded (No module named 'a_part_of_it')"),
        ("def new_session(name): raise OSError('no network')", "rembg cannot be loaded (no network)"),
    ],
)
def test_a_segmenter_that_does_not_load_is_named(fake_package: FakePackage, code: str, reason: str) -> None:
    fake_package("rembg", code)
    assert open_segmenter() == NoSegmenter(reason)


def test_without_a_segmenter_the_reason_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreground, "find_spec", dict[str, object]().get)
    assert open_segmenter() == NoSegmenter("no segmenter is installed; `pip install rembg[cpu]` gives one")


def flat(images: Sequence[Image.Image]) -> Tensor:
    """Embed images by their pixels."""
    return torch.stack([WHOLE.prepare(image).flatten() for image in images])
