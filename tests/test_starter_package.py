"""Laws of the embedded base's package data: what it is made of, what it weighs, what it says of its sources, that it draws."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mascot.starter
from mascot.errors import UserError
from starter_recipe.drawings import read_objects, wanted_icons
from starter_recipe.mascot_photos import PHOTOS, make_photos
from starter_recipe.portraits import Pose, contrast, pose_on
from starter_recipe.steps import WORK
from starter_recipe.tokenizer import POSITIONS
from starter_recipe.world import World

ROOT = Path(__file__).resolve().parent.parent
OBJECTS = read_objects()
DRAWINGS = ROOT / WORK / "drawings.npz"
LIMIT_BYTES = 40_000_000


def pixels(picture: Path) -> np.ndarray:
    """A picture as H x W x 3."""
    with Image.open(picture) as opened:
        return np.asarray(opened.convert("RGB"), np.float64)


def packaged_base() -> Path:
    """The packaged base's folder, or a skip while it has not been exported."""
    try:
        return mascot.starter.folder()
    except UserError as error:
        pytest.skip(f"the base is not in this checkout: {error}")


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for the rendered drawings, which are not kept in the repository: captions do not depend on pixels."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("work") / "drawings.npz"
    made = {f"{art}/{icon}": rng.integers(0, 256, (8, 8, 4), np.uint8) for art in OBJECTS["arts"] for icon in wanted_icons()}
    np.savez(path, **made)  # pyright: ignore[reportArgumentType]
    return path


# What training may show


def test_no_held_out_drawing_is_in_training() -> None:
    """A subject of the evaluation is in no scene, in no art."""
    assert not wanted_icons() & {subject["icon"] for subject in OBJECTS["held_out"].values()}


def test_rendered_drawings_are_the_wanted_ones() -> None:
    """The drawings that training reads hold nothing else."""
    if not DRAWINGS.exists():
        pytest.skip(f"{DRAWINGS} is not in this checkout: `python -m starter_recipe collect` makes it")
    with np.load(DRAWINGS) as archive:
        assert {key.split("/")[1] for key in archive.files} == wanted_icons()


def test_a_seed_decides_scenes(drawings: Path) -> None:
    """The same seed composes the same scenes, another seed others, whatever was composed before."""
    used = World(drawings, side=16)
    list(islice(used.stream([5]), 50))
    first, again = (list(islice(world.stream([4]), 30)) for world in (World(drawings, side=16), used))
    assert [(picture.tobytes(), caption) for picture, caption in first] == [(picture.tobytes(), caption) for picture, caption in again]
    assert [caption for _, caption in first] != [caption for _, caption in islice(used.stream([5]), 30)]


def test_captions_fit_the_tokenizer(drawings: Path) -> None:
    """No caption of 2,000 scenes is cut: training hears every word."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(packaged_base() / "tokenizer")
    captions = [caption for _, caption in islice(World(drawings, side=16).stream([6]), 2000)]
    lengths = {caption: len(ids) for caption, ids in zip(captions, tokenizer(captions).input_ids, strict=True)}
    assert tokenizer.model_max_length == POSITIONS
    assert {caption for caption, length in lengths.items() if length > POSITIONS} == set()


# The held-out subjects and the mascot


def test_subjects_are_those_of_the_recipe() -> None:
    """Names, class nouns and licences on disk are the recipe's."""
    table = tomllib.loads((ROOT / "src/mascot/starter/subjects/subjects.toml").read_text())
    found = {
        name: (entry["class_noun"], entry["package"], entry["icon"], entry["licence"], entry["author"]) for name, entry in table.items()
    }
    packages = {f"@iconify-json/{art}": OBJECTS["packages"][f"@iconify-json/{art}"] for art in OBJECTS["arts"]}
    assert found == {
        name: (s["noun"], package := f"@iconify-json/{s['art']}", s["icon"], packages[package]["licence"], packages[package]["author"])
        for name, s in OBJECTS["held_out"].items()
    }
    assert {name: held.class_noun for name, held in mascot.starter.subjects().items()} == {name: row[0] for name, row in found.items()}


def test_there_are_enough_subjects() -> None:
    """A comparison over subjects needs a dozen; their classes are nouns that the base knows."""
    subjects = mascot.starter.subjects()
    assert len(subjects) >= 12
    assert {held.class_noun for held in subjects.values()} <= set(OBJECTS["nouns"])


@pytest.mark.parametrize("name", OBJECTS["held_out"])
def test_each_subject_has_different_photos(name: str) -> None:
    """Five or six photos, 128 px, whose backdrops differ at their corners."""
    photos = [pixels(photo) for photo in mascot.starter.subjects()[name].photos]
    assert 5 <= len(photos) <= 6
    assert {photo.shape for photo in photos} == {(128, 128, 3)}
    corners = {tuple(np.concatenate([photo[0, 0], photo[-1, -1]])) for photo in photos}
    assert len(corners) == len(photos)


def test_mascot_photos_are_of_the_drawing(tmp_path: Path) -> None:
    """The photos in `examples/mascot` are what the step makes of `mascot.svg`, within what a renderer's version may change."""
    kept = ROOT / "examples" / "mascot"
    (tmp_path / "mascot.svg").write_bytes((kept / "mascot.svg").read_bytes())
    make_photos(tmp_path)
    names = [f"{n}.png" for n in range(1, len(PHOTOS) + 1)]
    assert sorted(p.name for p in (kept / "photos").iterdir()) == names
    for name in names:
        made = pixels(tmp_path / "photos" / name)
        assert made.shape == (256, 256, 3)
        assert np.abs(made - pixels(kept / "photos" / name)).mean() < 0.5


def test_contrast_measures_the_rim() -> None:
    """A red square has no contrast on red and the whole of a channel on black."""
    layer = pose_on(Image.new("RGBA", (40, 40), (255, 0, 0, 255)), 32, Pose(size=0.5))
    assert contrast(layer, Image.new("RGB", (32, 32), (255, 0, 0))) == 0
    assert contrast(layer, Image.new("RGB", (32, 32))) == 255


# What is packaged


def test_the_loader_is_light() -> None:
    """Asking where the base is imports no torch."""
    command = "import mascot.starter, sys; sys.exit(bool({'torch', 'diffusers', 'numpy', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", command], check=False, cwd=ROOT / "src").returncode == 0


@pytest.mark.parametrize("ask", [mascot.starter.folder, mascot.starter.subjects])
def test_missing_data_is_said(ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the data says what to do."""
    monkeypatch.setattr(mascot.starter, "package_data", lambda name: tmp_path / name)
    with pytest.raises(UserError, match="reinstall mascot"):
        ask()


def test_package_data_is_light() -> None:
    """The starter weighs less than 40 MB, or the wheel gets too large."""
    assert sum(file.stat().st_size for file in (ROOT / "src/mascot/starter").rglob("*") if file.is_file()) < LIMIT_BYTES


@pytest.mark.parametrize("package", OBJECTS["packages"])
def test_the_notice_names_every_source(package: str) -> None:
    """NOTICE has a section for each package, with version, title, author and licence; CC-BY asks for attribution and changes."""
    facts = OBJECTS["packages"][package]
    sections = [section for section in (ROOT / "NOTICE").read_text().split("\n\n\n") if f"{package} {facts['version']}\n" in section]
    assert len(sections) == 1
    for fact in (facts["title"], facts["author"], facts["licence"], "Source     https://"):
        assert fact in sections[0]
    if facts["licence"].startswith("CC-BY"):
        assert "Attribution:" in sections[0]
        assert "changed" in sections[0]
        assert "https://creativecommons.org/licenses/by/4.0/" in sections[0]


def test_the_notice_names_every_subject() -> None:
    """Each held-out subject stands in the section of the package that it was drawn from."""
    sections = (ROOT / "NOTICE").read_text().split("\n\n\n")
    for name, subject in OBJECTS["held_out"].items():
        assert [name in section for section in sections].count(True) == 1
        assert any(name in section and f"@iconify-json/{subject['art']} " in section for section in sections)


# The base


def test_the_packaged_base_draws() -> None:
    """The packaged folder is a Stable Diffusion pipeline that loads offline and draws finite pictures that obey seeds."""
    base = packaged_base()
    import torch
    from diffusers import StableDiffusionPipeline

    pipeline: Any = StableDiffusionPipeline.from_pretrained(base, local_files_only=True, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    drawn = pipeline(["a photo of an owl in the snow"] * 2, num_inference_steps=4, generator=generators, output_type="np").images
    assert drawn.shape == (2, 64, 64, 3)
    assert np.isfinite(drawn).all()
    assert np.abs(drawn[0] - drawn[1]).mean() > 0.01


def read_tiny(base: Path) -> Any:
    """The tiny base as a pipeline that remembers where it was read from."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(base, local_files_only=True)


def test_an_export_is_light_anonymous_and_whole(tiny_base: Path, tmp_path: Path) -> None:
    """An export holds half-precision weights, says nowhere where it was made, and anybody may read it."""
    from safetensors.numpy import load_file

    from starter_recipe.export import write_base

    export = write_base(read_tiny(tiny_base), tmp_path / "base")
    files = [file for file in export.folder.rglob("*") if file.is_file()]
    weights = [tensor for file in files if file.suffix == ".safetensors" for tensor in load_file(file).values()]
    assert {str(tensor.dtype) for tensor in weights} == {"float16"}
    assert sum(tensor.size for tensor in weights) == sum(export.parameters.values())
    assert not [file.name for file in files if file.suffix in {".json", ".md"} and str(tiny_base.parent) in file.read_text()]
    assert not [
        file.name for file in files if file.suffix == ".json" and {"_name_or_path", "name_or_path"} & set(json.loads(file.read_text()))
    ]
    assert {file.stat().st_mode & 0o444 for file in files} == {0o444}
    assert [file.name for file in tmp_path.iterdir()] == ["base"]


def test_a_heavy_export_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    """Above the limit nothing is written, and what was there stays."""
    from starter_recipe.export import write_base

    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "before").touch()
    with pytest.raises(UserError, match="narrower"):
        write_base(read_tiny(tiny_base), tmp_path / "base", limit_mb=0.01)
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["base", "base/before"]


def test_a_wrong_export_is_noticed(tiny_base: Path) -> None:
    """A folder that draws something else than the pipeline in memory is refused."""
    from starter_recipe.export import draw, verify

    pipeline = read_tiny(tiny_base)
    verify(tiny_base, draw(pipeline))
    pipeline.unet.conv_out.weight.data.mul_(1.5)
    with pytest.raises(RuntimeError, match="other pictures"):
        verify(tiny_base, draw(pipeline))


def test_an_untrained_work_folder_is_said(tmp_path: Path) -> None:
    """Exporting before training says which step to run."""
    from starter_recipe.export import export_base

    with pytest.raises(UserError, match="starter_recipe tokenizer"):
        export_base(tmp_path, tmp_path / "base")
