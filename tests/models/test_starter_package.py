"""Laws of the embedded base's package data: parts, size, sources, and that it generates."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mascot.models.starter
from mascot.errors import UserError
from starter_training.cli import WORK
from starter_training.drawings.objects import held_out_icons, read_catalogue, read_objects, wanted_icons
from starter_training.models.tokenizer import POSITIONS
from starter_training.scenes.caption_words import ALIVE
from starter_training.scenes.mascot_photos import PHOTOS, make_photos
from starter_training.scenes.scene_grammar import stream
from starter_training.scenes.subject_photos import Pose, contrast, pose_on
from starter_training.scenes.world import World

ROOT = Path(__file__).resolve().parents[2]
OBJECTS = read_objects()
DRAWINGS = ROOT / WORK / "drawings.npz"
STARTER = ROOT / "src/mascot/models/starter"


def pixels(image: Path) -> np.ndarray:
    """A image as H x W x 3."""
    with Image.open(image) as opened:
        return np.asarray(opened.convert("RGB"), np.float64)


def packaged(ask: Callable[[], Path]) -> Path:
    """A packaged folder by its function, or a skip while it has not been exported."""
    try:
        return ask()
    except UserError as error:
        pytest.skip(f"not in this checkout: {error}")


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for the rendered drawings, which are not in the repository.

    Captions do not depend on pixels.
    """
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("work") / "drawings.npz"
    made = {
        f"{art}/{icon}": rng.integers(0, 256, (8, 8, 4), np.uint8) for art in OBJECTS["arts"] for icon in wanted_icons()
    }
    np.savez(path, **made)  # pyright: ignore[reportArgumentType]
    return path


# What training may use


def test_no_held_out_drawing_is_in_training() -> None:
    """A subject of the evaluation is in no scene, in no art style."""
    assert len(held_out_icons()) == len(OBJECTS["held_out"])
    assert not wanted_icons() & held_out_icons()


def test_accessories_have_words_and_a_position() -> None:
    """Each has words that begin with an article, and a known position on its wearer."""
    assert OBJECTS["accessories"]
    for facts in OBJECTS["accessories"].values():
        assert set(facts) == {"words", "on"}
        assert facts["words"].split()[0] in {"a", "an"}
        assert facts["on"] in {"head", "neck", "side"}


def write_catalogue(modules: Path, *labels: tuple[str, int]) -> Path:
    """A stand-in for emojibase's package: labels and their groups."""
    table = modules / "emojibase-data" / "en" / "data.json"
    table.parent.mkdir(parents=True)
    table.write_text(
        json.dumps([{"label": label, "group": group} for label, group in labels] + [{"label": "regional indicator A"}])
    )
    return modules


def test_the_catalogue_is_of_things_that_nobody_holds_out(tmp_path: Path) -> None:
    """Faces and people, dials, symbols and held-out subjects are left out.

    Icons have the names that the drawings' packages give them.
    """
    held_out = sorted(held_out_icons())
    labels = [(icon.replace("-", " "), 3) for icon in held_out]
    labels += [("grinning face", 0), ("woman", 1), ("three o\u2019clock", 5), ("ten-thirty", 5), ("red heart", 8)]
    modules = write_catalogue(tmp_path, *labels, ("Guide dog", 3), ("running shoe", 7), ("T-shirt", 7))
    assert read_catalogue(modules) == {"guide-dog": "guide dog", "running-shoe": "running shoe", "t-shirt": "t-shirt"}


def test_rendered_drawings_are_the_wanted_ones() -> None:
    """The drawings that training reads are the base's and the catalogue's; none is held out."""
    if not DRAWINGS.exists():
        pytest.skip(f"{DRAWINGS} is not in this checkout: `python -m starter_training collect` makes it")
    with np.load(DRAWINGS) as archive:
        rendered = {key.split("/")[1] for key in archive.files}
    assert wanted_icons() <= rendered <= wanted_icons() | set(read_catalogue(DRAWINGS.parent / "npm" / "node_modules"))


@pytest.mark.parametrize("part", ["base", "clip"])
def test_captions_fit_the_tokenizer(drawings: Path, part: str) -> None:
    """No caption of 1,000 scenes is truncated: training reads every word."""
    from transformers import CLIPTokenizer

    asked = {"base": lambda: mascot.models.starter.folder() / "tokenizer", "clip": mascot.models.starter.clip_folder}
    tokenizer = CLIPTokenizer.from_pretrained(packaged(asked[part]))
    captions = [caption for _, caption in islice(stream(World(drawings, side=8), [6]), 1000)]
    lengths = {caption: len(ids) for caption, ids in zip(captions, tokenizer(captions).input_ids, strict=True)}
    assert tokenizer.model_max_length == POSITIONS
    assert {caption for caption, length in lengths.items() if length > POSITIONS} == set()


# The held-out subjects and the mascot


def test_subjects_are_those_of_the_recipe() -> None:
    """Names, class nouns, who is alive and licences on disk are the recipe's."""
    table = tomllib.loads((STARTER / "subjects" / "subjects.toml").read_text(encoding="utf-8"))
    found = {
        name: (entry["class_noun"], entry["live"], entry["package"], entry["icon"], entry["licence"], entry["author"])
        for name, entry in table.items()
    }
    packages = {f"@iconify-json/{art}": OBJECTS["packages"][f"@iconify-json/{art}"] for art in OBJECTS["arts"]}
    assert found == {
        name: (
            s["noun"],
            s["noun"] in ALIVE,
            package := f"@iconify-json/{s['art']}",
            s["icon"],
            packages[package]["licence"],
            packages[package]["author"],
        )
        for name, s in OBJECTS["held_out"].items()
    }
    loaded = mascot.models.starter.subjects()
    assert {name: (held.class_noun, held.live) for name, held in loaded.items()} == {
        name: row[:2] for name, row in found.items()
    }


def test_there_are_enough_subjects() -> None:
    """A comparison over subjects needs a dozen, things and live ones, with nouns of the base."""
    subjects = mascot.models.starter.subjects()
    assert len(subjects) >= 12
    assert 4 <= sum(held.live for held in subjects.values()) <= len(subjects) - 4
    assert {held.class_noun for held in subjects.values()} <= set(OBJECTS["nouns"])


@pytest.mark.parametrize("name", OBJECTS["held_out"])
def test_each_subject_has_different_photos(name: str) -> None:
    """Five or six photos, 128 px, whose backdrops differ at their corners."""
    photos = [pixels(photo) for photo in mascot.models.starter.subjects()[name].photos]
    assert 5 <= len(photos) <= 6
    assert {photo.shape for photo in photos} == {(128, 128, 3)}
    corners = {tuple(np.concatenate([photo[0, 0], photo[-1, -1]])) for photo in photos}
    assert len(corners) == len(photos)


def test_mascot_photos_are_of_the_drawing(tmp_path: Path) -> None:
    """The photos in `examples/mascot` are what the step makes of `mascot.svg`.

    Another version of the renderer may change them a little.
    """
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
    command = (
        "import mascot.models.starter, sys; sys.exit(bool({'torch', 'diffusers', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", command], check=False, cwd=ROOT / "src").returncode == 0


@pytest.mark.parametrize(
    "ask",
    [
        mascot.models.starter.folder,
        mascot.models.starter.subjects,
        mascot.models.starter.clip_folder,
        mascot.models.starter.identity_folder,
    ],
)
def test_missing_data_is_reported(ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of an installation without the data says what to do."""
    monkeypatch.setattr(mascot.models.starter, "package_data", lambda name: tmp_path / name)
    with pytest.raises(UserError, match="reinstall mascot"):
        ask()


@pytest.mark.parametrize(
    ("ask", "step"), [(mascot.models.starter.folder, "export"), (mascot.models.starter.clip_folder, "encoders")]
)
def test_an_incomplete_folder_is_reported(
    ask: Callable[[], Path], step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of a checkout without weights names the missing file and the step to run."""
    monkeypatch.setattr(mascot.models.starter, "package_data", lambda name: tmp_path / name)
    for name in ("base/model_index.json", "clip/config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(
        UserError, match=rf"(scheduler_config.json|model.safetensors) is missing .*starter_training {step}`"
    ):
        ask()


def test_the_base_lists_the_nouns_it_was_trained_on() -> None:
    packaged(mascot.models.starter.folder)
    assert mascot.models.starter.nouns() == tuple(sorted(OBJECTS["nouns"]))


def test_package_data_is_light() -> None:
    """Each part is within its limit, and all are within 70 MB: the wheel must stay small."""
    from starter_training.export import export_base, export_encoders
    from starter_training.export.package_folder import megabytes_of

    megabytes = {folder.name: megabytes_of(folder) for folder in STARTER.iterdir() if folder.is_dir()}
    assert megabytes.get("base", 0) <= export_base.LIMIT_MB
    assert megabytes.get("clip", 0) + megabytes.get("identity", 0) <= export_encoders.LIMIT_MB
    assert megabytes["subjects"] <= 5
    assert sum(megabytes.values()) <= 70


@pytest.mark.parametrize("package", OBJECTS["packages"])
def test_the_notice_names_every_source(package: str) -> None:
    """NOTICE has a section for each package, with version, title, author and licence.

    CC-BY asks for attribution and changes.
    """
    facts = OBJECTS["packages"][package]
    sections = [
        section
        for section in (ROOT / "NOTICE").read_text().split("\n\n\n")
        if f"{package} {facts['version']}\n" in section
    ]
    assert len(sections) == 1
    for fact in (facts["title"], facts["author"], facts["licence"], "Source     https://"):
        assert fact in sections[0]
    if facts["licence"].startswith("CC-BY"):
        assert "Attribution:" in sections[0]
        assert "changed" in sections[0]
        assert "https://creativecommons.org/licenses/by/4.0/" in sections[0]


def test_the_notice_names_every_subject() -> None:
    """Each held-out subject is named in the section of the package that its drawing comes from."""
    sections = (ROOT / "NOTICE").read_text().split("\n\n\n")
    for name, subject in OBJECTS["held_out"].items():
        assert [name in section for section in sections].count(True) == 1
        assert any(name in section and f"@iconify-json/{subject['art']} " in section for section in sections)


# The base


def test_the_packaged_base_generates() -> None:
    """The folder is a Stable Diffusion pipeline that loads offline and obeys seeds."""
    base = packaged(mascot.models.starter.folder)
    import torch
    from diffusers import StableDiffusionPipeline

    pipeline: Any = StableDiffusionPipeline.from_pretrained(base, local_files_only=True, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    generated = pipeline(
        ["a photo of an owl in the snow"] * 2, num_inference_steps=4, generator=generators, output_type="np"
    ).images
    assert generated.shape == (2, 128, 128, 3)
    assert np.isfinite(generated).all()
    assert np.abs(generated[0] - generated[1]).mean() > 0.01


@pytest.fixture
def photos() -> list[Image.Image]:
    """The first two photos of each of three subjects."""
    return [
        Image.open(photo).convert("RGB")
        for name in ("poodle", "taxi", "parrot")
        for photo in mascot.models.starter.subjects()[name].photos[:2]
    ]


def test_the_packaged_identity_encoder_tells_subjects_apart(photos: list[Image.Image]) -> None:
    """It loads offline and embeds photos as 192 values; photos of one subject are more alike."""
    from mascot.evaluation.metrics.image_encoders import read_identity_encoder

    embeddings = read_identity_encoder(packaged(mascot.models.starter.identity_folder)).embed(photos)
    assert embeddings.shape == (6, 192)
    likeness = embeddings @ embeddings.T
    same = likeness[range(0, 6, 2), range(1, 6, 2)].mean()
    assert same > (likeness.sum() - likeness.trace() - 6 * same) / 24


def test_the_packaged_clip_tells_classes_apart(photos: list[Image.Image]) -> None:
    """It loads offline and embeds in 128 values; a class fits its photos better than others."""
    from mascot.evaluation.metrics.image_encoders import read_clip

    clip = read_clip(packaged(mascot.models.starter.clip_folder))
    fit = clip.embed(photos) @ clip.embed_prompts(["a photo of a dog", "a photo of a car", "a photo of a bird"]).T
    assert clip.truncated(["a photo of a dog"]) == []
    assert clip.embed(photos[:1]).shape == (1, 128)
    right = fit[range(6), [0, 0, 1, 1, 2, 2]].mean()
    assert right > (fit.sum() - 6 * right) / 12


def read_tiny(base: Path) -> Any:
    """The tiny base as a pipeline that remembers where it was read from."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(base, local_files_only=True)


def test_an_export_is_light_anonymous_and_whole(tiny_base: Path, tmp_path: Path) -> None:
    """An export has half-precision weights, names no local path, and anybody can read it."""
    from safetensors.numpy import load_file

    from starter_training.export.export_base import write_base

    export = write_base(read_tiny(tiny_base), tmp_path / "base")
    files = [file for file in export.folder.rglob("*") if file.is_file()]
    weights = [tensor for file in files if file.suffix == ".safetensors" for tensor in load_file(file).values()]
    assert {str(tensor.dtype) for tensor in weights} == {"float16"}
    assert sum(tensor.size for tensor in weights) == sum(export.parameters.values())
    assert not [
        file.name for file in files if file.suffix in {".json", ".md"} and str(tiny_base.parent) in file.read_text()
    ]
    assert not [
        file.name
        for file in files
        if file.suffix == ".json" and {"_name_or_path", "name_or_path"} & set(json.loads(file.read_text()))
    ]
    assert {file.stat().st_mode & 0o444 for file in files} == {0o444}
    assert (export.folder / "nouns.txt").read_text(encoding="utf-8").splitlines() == sorted(OBJECTS["nouns"])
    assert [file.name for file in tmp_path.iterdir()] == ["base"]


def test_a_heavy_export_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    """Above the limit nothing is written, and what was there stays."""
    from starter_training.export.export_base import write_base

    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "before").touch()
    with pytest.raises(UserError, match="narrower"):
        write_base(read_tiny(tiny_base), tmp_path / "base", limit_mb=0.01)
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["base", "base/before"]


def test_a_wrong_export_is_noticed(tiny_base: Path) -> None:
    """A folder that generates other images than the pipeline in memory is refused."""
    from starter_training.export.export_base import generate_samples, verify

    pipeline = read_tiny(tiny_base)
    verify(tiny_base, generate_samples(pipeline))
    pipeline.unet.conv_out.weight.data.mul_(1.5)
    with pytest.raises(RuntimeError, match="other images"):
        verify(tiny_base, generate_samples(pipeline))


def test_an_untrained_work_folder_is_refused(tmp_path: Path) -> None:
    """The error of exporting before training names the step to run."""
    from starter_training.export.export_base import export_base

    with pytest.raises(UserError, match="starter_training tokenizer"):
        export_base(tmp_path, tmp_path / "base")
